"""End to end: a base loaded in 4 or 8 bits by transformers learns what its dense twin learns, with each of the nine.

Halfway through the task a score is chance: at 32 examples a step another seed, or another rounding of the base, moves
it by up to ten points, up and down, on dense weights too. Here the task is learned to the end, where three points mean
something. That takes 48 examples a step; and the gates, of which there are few, take three times the steps.
"""

import copy
import functools
import logging
from dataclasses import dataclass

import pytest
import torch

import adapterlab as al
from adapterlab import kit
from adapterlab.kit import batches, tasks
from adapterlab.weights import storage

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # that it casts its inputs

TASK, HELD_OUT, POINTS = "add_rev", 512, 0.03
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@dataclass(frozen=True)
class Recipe:
    """As in the variant's chapter, but for the rank where more of it learns to the end."""

    variant: al.Variant
    lr: float
    steps: int = 100
    batch_size: int = 48


RECIPES = {
    "lora": Recipe(al.LoRA(r=8, alpha=16), 5e-3),
    "pissa": Recipe(al.PiSSA(r=8), 3e-3),
    "dora": Recipe(al.DoRA(r=8, alpha=16), 5e-3),
    "delora": Recipe(al.DeLoRA(r=8), 5e-3),
    "ia3": Recipe(al.IA3(), 3e-2, steps=300, batch_size=32),
    "ia3_ff": Recipe(al.IA3FF(), 5e-2, steps=300, batch_size=32),
    "hra": Recipe(al.HRA(r=8), 5e-3),
    "eva": Recipe(al.EVA(r=8, alpha=16), 5e-3),
    "antipasto": Recipe(al.AntiPaSTO(r=64, block_size=32), 2e-2),
}


@functools.cache
def base(kind, device):
    model, tokenizer = kit.load_base(quantize=kind)
    if kind is None:
        model.to(device)
    elif model.device.type != device:
        pytest.skip("where there is a GPU, transformers loads quantised models there")
    layers = [layer for path, layer in model.named_modules() if path.endswith("_proj")]
    assert {storage(layer) for layer in layers} == {{None: "dense", "nf4": "4-bit", "int8": "int8"}[kind]}
    return model, tokenizer


@functools.cache
def trained(name, kind, device):
    """-> held-out exact match before and after, of a run that is made once."""
    recipe, (model, tokenizer) = RECIPES[name], base(kind, device)
    model = copy.deepcopy(model)
    data = None
    if recipe.variant.data == "required":
        drawn = batches.training(tasks.get(TASK), tokenizer, 2, 32, seed=0)
        data = [{k: t.to(device) for k, t in batch.items() if k != "labels"} for batch in drawn]
    torch.manual_seed(0)
    al.attach(model, recipe.variant, calibration_data=data)
    how = dict(lr=recipe.lr, steps=recipe.steps, batch_size=recipe.batch_size, evaluate_every=recipe.steps)
    run = kit.train(model, tokenizer, TASK, live=False, **how)
    return run.evaluations[0][1], kit.evaluate(model, tokenizer, TASK, HELD_OUT)["exact_match"]


def test_every_variant_has_a_recipe():
    assert set(RECIPES) == set(al.VARIANTS)
    assert all(type(recipe.variant) is al.VARIANTS[name] for name, recipe in RECIPES.items())


KINDS = ("nf4", "int8")
# By default each variant on one of the two; the others with --full.
CASES = [
    pytest.param(name, kind, marks=() if (i + k) % 2 == 0 else pytest.mark.full, id=f"{name}-{kind}")
    for i, name in enumerate(RECIPES)
    for k, kind in enumerate(KINDS)
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name, kind", CASES)
def test_a_quantised_base_learns_what_its_dense_twin_learns(name, kind, device):
    start, reached = trained(name, kind, device)
    assert start < 0.2
    if reached < 1 - POINTS:  # else it is within three points of any twin, and none need be trained
        _, dense = trained(name, None, device)
        assert dense > 0.9, "the dense twin has not learned: there is nothing to reach"
        assert reached > dense - POINTS
