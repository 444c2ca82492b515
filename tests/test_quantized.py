"""All nine on weights of 4 and 8 bits: nothing is lost at the start, gradients live, and the base comes back."""

import copy
import logging

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

import adapterlab as al
import reference
from adapterlab.weights import dense_weight, storage
from helpers import IDS, VARIANTS, attach, expected, far_from_start, linear, randn, relative

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # that it casts its inputs

KINDS = ["nf4", "fp4", "nf4 double", "int8", "torchao"]
BNB = KINDS[:4]
D_IN, D_OUT = 64, 96
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=IDS)


class Stored(str):
    """One of KINDS, and where it lies."""

    device = "cpu"


class OnGpu(Stored):
    device = "cuda"


ON_GPU = [pytest.param(OnGpu(kind), marks=pytest.mark.gpu, id=f"{kind} on cuda") for kind in KINDS]
each_kind = pytest.mark.parametrize("kind", [*map(Stored, KINDS), *ON_GPU])
each_compute = pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def quantized(kind, compute=torch.float32, shape=(D_IN, D_OUT), seed=0):
    """A linear layer, its weight stored as `kind`, that computes in `compute`; in train mode."""
    device = getattr(kind, "device", "cpu")
    dense = linear(*shape, dtype=torch.float32, seed=seed)
    if kind == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        model = nn.Sequential(dense.to(device, compute))
        quantize_(model, Int8WeightOnlyConfig())
        return model[0]
    if kind == "int8":
        layer = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False)
    else:
        double = kind.endswith("double")
        layer = bnb.nn.Linear4bit(*shape, quant_type=kind[:3], compress_statistics=double, compute_dtype=compute)
    layer.load_state_dict(dense.state_dict())
    layer = layer.to(device)
    layer.bias.data = layer.bias.data.to(compute)  # as bitsandbytes does at the first forward
    return layer.train()


def original(kind):
    return linear(D_IN, D_OUT, dtype=torch.float32).weight.detach().to(kind.device)


def inputs(compute, kind="", n=40):
    return randn(n, D_IN, seed=1, dtype=compute).to(getattr(kind, "device", "cpu"))


def tolerance(kind, tight, training=True):
    """int8 rounds its inputs to 8 bits as well, by bitsandbytes' choice: in eval mode, and on a GPU in both."""
    return 2e-2 if kind == "int8" and not (training and kind.device == "cpu") else tight


def put_on(layer, variant, x):
    data = [x] if variant.data == "required" else None
    return al.attach(layer, variant, calibration_data=data)


def content(layer):
    """The bits that are stored, scales included; what is served, whatever form the library keeps it in."""
    state = layer.state_dict()
    return {name: t.clone() if isinstance(t, torch.Tensor) else t for name, t in state.items() if "adapter" not in name}


def same(a, b):
    tensors = [name for name, value in a.items() if isinstance(value, torch.Tensor)]
    return a.keys() == b.keys() and all(torch.equal(dense(a[name]), dense(b[name])) for name in tensors)


def dense(t):
    return t.dequantize() if type(t).__module__.startswith("torchao.") else t


def eval_pass(layer, x):
    with torch.no_grad():
        y = layer.eval()(x)
    layer.train()
    return y


# ---- reading --------------------------------------------------------------------------------------

# By measurement, of a weight of normal numbers: nf4 9.6e-2, fp4 1.2e-1, int8 7e-3.
STORED = {"nf4": 0.11, "fp4": 0.14, "nf4 double": 0.11, "int8": 0.01, "torchao": 0.01}


@each_kind
@each_compute
def test_the_dense_weight_is_what_the_layer_multiplies_by(kind, compute):
    layer, x = quantized(kind, compute), inputs(compute, kind)
    W = dense_weight(layer)
    assert W.dtype == torch.float32 and W.shape == (D_OUT, D_IN) and not W.requires_grad
    assert 1e-4 < relative(W, original(kind)) < STORED[kind]
    step = max(1e-6, 2 * torch.finfo(compute).eps)
    assert relative(layer(x), nn.functional.linear(x.double(), W.double(), layer.bias.double())) < tolerance(kind, step)


@each_kind
def test_reading_changes_nothing_and_is_right_after_any_history(kind):
    layer, x = quantized(kind), inputs(torch.float32, kind)
    first = dense_weight(layer)
    before = content(layer)
    dense_weight(layer)
    assert same(content(layer), before)
    layer(x)
    assert torch.equal(dense_weight(layer), first)
    eval_pass(layer, x)  # may repack a 4-bit layer, whose scales then go through bf16
    assert relative(dense_weight(layer), first) < 5e-3
    again = dense_weight(layer)
    assert torch.equal(dense_weight(layer), again)


@pytest.mark.parametrize("storage_dtype", [torch.uint8, torch.bfloat16, torch.float32], ids=str)
def test_4_bit_weights_in_any_container(storage_dtype):
    layer = bnb.nn.Linear4bit(D_IN, D_OUT, quant_type="nf4", quant_storage=storage_dtype, compute_dtype=torch.float32)
    layer.load_state_dict(linear(D_IN, D_OUT, dtype=torch.float32).state_dict())
    layer = layer.to("cpu")
    assert torch.equal(dense_weight(layer), dense_weight(quantized("nf4 double")))


