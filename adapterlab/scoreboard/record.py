"""The record: every method of PEFT's under the contract, and for each failure the lines that show it."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..contract import CHECKS, Report, check
from ..files import write
from ..peft_methods import EXCLUDED, METHODS
from .candidates import Unshown, reproducer


def row(name: str, seed: int = 0) -> dict[str, Any]:
    """One method: the contract's results, and for each failure its reproducer."""
    report: Report = check(f"peft:{name}", seed=seed)
    method = METHODS[name]
    shown = {failed: asdict(reproducer(name, failed, report[failed].note)) for failed in report.failed}
    return {
        "method": name,
        "kind": method.kind,
        "paper": method.paper,
        "source": method.source,
        "results": report.record()["results"],
        "quotes": {c: {"words": q.words, "link": q.link} for c, q in method.by_design.items()},
        "reproducers": shown,
    }


def main(arguments: list[str] | None = None) -> int:
    from ..provenance import provenance

    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m adapterlab.scoreboard", description=__doc__)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of weights, inputs and starts")
    parser.add_argument("--json", metavar="FILE", required=True, help="write the record there; - for standard output")
    options = parser.parse_args(given)
    if unknown := [name for name in options.methods if name not in METHODS]:
        print(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}", file=sys.stderr)
        return 2
    from tqdm import tqdm

    rows, unshown = [], []
    bar = tqdm(options.methods or list(METHODS), file=sys.stderr, disable=None)
    for name in bar:
        bar.set_description_str(name)
        try:
            rows.append(row(name, options.seed))
        except Unshown as error:
            unshown.append(str(error))
    if unshown:
        print("\n".join(unshown), file=sys.stderr)
        return 1
    found = provenance(" ".join(["python -m adapterlab.scoreboard", *given]), options.seed) | {
        "checks": {name: one.proves for name, one in CHECKS.items()},
        "excluded": EXCLUDED,
        "rows": rows,
    }
    text = json.dumps(found, indent=1) + "\n"
    if options.json == "-":
        print(text, end="")
    else:
        write(Path(options.json), text.encode())
    return 0
