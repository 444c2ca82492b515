"""What only DeLoRA promises: a bounded update, finite numbers in half precision, and two starts."""

import copy
import math

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import adapterlab as al
from helpers import LOW_PRECISION, far_from_start, linear, randn, relative
from test_peft_parity import pair
from test_variants import quick

STARTS = pytest.mark.parametrize("start", ["zero", "copy"])
NORMS = pytest.mark.parametrize("norm", ["column", "scalar"])


def update(layer):
    return (al.effective_weight(layer)[0] - layer.weight).detach()


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (256, 64)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_float64_equals_pefts_to_1e_12(shape, bias):
    model, _, theirs, pairs = pair(torch.nn.Sequential(linear(*shape, bias)), al.DeLoRA(r=4, lambda0=3.0), ["0"])
    x, g = randn(5, shape[0], seed=1), randn(5, shape[1], seed=2)
    y, z = model(x), theirs(x)
    assert relative(y, z) < 1e-12
    y.backward(g)
    z.backward(g)
    for name, p, q, shaped in pairs:
        assert relative(p.grad, shaped(q.grad)) < 1e-12, name


@STARTS
@pytest.mark.parametrize("base", LOW_PRECISION, ids=str)
@pytest.mark.parametrize("adapter", [torch.float32, *LOW_PRECISION], ids=str)
@pytest.mark.parametrize("r", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-3])
def test_finite_in_half_precision_wherever_b_is(start, base, adapter, r, size):
    layer = linear(64, 48, True, base)
    handle = al.attach(layer, al.DeLoRA(r=r, start=start), dtype=adapter)
    with torch.no_grad():
        layer.adapter.lora_B.copy_(size * randn(48, r, seed=3))
    x = randn(32, 64, seed=1, dtype=base).requires_grad_()
    y = layer(x)
    y.float().square().mean().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    for name, p in handle.named_parameters():
        assert p.grad.isfinite().all(), name
    assert layer.adapter.lora_B.grad.abs().max() > 0


@pytest.mark.parametrize("r", [2, 4])
def test_pefts_layer_in_fp16_is_not_finite_at_the_start(r):
    """The reason for float32 inside: lambda / (r 1e-4 |a|) is beyond float16, and infinity times zero is NaN."""
    config = peft.DeloraConfig(r=r, target_modules=["0"])
    theirs = peft.get_peft_model(torch.nn.Sequential(linear(64, 48, True, torch.float16)), config).half()
    assert not theirs(randn(32, 64, seed=1, dtype=torch.float16)).isfinite().all()


@STARTS
@NORMS
@quick
@given(seed=st.integers(0, 99), r=st.integers(1, 12), strength=st.floats(1e-3, 100), factor=st.floats(0.1, 100))
def test_lambda_bounds_the_update_whatever_a_and_b_are(start, norm, seed, r, strength, factor):
    layer = linear(12, 20, seed=seed)
    far_from_start(
        al.attach(layer, al.DeLoRA(r=r, lambda0=strength, start=start, norm=norm), dtype=torch.float64), seed
    )
    with torch.no_grad():
        layer.adapter.lora_lambda.fill_(strength)
        layer.adapter.lora_A *= factor
        layer.adapter.lora_B *= factor
    size = (update(layer) / layer.adapter.lora_wnorm).norm()
    assert size <= strength * (1 + (start == "copy")) * (1 + 1e-9)


@STARTS
def test_lambda_may_be_a_scalar_or_of_shape_1(start):
    layer, x = linear(12, 20), randn(5, 12, seed=1)
    adapter = far_from_start(al.attach(layer, al.DeLoRA(r=4, start=start), dtype=torch.float64))
    y, (W, _) = layer(x), al.effective_weight(layer)
    assert {t.shape for name, t in layer.adapter.tensors().items() if "lambda" in name} == {(1,)}
    count = adapter.num_parameters
    layer.adapter.lora_lambda = torch.nn.Parameter(layer.adapter.lora_lambda.detach().reshape(()))
    assert torch.equal(layer(x), y) and torch.equal(al.effective_weight(layer)[0], W)
    assert adapter.num_parameters == count == 4 * (12 + 20) + 1
    layer(x).sum().backward()
    assert layer.adapter.lora_lambda.grad.shape == () and layer.adapter.lora_lambda.grad != 0
    with adapter.frozen(), torch.no_grad():
        assert torch.equal(layer(x), y)
    al.merge(layer)
    assert relative(layer.weight, W) < 1e-12


