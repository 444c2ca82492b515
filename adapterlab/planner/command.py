"""`adapterlab plan`: the memory of one GPU, for one variant or for all nine."""

import argparse
import json
import sys
from dataclasses import asdict, fields

from ..variant import VARIANTS, Variant
from .estimate import DTYPES, ENGINES, Plan, Setup, plan
from .models import SIZES, config

CARDS = (16, 24, 40, 80, 141)  # GB
CUDA = 1e9  # bytes that CUDA takes for itself, about

ABOUT = f"""\
Memory of each GPU that trains an adapter, from the model's configuration alone. Named models: {", ".join(SIZES)}.
Exact for what is held and kept, by the count of its bytes; not in it are CUDA's own gigabyte and what its allocator
cannot use."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="adapterlab plan", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="one of the named ones, a folder, or a config.json")
    parser.add_argument("--variant", help=f"one of {', '.join(sorted(VARIANTS))}; all of them if it is left out")
    parser.add_argument("--r", type=int, default=16, help="rank, of those that have one (16)")
    parser.add_argument(
        "--targets", nargs="+", metavar="REGEX", help="layers by their path; all linear ones if left out"
    )
    parser.add_argument("--gpus", type=int, default=1, help="(1)")
    parser.add_argument("--engine", default="ddp", help=f"{' or '.join(ENGINES)} (ddp)")
    parser.add_argument("--dtype", default="bf16", help=f"of the base: {', '.join(DTYPES)} (bf16)")
    parser.add_argument("--quantize", help="4bit or 8bit, through bitsandbytes")
    parser.add_argument("--batch", type=int, default=1, help="rows on each GPU (1)")
    parser.add_argument("--tokens", type=int, default=2048, help="of a row (2048)")
    parser.add_argument("--checkpointing", action="store_true", help="each block's activations are computed again")
    parser.add_argument("--json", action="store_true", help="bytes, for programs")
    options = parser.parse_args(arguments)
    try:
        from ..kit.notebook import quiet

        quiet()
        setup = Setup(
            processes=options.gpus,
            engine=options.engine,
            dtype=options.dtype,
            quantize=options.quantize,
            batch=options.batch,
            tokens=options.tokens,
            checkpointing=options.checkpointing,
        )
        model = config(options.model)
        variants = [made(name, options.r) for name in ([options.variant] if options.variant else sorted(VARIANTS))]
        plans = {variant: plan(model, variant, setup, options.targets) for variant in variants}
    except ImportError as error:
        print(f"adapterlab plan: {error}: `pip install 'adapterlab[kit]'` has what this needs", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"adapterlab plan: {error}", file=sys.stderr)
        return 1
    if options.json:
        found = {variant.name: asdict(one) | {"total": one.total} for variant, one in plans.items()}
        print(json.dumps({"model": options.model, "setup": asdict(setup), "bytes": found}, indent=1))
    else:
        print(table(options.model, setup, plans))
    return 0


def made(name: str, r: int) -> Variant:
    """The variant at that rank, where it has one.

    Raises:
        ValueError: there is no such variant, or it has no such rank.
    """
    if name not in VARIANTS:
        raise ValueError(f"--variant {name}: there are {', '.join(sorted(VARIANTS))}")
    cls = VARIANTS[name]
    return cls(**({"r": r} if "r" in {field.name for field in fields(cls)} else {}))


def table(model: str, setup: Setup, plans: dict[Variant, Plan]) -> str:
    many = f"{setup.processes} GPUs with {setup.engine}" if setup.processes > 1 else "one GPU"
    base = setup.dtype if not setup.quantize else f"{setup.quantize} weights, {setup.dtype} arithmetic"
    again = ", activations computed again" if setup.checkpointing else ""
    rows = "a row" if setup.batch == 1 else f"{setup.batch} rows"
    lines = [f"{model}, {base}, on {many}: {rows} of {setup.tokens:,} tokens each{again}. GB on each GPU:", ""]
    columns = [field.name for field in fields(Plan)]
    lines.append(f"{'':10}" + "".join(f"{name:>13}" for name in (*columns, "in all")) + "   fits into")
    for variant, one in plans.items():
        cells = "".join(f"{getattr(one, name) / 1e9:>13.2f}" for name in (*columns, "total"))
        lines.append(f"{variant.name:10}{cells}   {fits(one)}")
    return "\n".join(lines)


def fits(one: Plan) -> str:
    """The smallest usual card that holds it."""
    return next((f"{card} GB" for card in CARDS if one.total + CUDA <= card * 1e9), "none of these")
