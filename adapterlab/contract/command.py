"""Whether an adapter keeps the contract: `adapterlab check`."""

import argparse
import importlib
import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

from ..files import AdapterFileError, write
from ..provenance import provenance
from ..variant import VARIANTS, Variant
from .checks import CHECKS, check, chosen, subject_of
from .report import Report
from .subject import Foreign, Subject

EXAMPLES = """
what to check:
  dora                  a variant of this library
  my_module.MyVariant   one of yours: a Variant, a Foreign or a PeftConfig, by its import path
  peft:hra, peft:all    PEFT's, by the name of the method
  FOLDER                a trained PEFT adapter: adapter_config.json and adapter_model.safetensors

exit code: 0 if all of them keep the contract, 1 if one does not, 2 if there was nothing to check it by
"""


def found(name: str, base: Path | None = None) -> list[Subject]:
    """What a word on the command line names.

    Raises:
        ValueError: nothing; the message lists what there is.
    """
    if name == "peft:all":
        from ..peft_methods import METHODS

        return [subject_of(f"peft:{method}") for method in METHODS]
    if name.startswith("peft:"):
        return [subject_of(name)]
    if name in VARIANTS:
        return [subject_of(VARIANTS[name])]
    if Path(name).is_dir():
        from .of_folder import OfFolder

        return [OfFolder(Path(name), base)]
    if "/" in name:
        raise ValueError(f"there is no folder {name}")
    if "." in name:
        return [subject_of(_imported(name))]
    raise ValueError(
        f"there is no variant {name!r}; there are {', '.join(VARIANTS)}, peft:NAME, peft:all, "
        "my_module.MyVariant and folders"
    )


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        thing = getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ValueError(_suggestion(module, name)) from error
    except Exception as error:  # a module of anyone's
        raise ValueError(f"cannot import {module}: {type(error).__name__}: {error}") from error
    return thing


def _suggestion(module: str, name: str) -> str:
    held = vars(sys.modules[module]) if module in sys.modules else {}
    own = [
        key
        for key, value in held.items()
        if isinstance(value, Variant | Foreign)
        or isinstance(value, type)
        and issubclass(value, Variant)
        and value.__module__ == module
    ]
    return f"{module} has no {name}; it has {', '.join(own) if own else 'no variant'}"


def _short(report: Report) -> str:
    """One line."""
    counts = {
        status: sum(r.status == status for r in report.results.values()) for status in ("pass", "by design", "n/a")
    }
    said = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    mark = "ok  " if report.ok else "FAIL" if report.failed else "n/a "
    return f"{mark}  {report.subject:28}  {said}" + (f"; fails {', '.join(report.failed)}" if report.failed else "")


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="adapterlab check",
        description="Whether an adapter keeps the contract.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subjects", nargs="*", metavar="WHAT", help="default: every variant of this library")
    parser.add_argument("--only", metavar="CHECKS", help="names of checks, with commas between them")
    parser.add_argument("--base", metavar="FOLDER", help="the transformers model that FOLDER was trained on")
    parser.add_argument("--seed", type=int, default=0, help="of weights, inputs and starts")
    parser.add_argument("--json", metavar="FILE", help="write all results there; - for standard output")
    parser.add_argument("--short", action="store_true", help="one line each; so are more than nine")
    parser.add_argument("--list", action="store_true", help="list the checks and what each proves")
    options = parser.parse_args(given)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # what importing PEFT, torchao and bitsandbytes has to say of the machine
    try:
        return _main(given, options)
    finally:
        logging.disable(before)


def _main(given: list[str], options: argparse.Namespace) -> int:
    if options.list:
        width = max(map(len, CHECKS))
        print("\n".join(f"{name:{width}}  {one.proves}" for name, one in CHECKS.items()))
        return 0
    try:
        only = None if options.only is None else [name.strip() for name in options.only.split(",") if name.strip()]
        chosen(only)
        if options.json and options.json != "-" and not Path(options.json).absolute().parent.is_dir():
            raise ValueError(f"there is no folder {Path(options.json).absolute().parent} to write to")
        base = None if options.base is None else Path(options.base)
        subjects = [one for name in options.subjects or VARIANTS for one in found(name, base)]
    except (ValueError, TypeError, ImportError) as error:
        print(f"adapterlab check: {error}", file=sys.stderr)
        return 2
    reports = []
    short = options.short or len(subjects) > len(VARIANTS)
    for k, subject in enumerate(subjects):
        report = check(subject, only=only, seed=options.seed, progress=_progress(subject, k, len(subjects)))
        _clear()
        reports.append(report)
        if options.json != "-":
            print(_short(report) if short else report.table(shutil.get_terminal_size((120, 24)).columns), flush=True)
            if not short and len(subjects) > 1:
                print()
    if len(subjects) > 1 and options.json != "-":
        kept = sum(report.ok for report in reports)
        print(f"{kept} of {len(subjects)} keep the contract")
    if options.json:
        text = json.dumps(record(given, options.seed, reports), indent=1)
        if options.json == "-":
            print(text)
        else:
            try:
                write(Path(options.json), (text + "\n").encode())
            except AdapterFileError as error:
                print(f"adapterlab check: {error}", file=sys.stderr)
                return 2
    if any(report.failed for report in reports):
        return 1
    return 0 if all(report.ok for report in reports) else 2


def record(arguments: list[str], seed: int, reports: list[Report]) -> dict[str, Any]:
    """All that is needed to judge the reports, or to make them again."""
    return provenance(" ".join(["adapterlab check", *arguments]), seed) | {
        "checks": {name: one.proves for name, one in CHECKS.items()},
        "reports": [report.record() for report in reports],
    }


def _progress(subject: Subject, k: int, of: int):
    """On a terminal, the check that runs, in one line that is written over."""

    def show(name: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{k + 1}/{of} {subject.label[:60]}: {name}", end="", file=sys.stderr, flush=True)

    return show


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
