"""In float32 and 4096 wide, the fast path is no further from float64 than twice the plain way of computing the same."""

import pytest
import torch
import torch.nn.functional as F

import adapterlab as al
import reference
from helpers import IDS, VARIANTS, attach, far_from_start, linear, randn, relative, with_fields

D_IN, D_OUT, TOKENS = 4096, 64, 64


def adapted(variant):
    layer = linear(D_IN, D_OUT, dtype=torch.float32)
    attach(layer, variant)
    return layer, randn(TOKENS, D_IN, seed=1, dtype=torch.float32)


def assert_as_good(layer, x, plain, rows=slice(None)):
    variant = layer.adapter.variant
    exact = reference.output(variant, layer, x)[:, rows]
    assert relative(layer(x)[:, rows], exact) <= 2 * relative(plain[:, rows], exact)


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_each_variant_far_from_its_start(variant):
    layer, x = adapted(with_fields(variant, r=8))
    far_from_start(layer.adapter)
    assert_as_good(layer, x, F.linear(x, *al.effective_weight(layer)))


CANCELLED = slice(0, 32)


@pytest.mark.parametrize("left", [0.1, 0.01, 0.001, 0.0])
@torch.no_grad()
def test_dora_where_the_weight_and_its_update_cancel(left):
    """Plain: the same additions one by one, with the norm of a sum that is formed. What the additions themselves lose
    there, no norm can give back; it is as much in PEFT's form."""
    layer, x = adapted(al.DoRA(r=8, alpha=12))
    far_from_start(layer.adapter)
    p, s = layer.adapter, 12 / 8
    update = s * p.lora_B.double() @ p.lora_A.double()
    rest = randn(D_OUT, D_IN, seed=5)
    rest *= left * (update.norm(dim=1) / rest.norm(dim=1))[:, None]
    layer.weight[CANCELLED] = (rest - update)[CANCELLED].float()
    p._forget_derived()
    norm = (layer.weight + s * p.lora_B @ p.lora_A).norm(dim=1)
    added = F.linear(x, layer.weight) + s * F.linear(F.linear(x, p.lora_A), p.lora_B)
    assert_as_good(layer, x, p.lora_m / norm * added + layer.bias, CANCELLED)


@torch.no_grad()
def test_dora_on_rows_that_are_zero():
    layer, x = adapted(al.DoRA(r=8, alpha=12))
    far_from_start(layer.adapter)
    layer.weight[CANCELLED] = 0.0
    layer.adapter._forget_derived()
    assert_as_good(layer, x, F.linear(x, *al.effective_weight(layer)), CANCELLED)
    layer.adapter.lora_B[CANCELLED] = 0.0  # no direction at all: these rows stay as they are
    assert torch.equal(layer(x)[:, CANCELLED], layer.bias[CANCELLED].expand(TOKENS, -1))


MIRRORS = {
    "paired": lambda U: U,
    "nearly paired": lambda U: U + 1e-4 * U.norm(dim=1, keepdim=True) * randn(*U.shape, seed=2) / D_IN**0.5,
    "parallel": lambda U: U[:1] * torch.arange(1, 9)[:, None],
    "at random": lambda U: randn(*U.shape, seed=3),
}


@pytest.mark.parametrize("place", MIRRORS.values(), ids=MIRRORS)
@torch.no_grad()
def test_hra_wherever_the_mirrors_stand(place):
    layer, x = adapted(al.HRA(r=8))
    layer.adapter.lora_U.copy_(place(layer.adapter.lora_U.double()))
    turned = x  # one reflection after the other
    for u in layer.adapter.lora_U.flip(0):
        turned = turned - 2 * torch.outer(turned @ u, u) / (u @ u)
    assert_as_good(layer, x, F.linear(turned, layer.weight, layer.bias))
