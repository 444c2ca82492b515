"""What every row of the house was trained with: the budget, the settings that fit it, the steps."""

import torch
from torch import nn

from ... import EVA, HRA, IA3, IA3FF, AntiPaSTO, DeLoRA, DoRA, LoRA, PiSSA, Variant, attach
from .. import batches
from ..training import Run, train
from .task import TASK

BUDGET = 25_000  # trainable parameters
STEPS, BATCH = 60, 32
CALIBRATION_BATCHES, CALIBRATION_SEED = 16, 123

# The largest rank that fits; of AntiPaSTO's, at the largest rank that the layers have, the largest blocks that fit.
SETTINGS: dict[str, Variant] = {
    "lora": LoRA(r=2),
    "pissa": PiSSA(r=2),
    "eva": EVA(r=2),
    "dora": DoRA(r=2),
    # Its first step moves W by lambda0 / sqrt(r d_in) of its norm whatever the rate: by 0.94 at the default, 15.
    "delora": DeLoRA(r=2, lambda0=5.0),
    "ia3": IA3(),
    "ia3_ff": IA3FF(),
    "hra": HRA(r=4),
    "antipasto": AntiPaSTO(r=64, block_size=16),
}


def layer_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Path -> (d_in, d_out) of every layer that `attach` adapts where no targets are named."""
    return {
        path: (layer.in_features, layer.out_features)
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and path != "lm_head"
    }


def calibration(tokenizer) -> list[dict[str, torch.Tensor]]:
    """Training batches as inputs, for variants that start from data."""
    found = batches.training(TASK, tokenizer, CALIBRATION_BATCHES, BATCH, CALIBRATION_SEED)
    return [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in found]


def adapt(model, tokenizer, variant: Variant, lr: float, *, seed: int = 0, targets=None, live: bool = False) -> Run:
    """Attach a variant to the base model and train it as the house does; scores are those of validation.

    Args:
        seed: of the adapter's start and of the training examples.
        targets: as `attach` takes them; None: all 28 linear layers, as in the house's rows.

    Raises:
        TypeError: `variant` is none.
        FloatingPointError: the loss is no longer finite.
    """
    if not isinstance(variant, Variant):
        raise TypeError(f"variant = {variant!r}: pass one with its settings, such as LoRA(r=2)")
    torch.manual_seed(seed)
    data = calibration(tokenizer) if variant.data == "required" else None
    attach(model, variant, targets=targets, calibration_data=data)
    every = max(1, STEPS // 6) if live else STEPS
    return train(
        model, tokenizer, TASK, steps=STEPS, batch_size=BATCH, lr=lr, seed=seed, evaluate_every=every, live=live
    )