@pytest.mark.parametrize("kind", ["4-bit", "int8"])
def test_a_layer_that_is_not_quantised_yet_is_refused_with_words(kind):
    layer = (
        bnb.nn.Linear4bit(D_IN, D_OUT) if kind == "4-bit" else bnb.nn.Linear8bitLt(D_IN, D_OUT, has_fp16_weights=False)
    )
    assert storage(layer) == kind
    with pytest.raises(TypeError, match="not quantised yet.*to a device"):
        al.attach(nn.Sequential(layer), al.LoRA(r=4))
    assert not hasattr(layer, "adapter")


# ---- all nine -------------------------------------------------------------------------------------


@each_variant
@each_kind
@each_compute
def test_nothing_changes_at_the_start(variant, kind, compute):
    layer, x = quantized(kind, compute), inputs(compute, kind)
    before = layer(x)
    adapter = put_on(layer, variant, x)
    facts = expected(variant)
    bound = facts.identity if compute == torch.float32 else facts.identity_low
    exact = bound == 0  # then the inputs are the same bits, and so is what becomes of them
    assert relative(layer(x), before) <= (bound if exact else tolerance(kind, bound))
    served = eval_pass(layer, x)
    with adapter.disabled():
        assert relative(served, eval_pass(layer, x)) <= (bound if exact else tolerance(kind, bound, training=False))


# In train mode. Measured: 1.2e-7 in float32, 0.6 of a rounding step in the others.
@each_variant
@each_kind
@each_compute
def test_output_is_that_of_the_equation_on_the_stored_weight(variant, kind, compute):
    layer, x = quantized(kind, compute), inputs(compute, kind)
    far_from_start(put_on(layer, variant, x))
    tensors = {name: t.cpu() for name, t in reference.tensors(layer).items()}
    W, b = reference.EQUATIONS[variant.name](
        variant, tensors, dense_weight(layer).double().cpu(), layer.bias.detach().double().cpu()
    )
    wanted = nn.functional.linear(x.double().cpu(), W, b)
    step = max(1e-5, torch.finfo(compute).eps)
    assert relative(layer(x).cpu(), wanted) < tolerance(kind, step)
    assert relative(al.effective_weight(layer)[0].cpu(), W) < 1e-5
    assert relative(eval_pass(layer, x).cpu(), wanted) < tolerance(kind, step, training=False)


@each_variant
@each_kind
@each_compute
def test_gradients_live_before_between_and_after_eval_passes(variant, kind, compute):
    layer, x = quantized(kind, compute), inputs(compute, kind)
    eval_pass(layer, x)
    adapter = far_from_start(put_on(layer, variant, x))
    found = []
    for _ in range(2):
        eval_pass(layer, x)
        leaf = x.clone().requires_grad_()
        layer(leaf).float().square().sum().backward()
        grads = [leaf.grad, *(p.grad for p in adapter.parameters())]
        assert all(g is not None and g.isfinite().all() and g.abs().max() > 0 for g in grads)
        found.append([g.clone() for g in grads])
        for p in adapter.parameters():
            p.grad = None
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert layer.weight.grad is None


@each_variant
@each_kind
def test_the_base_comes_back_bit_for_bit(variant, kind):
    layer, x = quantized(kind), inputs(torch.float32, kind)
    flag = getattr(layer, "support_avx512bf16_for_cpu", None)
    before, y = content(layer), layer(x)
    adapter = far_from_start(put_on(layer, variant, x))
    layer(x).sum().backward()
    eval_pass(layer, x)
    assert same(content(layer), before)
    adapter.detach()
    assert same(content(layer), before) and torch.equal(layer(x), y)
    assert getattr(layer, "support_avx512bf16_for_cpu", None) == flag
    assert not hasattr(layer, "adapter")


@each_variant
@each_kind
def test_saved_and_loaded_on_a_fresh_quantised_layer(variant, kind, tmp_path):
    x = inputs(torch.float32, kind)
    model = nn.Sequential(quantized(kind))
    far_from_start(attach(model, variant, calibration_data=[x] if variant.data == "required" else None))
    al.save(model, tmp_path / "adapter.safetensors")
    fresh = nn.Sequential(quantized(kind))
    al.load(fresh, tmp_path / "adapter.safetensors")
    assert torch.equal(fresh(x), model(x))
    other = nn.Sequential(quantized(kind, seed=5))
    with pytest.raises(al.BaseMismatchError):
        al.load(other, tmp_path / "adapter.safetensors")


