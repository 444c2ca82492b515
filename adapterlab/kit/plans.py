"""What the memory figure adds up, for its three models: `python -m adapterlab.kit.plans --json FILE` counts it anew."""

import argparse
import functools
import json
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from ..files import write
from ..planner import Setup
from ..planner.command import made
from ..planner.estimate import estimate, gathered
from ..planner.models import SIZES, config
from ..planner.shapes import count
from ..provenance import provenance
from ..variant import VARIANTS
from . import style
from .notebook import start

R = 16
GPUS = [1, 2, 4, 8, 16, 64]
BASES = ["bf16", "8bit", "4bit"]
NAMES = [name for name in style.MARKS if name in VARIANTS]
LENGTHS = (512, 1024)  # of rows: what is kept is a straight line through them


def sizes(model: str, name: str) -> dict[str, Any]:
    """Bytes of one GPU, for a variant at r = R on all linear layers, one row on each GPU.

    Returns:
        kept: with activations computed again ("true") or not, [at 0 tokens, for each token]; copied: weights where each
        GPU has all, by how they are stored; shares: for each of GPUS, under FSDP2, [weights, adapter, gathered].
    """
    made_of, variant, kept = config(model), made(name, R), {}
    for again in (False, True):
        some, more = (count(made_of, variant, None, torch.bfloat16, 1, n, again) for n in LENGTHS)
        first, second = (c.kept + again * c.kept_by_block for c in (some, more))
        slope = (second - first) / (LENGTHS[1] - LENGTHS[0])
        kept[str(again).lower()] = [first - LENGTHS[0] * slope, slope]
    copied = {base: estimate(some, made_of, Setup(quantize=None if base == "bf16" else base)).weights for base in BASES}
    shares = []
    for gpus in GPUS:
        one = estimate(some, made_of, Setup(processes=gpus, engine="fsdp2"))
        shares.append([one.weights, one.adapter, gathered(some, gpus) if gpus > 1 else 0])
    return {"kept": kept, "copied": copied, "shares": shares}


def parts(model: str, name: str, gpus: int, engine: str, base: str, tokens: int, checkpointing: bool) -> dict[str, int]:
    """Bytes of each of the figure's parts, from the record, as the page adds them up. Quantised weights are copied."""
    counted = recorded()["sizes"][model]
    one, sharded = counted["variants"][name], engine == "fsdp2" and base == "bf16"
    weights, adapter, whole = one["shares"][GPUS.index(gpus) if sharded else 0]
    none, each = one["kept"][str(checkpointing).lower()]
    spread = 0 if gpus == 1 else whole if sharded else adapter
    return {
        "weights": weights if sharded else one["copied"][base],
        "trained": 4 * adapter,  # it, its gradients, and Adam's two moments
        "activations": round(none + each * tokens),
        "transient": 6 * tokens * counted["vocabulary"] + spread,  # of the logits: float32 and bf16
    }


@functools.cache
def recorded() -> dict[str, Any]:
    """The counts that come with the package, and where they come from."""
    return json.loads((resources.files("adapterlab.kit") / "data" / "plans.json").read_text("utf-8"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m adapterlab.kit.plans", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="where the record is written")
    asked = parser.parse_args(arguments)
    start()
    found = {
        model: {"vocabulary": config(model).vocab_size, "variants": {name: sizes(model, name) for name in NAMES}}
        for model in SIZES
    }
    head = provenance(f"python -m adapterlab.kit.plans --json {asked.json}", seed=0)
    write(asked.json, (json.dumps({**head, "r": R, "gpus": GPUS, "sizes": found}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
