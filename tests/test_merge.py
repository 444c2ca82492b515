"""merge folds the adapters into the weights, or changes nothing."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import adapterlab as al
from adapterlab import runtime
from anatomy import anatomy, bits, unchanged
from helpers import FLOATS, IDS, LOW_PRECISION, VARIANTS, attach, far_from_start, linear, randn, relative, small_model

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=IDS)


@each_variant
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_merge_equals_the_hook(variant, bias, dtype):
    model = small_model(dtype, bias)
    far_from_start(attach(model, variant, dtype=dtype))
    x = randn(6, 12, seed=1, dtype=dtype)
    adapted = model(x)
    al.merge(model)
    assert relative(model(x), adapted) < (1e-9 if dtype == torch.float64 else 5e-6)


@each_variant
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_merge_computes_in_float32_whatever_the_adapter_is_stored_in(variant, dtype):
    layer = linear(12, 8, dtype=torch.float32)
    far_from_start(attach(layer, variant, dtype=dtype))
    W, b = al.effective_weight(layer)
    al.merge(layer)
    assert relative(layer.weight, W) < 5e-6 and relative(layer.bias, b) < 5e-6


@each_variant
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_merge_rounds_once(variant, dtype):
    layer = linear(12, 8, dtype=dtype)
    far_from_start(attach(layer, variant))
    W, b = al.effective_weight(layer)
    assert W.dtype == torch.float32
    al.merge(layer)
    for merged, exact in ((layer.weight, W), (layer.bias, b)):
        # Half a unit in the last place, and float32's own error: rounded twice, some numbers would be further off.
        assert ((merged.float() - exact).abs() <= exact.abs() * torch.finfo(dtype).eps / 2 + 2e-6).all()


@pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if v.name not in ("dora", "ia3", "ia3_ff")], ids=lambda v: v.name
)
def test_a_difference_of_low_rank_comes_as_two_factors(variant, monkeypatch):
    layer = linear(12, 8)
    far_from_start(attach(layer, variant, dtype=torch.float64))
    A, B = variant.low_rank(layer.adapter, layer)
    assert len(A) == B.shape[1] <= 8
    W, _ = al.effective_weight(layer)
    assert relative(B @ A, W - layer.weight) < 1e-12
    monkeypatch.setattr(type(variant), "effective_weight", None)  # merging needs no more than the factors
    al.merge(layer)
    assert relative(layer.weight, W) < 1e-12


@each_variant
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_afterwards_it_is_a_plain_layer(variant, dtype):
    model = small_model(dtype)
    model[0].weight.requires_grad_(False)
    before = anatomy(model)
    far_from_start(attach(model, variant))
    al.merge(model)
    after = anatomy(model)
    assert after.keys() == before.keys()
    for path in before:
        parameters, expected = after[path].pop("parameters"), before[path].pop("parameters")
        assert after[path] == before[path]
        assert parameters.keys() == expected.keys()
        for name in expected:  # type, dtype, shape, requires_grad; the numbers are others
            assert parameters[name][1][:4] == expected[name][1][:4]
    assert type(model[0]) is nn.Linear
    attach(model, variant)  # and can be adapted again


@each_variant
@pytest.mark.parametrize(
    "room, times",
    [(0, 4), (12 * 20 * 4, 3), (20 * 8 * 4, 3), (runtime.KEPT_WHILE_MERGING, 2)],
    ids=["none kept", "first kept", "second kept", "both kept"],
)
def test_merge_is_the_same_however_many_layers_are_kept_meanwhile(variant, room, times, monkeypatch):
    model = small_model()
    far_from_start(attach(model, variant))
    twin = copy.deepcopy(model)
    al.merge(twin)
    made, merged = [], runtime._merged
    monkeypatch.setattr(runtime, "_merged", lambda layer: made.append(layer) or merged(layer))
    monkeypatch.setattr(runtime, "KEPT_WHILE_MERGING", room)
    al.merge(model)
    assert len(made) == times
    assert bits(model) == bits(twin)


@each_variant
def test_merge_writes_into_no_tensor_of_the_base(variant):
    model = small_model()
    held = list(model.parameters())
    copies = [p.detach().clone() for p in held]
    far_from_start(attach(model, variant))
    al.merge(model)
    assert all(torch.equal(p, copy) for p, copy in zip(held, copies, strict=True))
    assert not {p.data_ptr() for p in held} & {p.data_ptr() for p in model.parameters()}


@each_variant
def test_two_passes_are_merged(variant):
    model = small_model(torch.float64)
    far_from_start(attach(model, variant, targets="0", dtype=torch.float64), seed=1)
    far_from_start(attach(model, al.LoRA(r=2), targets="2", dtype=torch.float64), seed=2)
    x = randn(6, 12, seed=1)
    adapted = model(x)
    al.merge(model)
    assert relative(model(x), adapted) < 1e-9
    assert not any(hasattr(module, "adapter") for module in model.modules())


@each_variant
def test_a_handle_after_merge_is_harmless(variant):
    model = small_model()
    with attach(model, variant) as adapter:
        far_from_start(adapter)
        al.merge(model)
        merged = anatomy(model)
    adapter.detach()
    assert anatomy(model) == merged


@each_variant
def test_merge_inside_autocast_computes_in_float32(variant):
    model, twin = small_model(), small_model()
    for each in (model, twin):
        far_from_start(attach(each, variant, dtype=torch.float32))
    al.merge(model)
    with torch.autocast("cpu", torch.bfloat16):
        al.merge(twin)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


class TiedHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.other, self.embed = nn.Linear(12, 9), nn.Linear(12, 9), nn.Embedding(9, 12)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(x) + self.other(x)


@each_variant
def test_tied_weights_are_refused_by_name(variant):
    model = TiedHead()
    attach(model, variant, targets=["head", "other"])
    with unchanged(model), pytest.raises(ValueError, match="'head.weight' and 'embed.weight' are one tensor"):
        al.merge(model)
    al.detach(model)
    attach(model, variant, targets="other")  # a tie among layers that are not adapted is none of merge's business
    al.merge(model)


@each_variant
def test_a_tied_bias_is_refused_too(variant):
    model = small_model()
    model.append(nn.Linear(8, 8))
    model[3].bias = model[2].bias
    attach(model, variant, targets="3")
    with unchanged(model), pytest.raises(ValueError, match="'2.bias' and '3.bias'"):
        al.merge(model)


@each_variant
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_merged_weight_that_is_not_finite_is_refused(variant, value):
    model = small_model()
    far_from_start(attach(model, variant))
    with torch.no_grad():
        next(model[2].adapter.parameters()).flatten()[0] = value
    with unchanged(model), pytest.raises(ValueError, match="'2' is not finite in torch.float32"):
        al.merge(model)


def test_a_merged_weight_that_overflows_the_base_dtype_is_refused():
    model = small_model(torch.float16)
    far_from_start(attach(model, al.LoRA(r=2)))
    with torch.no_grad():
        model[2].adapter.lora_B.mul_(1e6)  # finite in float32
    assert al.effective_weight(model[2])[0].isfinite().all()
    with unchanged(model), pytest.raises(ValueError, match="'2' is not finite in torch.float16"):
        al.merge(model)


def test_a_layer_without_outputs_is_merged_too():
    layer = nn.Linear(4, 3)
    layer.out_features, layer.weight, layer.bias = 0, nn.Parameter(torch.empty(0, 4)), nn.Parameter(torch.empty(0))
    attach(layer, al.IA3())
    al.merge(layer)
    assert layer.weight.shape == (0, 4) and not hasattr(layer, "adapter")


def test_dequantize_is_given_by_name():
    model = small_model()
    attach(model, al.LoRA(r=2))
    with unchanged(model), pytest.raises(TypeError, match="positional"):
        al.merge(model, True)


def test_there_must_be_something_to_merge():
    model = small_model()
    with unchanged(model), pytest.raises(ValueError, match="no adapter to merge"):
        al.merge(model)


@dataclass(frozen=True)
class Doubled(al.LoRA):
    """The reader's own: LoRA with another equation, and no word about its factors."""

    def effective_weight(self, p, W, b):
        return W + 2 * p.scale * p.lora_B @ p.lora_A, b

    def forward(self, prepared, x, y):
        return super().forward(prepared, x, super().forward(prepared, x, y))


def test_a_variant_derived_from_ours_is_merged_by_its_own_equation():
    model = small_model(torch.float64)
    far_from_start(attach(model, Doubled(r=4, alpha=6), dtype=torch.float64))
    x = randn(6, 12, seed=1)
    adapted = model(x)
    al.merge(model)
    assert relative(model(x), adapted) < 1e-9
