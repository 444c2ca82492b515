"""`adapterlab bench`."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..files import write
from ..provenance import provenance
from ..variant import VARIANTS, Variant
from .columns import show, table
from .costs import measure
from .setting import DTYPES, Setting


def record(command: str, setting: Setting, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All that a reader needs to judge the rows, or to measure them again."""
    return provenance(command, setting.seed, setting.device) | {"setting": asdict(setting), "rows": rows}


def variants_of(names: list[str], ranks: list[int]) -> list[Variant]:
    """Each variant at each rank; once where it has none."""
    found = []
    for name in names:
        if name not in VARIANTS:
            raise ValueError(f"there is no variant {name!r}; there are {', '.join(VARIANTS)}")
        cls = VARIANTS[name]
        has_rank = "r" in cls.__dataclass_fields__
        found += [cls(r=r) for r in ranks] if has_rank else [cls()]
    return found


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="adapterlab bench", description="What each variant costs.")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="default: all nine")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8], metavar="R")
    parser.add_argument("--kind", choices=["layer", "model"], default="layer")
    for name, what in (
        ("width", "of the layer, or hidden size of the model"),
        ("tokens", "in a step"),
        ("blocks", "of the model"),
        ("rounds", "that each time is taken"),
        ("seed", "of weights and inputs"),
    ):
        parser.add_argument(f"--{name}", type=int, default=getattr(Setting, name), help=what)
    parser.add_argument("--dtype", default=Setting.dtype, help=f"of the base: {', '.join(DTYPES)}")
    parser.add_argument("--adapter-dtype", default=Setting.adapter_dtype, help="of the adapter's parameters")
    parser.add_argument("--device", default=Setting.device)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; default 1")
    parser.add_argument("--no-peft", action="store_true", help="leave PEFT out")
    parser.add_argument("--json", metavar="FILE", help="write all raw times there; - for standard output")
    parser.add_argument("--plot", metavar="FILE", help="draw the ratios there, an SVG file")
    options = parser.parse_args(given)
    try:
        fields = {name: getattr(options, name) for name in Setting.__dataclass_fields__}
        setting = Setting(**fields)
        variants = variants_of(options.variants or list(VARIANTS), options.ranks)
        torch.empty(0, device=setting.device)
        if options.plot and Path(options.plot).suffix != ".svg":
            raise ValueError(f"--plot {options.plot}: the picture is an SVG file, so let its name end in .svg")
        for file in filter(None, (options.json, options.plot)):
            if file != "-" and not Path(file).absolute().parent.is_dir():
                raise ValueError(f"there is no folder {Path(file).absolute().parent} to write {Path(file).name} to")
    except (ValueError, RuntimeError, AssertionError) as error:
        print(f"adapterlab bench: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        rows = _with_progress(variants, setting, False if options.no_peft else None)
        found = record(" ".join(["adapterlab bench", *given]), setting, rows)
    finally:
        torch.set_num_threads(threads)
    if options.json == "-":
        json.dump(found, sys.stdout, indent=1)
    else:
        print(f"{setting.kind} of width {setting.width}, {setting.tokens} tokens, {setting.dtype}; {found['machine']}")
        show(table(rows))
    if options.json and options.json != "-":
        write(Path(options.json), (json.dumps(found, indent=1) + "\n").encode())
    if options.plot:
        from ..kit import plots

        plots.costs(found).save(options.plot)
    return 0


def _with_progress(variants: list[Variant], setting: Setting, with_peft: bool | None) -> list[dict]:
    from tqdm import tqdm

    rows = []
    with tqdm(total=len(variants), file=sys.stderr, disable=None) as bar:
        for variant in variants:
            rows += measure([variant], setting, with_peft=with_peft, progress=bar.set_description_str)
            bar.update()
    return rows
