"""`adapterlab info FILE`: what is in an adapter file, and for which base."""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..checkpoint import BaseMismatchError, inspect
from ..variant import VARIANTS
from .command import EMBEDDED, adapter_file, guarded, loaded, parser, run_of, takes_base


def main(arguments: list[str] | None = None) -> int:
    made = parser("adapterlab info", "What is in an adapter file, and for which base.")
    made.add_argument("--json", action="store_true", help="for programs")
    takes_base(made)
    made.add_argument("--check-base", action="store_true", help="load that base, and say whether the adapter fits it")
    options = made.parse_args(arguments)

    def act() -> int:
        file = adapter_file(options.file)
        found = facts(file)
        if options.model is not None or options.check_base:
            found["fits"] = fits(file, options.model or (found["run"] or {}).get("model"))
        print(json.dumps(found, indent=1) if options.json else text(found))
        return 0 if found.get("fits", {}).get("fits", True) else 1

    return guarded("adapterlab info", act)


def facts(file: Path) -> dict[str, Any]:
    """What the file says, its checksum verified; JSON-ready.

    Raises:
        AdapterFileError: it is missing, damaged or no adapter file.
    """
    header, tensors = inspect(file)
    run = run_of(file)
    found: dict[str, Any] = {
        "file": str(file),
        "bytes": file.stat().st_size,
        "library": header["library"],
        "passes": [],
    }
    for entry in header["passes"]:
        layers = entry["layers"]
        parts: dict[str, dict[str, Any]] = {}
        for path in layers:
            for full in (name for name in tensors if name.startswith(f"{path}.adapter." if path else "adapter.")):
                tensor = tensors[full]
                part = parts.setdefault(full.rpartition(".")[2], {"numbers": 0, "tensors": 0, "dtypes": []})
                part["numbers"] += tensor.numel()
                part["tensors"] += 1
                dtype = str(tensor.dtype).removeprefix("torch.")
                if dtype not in part["dtypes"]:
                    part["dtypes"].append(dtype)
        own = {path: facts["fields"] for path, facts in layers.items() if facts["fields"]}
        found["passes"].append(
            {
                "variant": entry["variant"],
                "known": entry["variant"] in VARIANTS,
                "fields": entry["fields"],
                "fields_of_layers": own,
                "layers": list(layers),
                "tensors": parts,
            }
        )
    digests = "".join(facts["sha256"] for _, facts in sorted(header["base"].items()))
    found["base"] = {
        "name": run.get("model") or EMBEDDED if run else None,
        "layers": len(header["base"]),
        "weights": int(sum(facts["weight"].count for facts in header["base"].values())),
        "precision": sorted({facts["precision"] for facts in header["base"].values()}),
        "digest": hashlib.sha256(digests.encode()).hexdigest(),
    }
    found["run"] = run
    return found


def fits(file: Path, name: str | None) -> dict[str, Any]:
    """Whether the file's adapter is for this base, and if not why; raises where the base itself cannot be had."""
    from ..files import AdapterFileError

    try:
        loaded(file, name, "auto")
    except (BaseMismatchError, AdapterFileError) as error:
        return {"model": name or EMBEDDED, "fits": False, "why": str(error)}
    return {"model": name or EMBEDDED, "fits": True, "why": None}


def text(found: dict[str, Any]) -> str:
    lines = [f"{found['file']}: {_size(found['bytes'])}, written by adapterlab {found['library']}, checksum right"]
    for entry in found["passes"]:
        fields = ", ".join(f"{name} = {_value(value)}" for name, value in entry["fields"].items())
        lines += ["", " · ".join(filter(None, [entry["variant"], fields]))]
        if not entry["known"]:
            lines.append("  (a variant that is not registered: import the module that defines it before `al.load`)")
        for name, part in entry["tensors"].items():
            lines.append(f"  {name:14}{part['numbers']:>13,}  {', '.join(part['dtypes'])}")
        lines.append(f"  on {_count(len(entry['layers']), 'layer')}:")
        lines += [f"    {line}" for line in grouped(entry["layers"])]
        for name, values in _varying(entry).items():
            if all(isinstance(value, (int, float)) for value in values):
                lines.append(f"  {name} from {_value(min(values))} to {_value(max(values))}, layer by layer")
    base = found["base"]
    lines += ["", f"for {base['name'] or 'a base that the file does not name'}:"]
    adapted = f"{_count(base['layers'], 'adapted layer')} of {base['weights']:,} weights"
    lines.append(f"  {adapted} in {' and '.join(base['precision'])}, digest {base['digest'][:12]}")
    if "fits" in found:
        seen = found["fits"]
        lines.append(f"  it fits {seen['model']}" if seen["fits"] else f"  not for {seen['model']}: {seen['why']}")
    if run := found["run"]:
        asked = f"{run['steps']} steps on {run['task'] or run['data']}, seed {run['seed']}"
        lines += ["", f"trained by `adapterlab train`: {asked}"]
    return "\n".join(lines)


def grouped(paths: Iterable[str]) -> list[str]:
    """Module paths on few lines: numbers as ranges, last names in braces where all else is equal."""
    number = r"(?<![^.])\d+(?![^.])"
    members: dict[str, set[tuple[int, ...]]] = {}
    for path in paths:
        found = tuple(int(n) for n in re.findall(number, path))
        members.setdefault(re.sub(number, "{}", path), set()).add(found)
    told: dict[tuple[str, frozenset], list[str]] = {}
    for shape, which in members.items():
        parent, _, last = shape.rpartition(".")
        told.setdefault((parent, frozenset(which)), []).append(last)
    lines = []
    for (parent, which), names in told.items():
        last = names[0] if len(names) == 1 else "{" + ",".join(names) + "}"
        whole = f"{parent}.{last}" if parent else last
        columns = [sorted(set(column)) for column in zip(*which)]
        full = math.prod(map(len, columns)) == len(which)  # else ranges would stand for more than is there
        for numbers in [columns] if full else [[[n] for n in one] for one in sorted(which)]:
            line = whole
            for column in numbers:
                line = line.replace("{}", _ranges(column), 1)
            lines.append(line or "the layer itself")
    return lines


def _ranges(numbers: list[int]) -> str:
    """0-3,5"""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    told = ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
    return told if len(numbers) == 1 else "{" + told + "}"


def _varying(entry: dict[str, Any]) -> dict[str, list]:
    """Fields in which layers differ, such as EVA's ranks: name -> each layer's value."""
    own = entry["fields_of_layers"]
    names = {name: None for fields in own.values() for name in fields}
    return {name: [own.get(path, {}).get(name, entry["fields"][name]) for path in entry["layers"]] for name in names}


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _size(n: int) -> str:
    return f"{n / 1e3:,.0f} kB" if n < 1e6 else f"{n / 1e6:,.1f} MB"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("s" if n != 1 else "")
