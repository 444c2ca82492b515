"""What only PiSSA promises: it starts at the top of the weight's own SVD, and leaves the weight where it is."""

import math

import pytest
import torch

import adapterlab as al
from helpers import FLOATS, far_from_start, linear, randn, relative

ALPHAS = pytest.mark.parametrize("alpha, rslora", [(None, False), (6, False), (0.5, True), (-3, False)])


def top(W, r):
    """The best approximation of rank r, from the eigenvectors of W W^T."""
    _, vectors = torch.linalg.eigh(W @ W.t())
    return vectors[:, -r:] @ vectors[:, -r:].t() @ W


@ALPHAS
@pytest.mark.parametrize("shape", [(12, 20), (20, 12)], ids=str)
def test_it_starts_at_the_best_approximation_of_rank_r(alpha, rslora, shape):
    layer = linear(*shape)
    al.attach(layer, al.PiSSA(r=4, alpha=alpha, rslora=rslora), dtype=torch.float64)
    p = layer.adapter
    s = (4 if alpha is None else alpha) / (math.sqrt(4) if rslora else 4)
    for A, B in ((p.lora_A, p.lora_B), (p.lora_A0, p.lora_B0)):
        assert relative(s * B @ A, top(layer.weight.detach(), 4)) < 1e-12
    assert torch.allclose(p.lora_A.norm(dim=1), p.lora_B.norm(dim=0))  # the root of S on each side


@ALPHAS
@pytest.mark.parametrize("base", FLOATS, ids=str)
def test_nothing_is_lost_at_the_start_in_any_dtype(alpha, rslora, base):
    layer = linear(48, 80, True, base)
    x, weight = randn(9, 48, seed=1, dtype=base), layer.weight.clone()
    before = layer(x)
    handle = al.attach(layer, al.PiSSA(r=8, alpha=alpha, rslora=rslora))
    assert torch.equal(layer(x), before) and torch.equal(al.effective_weight(layer)[0], weight)
    far_from_start(handle)
    assert torch.equal(layer.weight, weight) and not torch.equal(layer(x), before)
    handle.detach()
    assert torch.equal(layer(x), before)


def test_a_rank_deficient_weight_is_no_trouble():
    layer = linear(12, 20)
    with torch.no_grad():
        layer.weight.copy_(torch.outer(randn(20, seed=1), randn(12, seed=2)))
    x = randn(5, 12, seed=3)
    before = layer(x)
    handle = al.attach(layer, al.PiSSA(r=6), dtype=torch.float64)
    assert torch.equal(layer(x), before)
    layer(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in handle.parameters())


@pytest.mark.parametrize("variant", [al.PiSSA(r=4), al.AntiPaSTO(r=4)], ids=lambda variant: variant.name)
def test_a_weight_that_is_not_finite_is_refused_with_the_layers_name(variant):
    model = torch.nn.Sequential(linear(12, 12), linear(12, 12))
    with torch.no_grad():
        model[1].weight[3, 4] = math.nan
    with pytest.raises(ValueError, match=f"{variant.name} cannot start on layer '1'.*not finite"):
        al.attach(model, variant)
    assert not any(hasattr(layer, "adapter") for layer in model)
