"""`python -m adapterlab.kit.house --json FILE`: trains the house's rows and writes them, item by item.

A variant's rate is chosen on the validation split alone, with seed 0, from a ladder that is climbed until its best
rate has a worse one on either side. The row's own seeds are others, and the sealed split is looked at once for each.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ... import Variant
from ...files import write
from ...provenance import provenance
from ..base import load_base
from ..notebook import start
from .recipe import BATCH, BUDGET, SETTINGS, STEPS, adapt
from .task import _SPLITS, answered

LADDER = (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0)
FIRST = (3, 8)  # the rungs that are tried in any case: gates want far higher rates than thin matrices do
SEEDS = (1, 2, 3)


def try_rate(variant: Variant, lr: float) -> dict[str, float | None]:
    """Share right and nats per token on validation; no loss where training left the finite numbers."""
    model, tokenizer = load_base()
    try:
        run = adapt(model, tokenizer, variant, lr)
    except FloatingPointError:
        return {"lr": lr, "validation": 0.0, "loss": None}
    right = answered(model, tokenizer, _SPLITS["validation"])
    return {"lr": lr, "validation": right.double().mean().item(), "loss": run.evaluations[-1][2]}


def sweep(variant: Variant, progress: Callable[[str], Any] = print) -> list[dict[str, float | None]]:
    """What was tried, from the lowest rate; the best is not at an end of it, unless the ladder ends there."""
    low, high = FIRST
    tried: dict[int, dict] = {}  # rung -> row
    while True:
        for rung in range(low, high + 1):
            if rung not in tried:
                tried[rung] = try_rate(variant, LADDER[rung])
                progress(f"{variant.name}: {tried[rung]}")
        best = LADDER.index(best_rate(list(tried.values())))
        if best == low > 0:
            low -= 1
        elif best == high < len(LADDER) - 1:
            high += 1
        else:
            return [tried[rung] for rung in range(low, high + 1)]


def best_rate(tries: list[dict[str, float | None]]) -> float:
    """The rate with the largest share of validation right; of those that share it, the one with the lowest loss."""
    return min(tries, key=lambda row: (-row["validation"], math.inf if row["loss"] is None else row["loss"]))["lr"]


def row(variant: Variant, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    tries = sweep(variant, progress)
    lr = best_rate(tries)
    found: dict[str, list[str]] = {"validation": [], "sealed": []}
    for seed in SEEDS:
        model, tokenizer = load_base()
        adapt(model, tokenizer, variant, lr, seed=seed)
        for split, bits in found.items():
            bits.append(_bits(answered(model, tokenizer, _SPLITS[split])))
        progress(f"{variant.name} at {lr:g}, seed {seed}")
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    head = {"variant": variant.name, "fields": asdict(variant), "parameters": parameters}
    return head | {"sweep": tries, "lr": lr, "seeds": list(SEEDS)} | found


def _bits(right: torch.Tensor) -> str:
    return "".join(str(int(bit)) for bit in right)


def merged(path: Path, run: dict[str, Any]) -> dict[str, Any]:
    """What the file holds, if that was measured in the same setting, and this run at the end of its runs."""
    model, tokenizer = load_base()
    base = {split: _bits(answered(model, tokenizer, examples)) for split, examples in _SPLITS.items()}
    del base["training"]
    setting = {"task": "sub_neg", "budget": BUDGET, "steps": STEPS, "batch_size": BATCH, "base": base}
    found = json.loads(path.read_text()) if path.exists() else {"rows": {}, "runs": []}
    if any(found.get(name, value) != value for name, value in setting.items()):
        raise ValueError(f"{path.name} holds rows of another setting: remove it, and train all nine")
    return setting | {"runs": [*found["runs"], run], "rows": found["rows"]}


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m adapterlab.kit.house", description="Train the house's rows.")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="default: all nine")
    parser.add_argument("--json", metavar="FILE", required=True, help="the record; rows of other variants stay in it")
    options = parser.parse_args(given)
    unknown = [name for name in options.variants if name not in SETTINGS]
    if unknown:
        print(f"there is no variant {unknown[0]!r}; there are {', '.join(SETTINGS)}", file=sys.stderr)
        return 2
    start()
    found = merged(Path(options.json), provenance(" ".join(["python -m adapterlab.kit.house", *given]), seed=0))
    for name in options.variants or SETTINGS:
        found["rows"][name] = {"run": len(found["runs"]) - 1} | row(SETTINGS[name])
    write(Path(options.json), (json.dumps(found, indent=1) + "\n").encode())
    return 0
