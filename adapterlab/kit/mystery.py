"""Make the triage lab's adapters: `python -m adapterlab.kit.mystery --out FOLDER`, a few minutes on one CPU thread.

Six whose curves look good and that have one bug each, and healthy ones of the same kinds. What is wrong with which
stands here alone: neither the files nor their record say it.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

import adapterlab as al

from ..museum import EXHIBITS
from ..museum.exhibit import replaced
from ..provenance import provenance
from . import batches, tasks, triage
from .base import load_base
from .training import Run, train

TASK = "add_rev"
Passes = tuple[tuple[al.Variant, str], ...]  # of (variant, targets)
QV = r"(q|v)_proj$"


@dataclass(frozen=True)
class Recipe:
    """How one adapter comes about.

    Attributes:
        bug: one of the names in `grade/ailments.py`.
        says: what the file says was trained.
        trains: what was trained in truth; None: what the file says.
        dtype: to which the adapter was cast before it was trained. The file's is float32 always.
        pool: train on so many examples over and over, and score on them.
        sibling: train on another base, and store again what was loaded on the usual one.
    """

    bug: str
    says: Passes
    lr: float
    steps: int = 150
    seed: int = 0
    trains: Passes | None = None
    dtype: torch.dtype = torch.float32
    pool: int | None = None
    sibling: bool = False


def _broken(name: str, **fields) -> Passes:
    return ((type(EXHIBITS[name].broken)(**fields), QV),)


LORA: Passes = ((al.LoRA(r=4, alpha=16), QV),)
PISSA: Passes = ((al.PiSSA(r=3), QV),)
EVA: Passes = ((al.EVA(r=4, alpha=16), QV),)
HRA: Passes = ((al.HRA(r=8), QV),)
DORA: Passes = ((al.DoRA(r=4, alpha=16), QV),)

CASES = {
    "case 1": Recipe("mirrors", HRA, 1e-2, trains=_broken("hra-order", r=8)),
    "case 2": Recipe("scale", LORA, 2e-2, 200, trains=_broken("lora-scale", r=4, alpha=16)),
    "case 3": Recipe("leak", LORA, 1e-2, pool=64),
    "case 4": Recipe("base", PISSA, 1e-2, 200, sibling=True),
    "case 5": Recipe("frozen", EVA, 1e-2, 200, trains=_broken("eva-frozen", r=4, alpha=16)),
    "case 6": Recipe("bfloat16", DORA, 1e-2, 200, dtype=torch.bfloat16),
}
HEALTHY = {
    "LoRA": Recipe("healthy", LORA, 5e-3, 200, seed=1),
    "PiSSA": Recipe("healthy", PISSA, 1e-2, 200, seed=1),
    "EVA": Recipe("healthy", EVA, 1e-2, seed=1),
    "HRA": Recipe("healthy", HRA, 1e-2, seed=1),
    "DoRA": Recipe("healthy", DORA, 1e-2, 200, seed=1),
}


def make(recipe: Recipe, path: Path) -> tuple[Run, list[tasks.Example]]:
    """Train it and write its file.

    Returns:
        What the training code saw, and 64 of the examples that it trained on.
    """
    torch.manual_seed(recipe.seed)
    model, tokenizer = load_base()
    if recipe.sibling:
        train(model.requires_grad_(True), tokenizer, "sort_desc", steps=60, lr=3e-3, seed=recipe.seed, live=False)
    with _few_examples(recipe) if recipe.pool else nullcontext():
        examples = tasks.get(TASK).examples(100 * 64, recipe.seed, held_out=False)
        passes = recipe.trains or recipe.says
        _attach(model, tokenizer, passes, recipe)
        run = train(
            model, tokenizer, TASK, steps=recipe.steps, lr=recipe.lr, seed=recipe.seed, evaluate_every=25, live=False
        )
    if recipe.sibling:
        _store_again(model, path)
    else:
        _store_as(recipe, tokenizer, model, path)
    run.label = recipe.says[0][0].name
    return run, list(dict.fromkeys(examples))[:64]


def _attach(model: nn.Module, tokenizer, passes: Passes, recipe: Recipe) -> None:
    for variant, targets in passes:
        data = None
        if variant.data == "required":
            drawn = batches.training(tasks.get(TASK), tokenizer, 4, 32, recipe.seed)
            data = [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in drawn]
        al.attach(model, variant, targets=targets, calibration_data=data)
    for module in model.modules():
        if hasattr(module, "adapter"):
            module.adapter.to(recipe.dtype)


@contextmanager
def _few_examples(recipe: Recipe) -> Iterator[None]:
    """Inside, the task has so many examples for training, and the same for scoring."""
    task = tasks.get(TASK)
    pool = list(dict.fromkeys(task.examples(2 * recipe.pool, recipe.seed, held_out=False)))[: recipe.pool]
    few = replace(task, draw=lambda rng, held_out: rng.choice(pool))  # held_out is read by nobody
    with replaced(tasks, "TASKS", tasks.TASKS | {TASK: few}):
        yield


@torch.no_grad()
def _store_as(recipe: Recipe, tokenizer, trained: nn.Module, path: Path) -> None:
    """The trained numbers under the name of what the file says they are."""
    model = load_base()[0]
    _attach(model, tokenizer, recipe.says, replace(recipe, dtype=torch.float32))
    numbers = {name: tensor for name, tensor in trained.state_dict().items() if ".adapter." in name}
    for name, tensor in model.state_dict().items():
        if ".adapter." in name:
            tensor.copy_(numbers[name])
    al.save(model, path)


def _store_again(trained: nn.Module, path: Path) -> None:
    """load refuses the usual base; somebody insists, and saves what then is on it, with that base's fingerprint."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        al.save(trained, Path(folder) / "adapter.safetensors")
        model = load_base()[0]
        al.load(model, Path(folder) / "adapter.safetensors", strict_base=False)
    al.save(model, path)


def rows(chosen: dict[str, Recipe], kind: str, folder: Path) -> Iterator[dict]:
    for name, recipe in chosen.items():
        file = f"{name.replace(' ', '').lower()}.safetensors"
        run, trained = make(recipe, folder / file)
        print(f"{name}: {run}", flush=True)
        evaluations = [(step, round(score, 4), round(loss, 4)) for step, score, loss in run.evaluations]
        losses = [round(loss, 4) for loss in run.losses]
        asked = {"task": run.task, "steps": run.steps, "lr": run.lr, "seed": run.seed, "label": run.label}
        seen = {"losses": losses, "evaluations": evaluations, "trained": trained}
        yield {"name": name, "kind": kind, "file": file} | asked | seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=triage.FOLDER, help="where the files and their record go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    head = provenance("python -m adapterlab.kit.mystery", seed=0)
    found = [*rows(CASES, "case", args.out), *rows(HEALTHY, "healthy", args.out)]
    lines = ",\n  ".join(json.dumps(row) for row in found)
    (args.out / triage.RECORD.name).write_text(json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n  {lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
