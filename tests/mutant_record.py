"""What a run of `make mutants` found: the record, and the explanations of what survived."""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
RECORD, EXPLAINED = HERE / "mutants.json", HERE / "mutants_explained.toml"
LEAST_KILLED = 0.9


def explanations(files: Iterable[str] | None = None) -> dict[tuple[str, str, str], str]:
    """(file, the lines, the mutant's lines) -> why no quick test can tell the two apart."""
    entries = tomllib.loads(EXPLAINED.read_text())["mutant"]
    chosen = [entry for entry in entries if files is None or entry["file"] in files]
    return {(e["file"], e["before"].strip(), after.strip()): e["why"] for e in chosen for after in e["after"]}


def key(found: dict) -> tuple[str, str, str]:
    return found["file"], found["before"], found["after"]


def killed(rows: list[dict]) -> float:
    """The share of those that were tried."""
    total = Counter(found["outcome"] for found in rows)
    return total["killed"] / (total["killed"] + total["survived"])


def report(rows: list[dict]) -> str | None:
    """Print it; the sentence that is handed back says what is wrong."""
    why = explanations()
    survivors = [found for found in rows if found["outcome"] == "survived"]
    for found in survivors:
        print(f"\n{found['file']}:{found['line']}\n- {found['before']}\n+ {found['after']}")
        print(f"  {why.get(key(found), 'NOT EXPLAINED')}")
    print()
    for file in dict.fromkeys(found["file"] for found in rows):
        count = Counter(found["outcome"] for found in rows if found["file"] == file)
        print(f"{file:22} {count['killed']:4} killed {count['survived']:4} survived {count['excluded']:4} excluded")
    print(f"{killed(rows):.1%} are killed")
    bare = sum(key(found) not in why for found in survivors)
    if bare:
        return f"{bare} survivors are not explained in {EXPLAINED.name}"
    return None if killed(rows) > LEAST_KILLED else f"more than {LEAST_KILLED:.0%} must be killed"


def write(path: Path, rows: list[dict], of: int, seed: int, sources: dict[str, str]) -> None:
    from adapterlab.provenance import provenance  # not sooner: the trials import adapterlab anew

    head = provenance(" ".join(["python tests/mutants.py", *sys.argv[1:]]), seed)
    head["versions"] |= {name: metadata.version(name) for name in ("cosmic-ray", "pytest", "hypothesis")}
    head |= {"sources": sources, "mutants": of, "judged": len(rows), **Counter(found["outcome"] for found in rows)}
    lines = ",\n  ".join(json.dumps(found, ensure_ascii=False) for found in rows)
    path.write_text(json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n  {lines}\n ]\n}}\n')
