"""Measure the U of every setting of lab 4: `python -m adapterlab.kit.rates_record --json FILE`."""

import argparse
import json
import math
from pathlib import Path

import torch

from ..provenance import provenance
from . import rates

GRID = [round(1e-3 * 2 ** (k / 2), 8) for k in range(-6, 13)]  # half an octave apart
SEEDS = 3


def measure(seeds: int = SEEDS) -> list[dict]:
    """A row for each setting, seed and rate; loss is None where training broke."""
    trials = rates.Trials()
    rows = []
    for name, variant in rates.SETTINGS.items():
        for seed in range(seeds):
            for lr in GRID:
                loss = trials.loss(variant, lr, seed)
                shown = round(loss, 5) if math.isfinite(loss) else None
                rows.append({"setting": name, "seed": seed, "lr": lr, "loss": shown})
            print(f"{name}, seed {seed}: " + " ".join(f"{row['loss'] or math.nan:.2f}" for row in rows[-len(GRID) :]))
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m adapterlab.kit.rates_record", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="where the record is written")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    head = provenance(f"python -m adapterlab.kit.rates_record --json {asked.json}", seed=0)
    setting = {
        "task": rates.TASK,
        "steps": rates.STEPS,
        "batch": rates.BATCH,
        "warmup": rates.WARMUP,
        "held_out": rates.HELD_OUT,
        "layers": "all linear layers of the last block",
        "seeds": SEEDS,
    }
    rows = measure()
    asked.json.write_text(json.dumps({**head, "setting": setting, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