def test_a_direction_without_length_adds_nothing():
    layer, x = linear(12, 20), randn(5, 12, seed=1)
    far_from_start(al.attach(layer, al.DeLoRA(r=4), dtype=torch.float64))
    changed = []
    for factor in ("lora_A", "lora_B"):
        with torch.no_grad():
            getattr(layer.adapter, factor)[(0, ...) if factor == "lora_A" else (..., 0)] = 0
        W, b = al.effective_weight(layer)
        assert relative(layer(x), x @ W.t() + b) < 1e-12
        changed.append(update(layer))
    assert relative(*changed) < 1e-12


def test_the_weights_norm_is_never_stored_below_float32():
    layer = linear(12, 20, dtype=torch.float32)
    al.attach(layer, al.DeLoRA(r=4), dtype=torch.bfloat16)
    assert relative(layer.adapter.lora_wnorm, layer.weight.norm(dim=0)) < 1e-6


@NORMS
def test_the_weights_norm(norm):
    layer = linear(12, 20)
    al.attach(layer, al.DeLoRA(r=4, norm=norm), dtype=torch.float64)
    squares = layer.weight.double() ** 2
    expected = squares.sum(0).sqrt() if norm == "column" else squares.sum().sqrt().expand(12)
    assert relative(layer.adapter.lora_wnorm, expected) < 1e-12


def first_step(d_in, lr, start):
    """norm(dW) / norm(W) after one AdamW step on random data."""
    torch.manual_seed(0)
    layer = linear(d_in, 256, False, torch.float32)
    handle = al.attach(layer, al.DeLoRA(r=8, start=start))
    optimizer = torch.optim.AdamW(handle.parameters(), lr=lr, weight_decay=0.0)
    (layer(torch.randn(64, d_in)) - torch.randn(64, 256)).square().mean().backward()
    optimizer.step()
    return (update(layer).norm() / layer.weight.norm()).item()


@pytest.mark.parametrize("d_in", [128, 4096])
def test_the_cliff_belongs_to_the_zero_start(d_in):
    """From B = 0 the first step goes as far at any rate, about lambda / sqrt(r d_in); from a copy as the rate asks."""
    rates = [1e-4, 1e-3, 1e-2]
    zero = [first_step(d_in, lr, "zero") for lr in rates]
    copy_ = [first_step(d_in, lr, "copy") for lr in rates]
    assert max(zero) < 1.25 * min(zero)
    assert 0.7 < zero[1] / (15 / math.sqrt(8 * d_in)) < 1.4
    assert copy_[1] > 5 * copy_[0] and copy_[2] > 5 * copy_[1]


@pytest.mark.parametrize("lambda0", [0, -1.0, math.nan, math.inf, "15", None, True], ids=repr)
def test_a_lambda_that_is_not_above_0_is_refused(lambda0):
    with pytest.raises(ValueError, match=f"lambda0 = {lambda0!r}.*above 0"):
        al.DeLoRA(lambda0=lambda0)


@pytest.mark.parametrize("field, value", [("start", "random"), ("start", None), ("norm", "row"), ("norm", 1)])
def test_a_start_or_norm_that_there_is_not_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} = {value!r}.*choose"):
        al.DeLoRA(**{field: value})


@STARTS
@pytest.mark.parametrize("lambda0", [0.1, 15.0, 3.3])
@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16], ids=str)
def test_the_start_is_the_base_bit_for_bit_at_any_lambda(start, lambda0, adapter):
    layer = linear(48, 80, True, torch.float32)
    x = randn(7, 48, seed=1, dtype=torch.float32)
    before, weight = layer(x), copy.deepcopy(layer.weight)
    al.attach(layer, al.DeLoRA(r=4, lambda0=lambda0, start=start), dtype=adapter)
    assert torch.equal(layer(x), before) and torch.equal(al.effective_weight(layer)[0], weight)