@each_variant
@each_kind
def test_merge_needs_to_be_told_to_dequantise(variant, kind):
    model, x = nn.Sequential(quantized(kind)), inputs(torch.float32, kind)
    far_from_start(attach(model, variant, calibration_data=[x] if variant.data == "required" else None))
    before, y, (W, b) = model[0], model(x), al.effective_weight(model[0])
    with pytest.raises(ValueError, match="'0' is quantised .*dequantize=True"):
        al.merge(model)
    assert model[0] is before and torch.equal(model(x), y)
    al.merge(model, dequantize=True)
    assert type(model[0]) is nn.Linear and storage(model[0]) == "dense" and not hasattr(model[0], "adapter")
    assert relative(model[0].weight, W) < 1e-6 and torch.equal(model[0].bias, b)
    assert not any(p.requires_grad for p in model.parameters())
    assert relative(model(x), y) < tolerance(kind, 1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_merge_keeps_the_mode(training):
    model = nn.Sequential(quantized("nf4")).train(training)
    al.attach(model, al.LoRA(r=4))
    al.merge(model, dequantize=True)
    assert model[0].training is training


def test_merge_adds_no_bias():
    model = nn.Sequential(quantized("nf4"))
    model[0].bias = None
    al.attach(model, al.LoRA(r=4))
    al.merge(model, dequantize=True)
    assert type(model[0]) is nn.Linear and model[0].bias is None


def test_merge_cannot_replace_a_bare_layer():
    layer = quantized("nf4")
    al.attach(layer, al.LoRA(r=4))
    with pytest.raises(ValueError, match="bare quantised layer"):
        al.merge(layer, dequantize=True)
    assert hasattr(layer, "adapter")


# ---- the repacking trap ---------------------------------------------------------------------------


@pytest.mark.avx512bf16
def test_the_trap_without_us():
    """Exhibit 22: after one eval pass on such a CPU, a 4-bit layer gives its input no gradient any more."""
    layer, x = quantized("nf4"), inputs(torch.float32)
    layer.bias = None  # with one, the library's forward pass raises instead
    eval_pass(layer, x)
    leaf = x.clone().requires_grad_()
    with pytest.warns(UserWarning):
        layer(leaf).sum().backward()
    assert leaf.grad is None


@pytest.mark.avx512bf16
@pytest.mark.parametrize("kind", ["nf4", "fp4", "nf4 double"])
@pytest.mark.parametrize("adapted", [0, 1], ids=["adapted", "beside an adapted one"])
def test_the_trap_is_undone_at_attach_in_every_layer(kind, adapted):
    model = nn.Sequential(quantized(kind, shape=(64, 64)), quantized(kind, shape=(64, 64), seed=3))
    x = inputs(torch.float32)
    weights = [dense_weight(layer) for layer in model]
    packed = eval_pass(model, x)
    adapter = al.attach(model, al.LoRA(r=4), targets=str(adapted))
    for layer, W in zip(model, weights, strict=True):
        assert relative(dense_weight(layer), W) < 5e-3  # the scales have been through bf16
    eval_pass(model, x)
    leaf = x.clone().requires_grad_()
    model(leaf).square().sum().backward()
    assert leaf.grad.isfinite().all() and leaf.grad.abs().max() > 0
    assert not any(layer.support_avx512bf16_for_cpu for layer in model)
    adapter.detach()
    assert all(layer.support_avx512bf16_for_cpu for layer in model)
    assert torch.equal(eval_pass(model, x), packed)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_switch_stays_as_it_was_where_attach_fails(kind, monkeypatch):
    layer = quantized(kind)
    layer.support_avx512bf16_for_cpu = True
    for variant, data in ((al.LoRA(r=65), None), (al.EVA(r=4), [inputs(torch.float32, n=2)])):
        with pytest.raises(ValueError):
            al.attach(layer, variant, calibration_data=data)
        assert layer.support_avx512bf16_for_cpu is True


def test_the_switch_stays_as_it_was_where_attach_is_interrupted(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    layer = quantized("nf4")
    layer.support_avx512bf16_for_cpu = True
    monkeypatch.setattr(layer, "register_forward_hook", interrupted)
    with pytest.raises(KeyboardInterrupt):
        al.attach(layer, al.LoRA(r=4))
    assert layer.support_avx512bf16_for_cpu is True


def test_the_switch_returns_with_the_last_adapter():
    model = nn.Sequential(quantized("nf4", shape=(64, 64)), quantized("nf4", shape=(64, 64)))
    for layer in model:
        layer.support_avx512bf16_for_cpu = True
    first, second = al.attach(model, al.LoRA(r=4), targets="0"), al.attach(model, al.IA3(), targets="1")
    first.detach()
    assert not any(layer.support_avx512bf16_for_cpu for layer in model)
    second.detach()
    assert all(layer.support_avx512bf16_for_cpu for layer in model)


def test_a_deep_copy_keeps_what_was_stopped():
    model = nn.Sequential(quantized("nf4"))
    model[0].support_avx512bf16_for_cpu = True
    al.attach(model, al.LoRA(r=4))
    twin = copy.deepcopy(model)
    al.detach(twin)
    assert twin[0].support_avx512bf16_for_cpu and not model[0].support_avx512bf16_for_cpu
