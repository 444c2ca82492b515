"""One run: trains a setting at one rate from one seed, and measures what came of it."""

import math
import time
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ... import attach, effective_weight
from .. import batches, tasks
from ..base import load_base
from ..training import train
from . import splits
from .settings import SETTINGS, Trial

STEPS, BATCH, WARMUP = 100, 32, 10
CALIBRATION_BATCHES, CALIBRATION_SEED = 16, 123
TOP = 8  # of W's singular directions


def run(trial: Trial, steps: int = STEPS) -> dict[str, Any]:
    """The row: JSON-ready, the same for the same trial but for `seconds`, the processor's time.

    `broken`: the loss left the finite numbers; such a run scores nothing. `test` holds a 0 or 1 for each test item, or
    for prose a row's nats per token.
    """
    begun = time.process_time()
    model, tokenizer = load_base()
    torch.manual_seed(trial.seed)
    parameters = put_on(model, tokenizer, trial)
    row: dict[str, Any] = {
        "setting": trial.setting,
        "task": trial.task,
        "lr": trial.lr,
        "seed": trial.seed,
        "parameters": parameters,
        "losses": [],
    }
    task, prose = _without_scores(trial.task), isinstance(tasks.get(trial.task), tasks.Text)
    if parameters:
        try:
            done = train(
                model,
                tokenizer,
                task,
                steps=steps,
                lr=trial.lr,
                batch_size=BATCH,
                warmup=WARMUP,
                seed=trial.seed,
                evaluate_every=steps,
                live=False,
            )
        except FloatingPointError:
            return row | {"broken": True, "seconds": round(time.process_time() - begun, 2)}
        row["losses"] = [round(sum(part) / len(part), 4) for part in _tenths(done.losses)]
    for split in splits.SPLITS:
        found = splits.score(model, splits.batch(tokenizer, trial.task, split), prose)
        if not math.isfinite(found.loss):
            return row | {"broken": True, "seconds": round(time.process_time() - begun, 2)}
        row[split] = [round(x, 3) for x in found.items.tolist()] if prose else _bits(found.items)
        row[f"{split}_loss"] = round(found.loss, 5)
    row["skills"] = splits.skills(model, tokenizer)
    if parameters:
        row["moved"] = moved(model)
    return row | {"broken": False, "seconds": round(time.process_time() - begun, 2)}


def put_on(model: nn.Module, tokenizer, trial: Trial) -> int:
    """The setting's adapters on the model, or gradients for all of it; how many numbers are trained."""
    setting = SETTINGS[trial.setting]
    if setting.method == "none":
        return 0
    if not setting.passes:
        return sum(p.numel() for p in model.requires_grad_(True).parameters())
    for variant, targets in setting.passes:
        data = None
        if variant.data == "required":
            drawn = batches.training(tasks.get(trial.task), tokenizer, CALIBRATION_BATCHES, BATCH, CALIBRATION_SEED)
            data = [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in drawn]
        attach(model, variant, targets=targets, calibration_data=data)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _without_scores(name: str) -> tasks.Task | tasks.Text:
    """The task, whose scores on the way are taken on validation: nothing here looks at test before its end."""
    task = tasks.get(name)
    if isinstance(task, tasks.Text):
        return task

    def draw(rng, held_out):
        return rng.choice(splits.examples(name, "validation")) if held_out else task.draw(rng, False)

    return tasks.Task(name, task.about, draw)


def _tenths(losses: list[float]) -> list[list[float]]:
    size = max(1, len(losses) // 10)
    return [losses[i : i + size] for i in range(0, len(losses), size)]


def _bits(items: Tensor) -> str:
    return "".join(str(int(bit)) for bit in items)


# ---- how far the weights moved ----------------------------------------------------------------------


@torch.no_grad()
def moved(model: nn.Module) -> dict[str, float]:
    """Of dW = W' - W in each linear layer of the blocks, the mean over layers that moved.

    Returns:
        spectral: |dW| / |W| by the largest singular value; stable_rank: |dW|_F^2 / |dW|_2^2; in_top: the share of
        |dW|_F^2 between W's TOP left and right singular directions; angle: the largest principal angle in radians
        between the TOP left singular directions of W and of W'; layers: how many moved.
    """
    found: dict[str, list[float]] = {"spectral": [], "stable_rank": [], "in_top": [], "angle": []}
    for path, (W, U, S, Vh) in _base().items():
        layer = model.get_submodule(path)
        adapted = effective_weight(layer)[0] if hasattr(layer, "adapter") else layer.weight
        dW = adapted.detach().double() - W
        size = torch.linalg.matrix_norm(dW, 2).item()
        if size == 0:
            continue
        whole = dW.square().sum().item()
        found["spectral"].append(size / S[0].item())
        found["stable_rank"].append(whole / size**2)
        found["in_top"].append((U[:, :TOP].T @ dW @ Vh[:TOP].T).square().sum().item() / whole)
        turned = torch.linalg.svd(W + dW, full_matrices=False)[0][:, :TOP]
        cosines = torch.linalg.svdvals(U[:, :TOP].T @ turned).clamp(max=1.0)
        found["angle"].append(cosines.min().acos().item())
    means = {name: round(sum(values) / len(values), 5) if values else 0.0 for name, values in found.items()}
    return means | {"layers": len(found["spectral"])}


@cache
def _base() -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Path -> W and its singular value decomposition, float64."""
    model, _ = load_base()
    layers = {
        path: layer.weight.detach().double()
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and path != "lm_head"
    }
    return {path: (W, *torch.linalg.svd(W, full_matrices=False)) for path, W in layers.items()}
