"""What an adapted layer has to live with: shapes, dtypes, autocast, checkpointing, copies, functional transforms."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

import adapterlab as al
from anatomy import bits, unchanged
from helpers import (
    FLOATS,
    IDS,
    LOW_PRECISION,
    VARIANTS,
    attach,
    far_from_start,
    linear,
    randn,
    relative,
    small_model,
    tiny_llama,
)

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
FP32 = 5e-6  # relative, between two ways of computing one thing in float32


def adapted(variant, dtype=torch.float32, bias=True):
    model = small_model(dtype, bias)
    return model, far_from_start(attach(model, variant))


def dense(model, x):
    """The small model with its effective weights, in the dtype these have."""
    (W0, b0), (W2, b2) = al.effective_weight(model[0]), al.effective_weight(model[2])
    return nn.functional.linear(torch.tanh(nn.functional.linear(x.to(W0.dtype), W0, b0)), W2, b2)


def gradients(adapter):
    found = {name: p.grad.clone() for name, p in adapter.named_parameters()}
    for p in adapter.parameters():
        p.grad = None
    return found


def assert_close(found, expected, bound=FP32):
    assert found.keys() == expected.keys()
    for name in found:
        assert relative(found[name], expected[name]) < bound, name


# ---- shapes ---------------------------------------------------------------------------------------


@each_variant
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(), (7,), (2, 7), (2, 3, 7), (0,), (2, 0)], ids=str)
def test_any_leading_shape(variant, bias, dtype, shape):
    model, adapter = adapted(variant, dtype, bias)
    x = randn(*shape, 12, seed=1, dtype=dtype).requires_grad_()
    y = model(x)
    assert y.shape == (*shape, 8) and y.dtype == dtype
    # As one batch of rows; matrix-vector products may round in another order, in bf16 over a rounding edge.
    assert relative(y.reshape(-1, 8), model(x.reshape(-1, 12))) < (1e-2 if dtype == torch.bfloat16 else FP32)
    y.float().square().sum().backward()
    assert x.grad.shape == x.shape and x.grad.isfinite().all()
    assert all(p.grad.shape == p.shape and p.grad.isfinite().all() for p in adapter.parameters())
    if 0 in shape:
        assert all((p.grad == 0).all() for p in adapter.parameters())


@each_variant
def test_an_input_that_is_not_contiguous(variant):
    model = small_model(torch.float64)
    far_from_start(attach(model, variant, dtype=torch.float64))
    x = randn(12, 5, 3, seed=1).permute(2, 1, 0)
    assert relative(model(x), dense(model, x)) < 1e-12
    expanded = randn(12, seed=2).expand(4, 12)
    assert relative(model(expanded), dense(model, expanded)) < 1e-12


@each_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_called_by_keyword(variant, dtype):
    layer = linear(12, 8, dtype=dtype)
    far_from_start(attach(layer, variant))
    x = randn(3, 12, seed=1, dtype=dtype)
    assert torch.equal(layer(input=x), layer(x))


@each_variant
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_a_nested_tensor_is_as_its_parts(variant, layout):
    layer = linear(12, 8, dtype=torch.float32)
    adapter = far_from_start(attach(layer, variant))
    parts = [randn(n, 12, seed=n, dtype=torch.float32).requires_grad_() for n in (3, 1, 5)]
    expected = [layer(part) for part in parts]
    sum(y.square().sum() for y in expected).backward()
    of_parts, of_parameters = [part.grad for part in parts], gradients(adapter)

    nested = torch.nested.nested_tensor([part.detach() for part in parts], layout=layout, requires_grad=True)
    y = layer(nested)
    assert y.is_nested and y.layout == layout
    sum(part.square().sum() for part in y.unbind()).backward()
    for found, wanted in zip((*y.unbind(), *nested.grad.unbind()), (*expected, *of_parts), strict=True):
        assert relative(found, wanted) < FP32
    assert_close(gradients(adapter), of_parameters)
    base = nn.functional.linear(nested, layer.weight)
    assert (y + base).is_nested  # of one raggedness with what another layer makes of x


# ---- dtypes ---------------------------------------------------------------------------------------


@each_variant
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_output_has_the_base_dtype_and_the_gradients_that_of_the_parameters(variant, dtype):
    model, adapter = adapted(variant, dtype)
    x = randn(6, 12, seed=1, dtype=dtype)
    y = model(x)
    assert y.dtype == dtype
    assert relative(y, dense(model, x)) < {torch.float64: 1e-6, torch.float32: FP32}.get(dtype, 2e-2)
    y.float().sum().backward()
    assert {p.grad.dtype for p in adapter.parameters()} == {torch.float32}
    assert all(p.grad.abs().sum() > 0 for p in adapter.parameters())


@each_variant
def test_float64_throughout(variant):
    model = small_model(torch.float64)
    adapter = far_from_start(attach(model, variant, dtype=torch.float64))
    x = randn(6, 12, seed=1)
    assert relative(model(x), dense(model, x)) < 1e-13
    assert {t.dtype for t in (*model.parameters(), *model.buffers())} == {torch.float64}
    assert {p.dtype for p in adapter.parameters()} == {torch.float64}


@each_variant
def test_a_float64_adapter_on_a_float32_base_computes_in_float64(variant):
    layer = linear(12, 8, dtype=torch.float32)
    far_from_start(attach(layer, variant, dtype=torch.float64))
    assert al.effective_weight(layer)[0].dtype == torch.float64
    x = randn(6, 12, seed=1, dtype=torch.float32)
    assert layer(x).dtype == torch.float32
    assert relative(layer(x), dense_layer(layer, x)) < FP32


def dense_layer(layer, x):
    W, b = al.effective_weight(layer)
    return nn.functional.linear(x.to(W.dtype), W, b)


@each_variant
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_arithmetic_is_float32_on_a_low_precision_base(variant, dtype):
    """The difference is as accurate as if it were computed in float64 and rounded; x and W as given."""
    layer = linear(64, 48, dtype=dtype)
    far_from_start(attach(layer, variant))
    x = randn(40, 64, seed=1, dtype=dtype)
    W, b = (t.double() for t in al.effective_weight(layer))
    exact = nn.functional.linear(x.double(), W, b)
    # Rounding x and W' to the base's dtype, as a merged layer does, is the error that is to be expected here.
    rounded = nn.functional.linear(x, W.to(dtype), b.to(dtype))
    assert relative(layer(x), exact) < 1.5 * relative(rounded, exact)


@each_variant
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_parameters_in_low_precision_are_computed_with_in_float32(variant, dtype):
    layer = linear(12, 8, dtype=torch.float32)
    far_from_start(attach(layer, variant, dtype=dtype))
    x = randn(6, 12, seed=1, dtype=torch.float32)
    assert al.effective_weight(layer)[0].dtype == torch.float32
    assert relative(layer(x), dense_layer(layer, x)) < FP32


@each_variant
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_an_adapter_that_is_cast_is_computed_with_in_float32(variant, dtype):
    """Also what was never stored below float32 now is."""
    layer = linear(12, 8, dtype=torch.float32)
    far_from_start(attach(layer, variant))
    layer.adapter.to(dtype)
    x = randn(6, 12, seed=1, dtype=torch.float32)
    assert relative(layer(x), dense_layer(layer, x)) < FP32


# ---- autocast -------------------------------------------------------------------------------------


@each_variant
def test_under_autocast_the_output_has_the_dtype_that_the_base_layer_gives(variant):
    layer = linear(12, 8, dtype=torch.float32)
    x = randn(6, 12, seed=1, dtype=torch.float32)
    adapter = far_from_start(attach(layer, variant))
    with torch.autocast("cpu", torch.bfloat16):
        with adapter.disabled():
            base = layer(x)
        y = layer(x)
    assert base.dtype == y.dtype == torch.bfloat16
    assert relative(y, dense_layer(layer, x)) < 1e-2


class OfItsInput(nn.Module):
    """A base layer that computes in float32 under autocast too, so that only the adapter's arithmetic can differ."""

    def __init__(self, layer):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, input):
        with torch.autocast("cpu", enabled=False):
            return nn.functional.linear(input, self.weight, self.bias)


@each_variant
def test_under_autocast_the_adapter_computes_in_float32(variant):
    layer = OfItsInput(linear(12, 8, dtype=torch.float32))
    adapter = far_from_start(attach(layer, variant))
    x = randn(6, 12, seed=1, dtype=torch.float32)
    outside = layer(x)
    outside.square().sum().backward()
    expected = gradients(adapter)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert torch.equal(y, outside)
    y.square().sum().backward()
    assert_close(gradients(adapter), expected)


@each_variant
def test_training_under_autocast_gives_float32_gradients_near_the_exact_ones(variant):
    model, adapter = adapted(variant)
    x = randn(6, 12, seed=1, dtype=torch.float32)
    model(x).square().sum().backward()
    expected = gradients(adapter)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x).float().square().sum()
    loss.backward()
    found = gradients(adapter)
    assert {g.dtype for g in found.values()} == {torch.float32}
    assert_close(found, expected, 5e-2)


# ---- gradient modes, train and eval ---------------------------------------------------------------


@each_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_goes_on_after_no_grad_and_inference_mode(variant, dtype, mode):
    model, adapter = adapted(variant, dtype)
    x = randn(6, 12, seed=1, dtype=dtype)
    expected = model(x)
    expected.float().square().sum().backward()
    wanted = gradients(adapter)
    model.load_state_dict(model.state_dict())  # what follows from the base weight is made again inside
    with mode():
        assert torch.equal(model(x), expected)
    assert not any(t.is_inference() for t in (*model.parameters(), *model.buffers()))
    y = model(x)
    assert torch.equal(y, expected)
    y.float().square().sum().backward()
    assert_close(gradients(adapter), wanted, 1e-6)


@each_variant
def test_train_and_eval_change_nothing_but_the_mode(variant):
    model, adapter = adapted(variant)
    x = randn(6, 12, seed=1, dtype=torch.float32)
    in_eval = model(x)
    assert not model[0].adapter.training
    model.train()
    assert model[0].adapter.training
    assert torch.equal(model(x), in_eval)
    with unchanged(model):
        model.eval()
        model.train()


# ---- activation checkpointing ---------------------------------------------------------------------


@each_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_gives_the_same_gradients(variant, dtype, use_reentrant):
    model, adapter = adapted(variant, dtype)
    x = randn(6, 12, seed=1, dtype=dtype).requires_grad_()
    y = model(x)
    y.float().square().sum().backward()
    expected = {"x": x.grad, **gradients(adapter)}
    x.grad = None
    again = checkpoint(model, x, use_reentrant=use_reentrant)
    again.float().square().sum().backward()
    assert torch.equal(again, y)
    found = {"x": x.grad, **gradients(adapter)}
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@each_variant
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_of_transformers(variant, use_reentrant):
    model = tiny_llama()
    adapter = far_from_start(attach(model, variant))
    tokens = torch.arange(3, 15).view(2, 6)
    model.train()
    model(input_ids=tokens, labels=tokens).loss.backward()
    expected = gradients(adapter)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    model(input_ids=tokens, labels=tokens).loss.backward()
    assert_close(gradients(adapter), expected)


# ---- copies ---------------------------------------------------------------------------------------


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


each_copy = pytest.mark.parametrize("make_copy", [copy.deepcopy, through_pickle, through_torch_save])


@each_variant
@each_copy
def test_a_copy_is_adapted_by_its_own_parameters(variant, make_copy):
    model, _ = adapted(variant)
    x = randn(6, 12, seed=1, dtype=torch.float32)
    twin = make_copy(model)
    expected = model(x)
    assert torch.equal(twin(x), expected)
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    with torch.no_grad():
        for name, p in twin.named_parameters():
            if ".adapter." in name:
                p.add_(0.3 * randn(*p.shape, seed=9, dtype=p.dtype))
    assert relative(twin(x), expected) > 1e-3
    assert torch.equal(model(x), expected)
    assert relative(twin(x), dense(twin, x)) < FP32


@each_variant
@each_copy
def test_detaching_a_copy_leaves_the_original_and_the_other_way_round(variant, make_copy):
    model = small_model()
    x = randn(6, 12, seed=1, dtype=torch.float32)
    base = model(x)
    model[2].bias.requires_grad_(False)
    before = bits(model)
    far_from_start(attach(model, variant))
    adapted_output = model(x)
    twin, other = make_copy(model), make_copy(model)
    with unchanged(model):
        al.detach(twin)
    assert bits(twin) == before
    assert torch.equal(twin(x), base) and torch.equal(model(x), adapted_output)
    al.detach(model)
    assert torch.equal(other(x), adapted_output) and torch.equal(model(x), base)
    al.merge(other)
    assert relative(other(x), adapted_output) < FP32


@each_variant
def test_a_copied_handle_works_on_the_copied_model(variant):
    model, adapter = adapted(variant)
    x = randn(6, 12, seed=1, dtype=torch.float32)
    expected = model(x)
    twin, twin_adapter = copy.deepcopy((model, adapter))
    with unchanged(model):
        with twin_adapter.disabled():
            assert torch.equal(model(x), expected) and relative(twin(x), expected) > 0.05
        twin_adapter.detach()
    assert not hasattr(twin[0], "adapter") and torch.equal(model(x), expected)


@each_variant
def test_state_dict_round_trip(variant):
    model, _ = adapted(variant)
    x = randn(6, 12, seed=1, dtype=torch.float32)
    other = small_model(seed=7)  # another base: everything comes from the state
    attach(other, variant)
    other(x)
    result = other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert not result.missing_keys and not result.unexpected_keys
    assert torch.equal(other(x), model(x))  # DoRA's norms are those of the new base weight
    assert relative(other(x), dense(other, x)) < FP32


@each_variant
def test_loading_the_base_alone_is_seen(variant):
    model, _ = adapted(variant)
    x = randn(6, 12, seed=1, dtype=torch.float32)
    model(x)
    model.load_state_dict(small_model(seed=7).state_dict(), strict=False)
    assert relative(model(x), dense(model, x)) < FP32


@each_variant
def test_the_state_dict_holds_what_is_saved_and_nothing_derived(variant):
    model, adapter = adapted(variant)
    ours = {key for key in model.state_dict() if ".adapter." in key}
    layers = [model.get_submodule(path) for path in adapter.targets]
    assert ours == {
        f"{path}.adapter.{name}"
        for path, layer in zip(adapter.targets, layers, strict=True)
        for name in variant.specs(layer.in_features, layer.out_features)
    }


@each_variant
@pytest.mark.parametrize("cast", ["double", "bfloat16", "half", "float"])
@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16], ids=str)
def test_a_cast_model_agrees_with_its_effective_weights(variant, base, cast):
    model, adapter = adapted(variant, base)
    x = randn(6, 12, seed=1, dtype=base)
    model(x)
    getattr(model, cast)()
    dtype = model[0].weight.dtype
    assert {p.dtype for p in adapter.parameters()} == {dtype}
    x = x.to(dtype)
    for _ in range(2):  # what is derived is made again in the first, and kept for the second
        assert relative(model(x), dense(model, x)) < {torch.float64: 1e-12, torch.float32: FP32}.get(dtype, 2e-2)
    model(x).float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in adapter.parameters())


@each_variant
def test_a_cast_there_and_back_is_as_one_rounding(variant):
    """float32 -> bf16 -> float32: the base is rounded, and nothing of the old one may be left."""
    model, _ = adapted(variant)
    x = randn(6, 12, seed=1, dtype=torch.float32)
    model(x)
    model.bfloat16().float()
    assert relative(model(x), dense(model, x)) < FP32


# ---- generate -------------------------------------------------------------------------------------


@each_variant
def test_generate_equals_that_of_the_merged_model(variant):
    model = tiny_llama()
    tokens = torch.tensor([[3, 14, 15, 9], [2, 6, 5, 35]])
    # No token twice: the random model would repeat a single one for ever, adapted or not.
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "no_repeat_ngram_size": 1}
    base = model.generate(tokens, **options)
    adapter = far_from_start(attach(model, variant))
    generated = model.generate(tokens, **options)
    with adapter.frozen():
        assert torch.equal(model.generate(tokens, **options), generated)
    with adapter.disabled():
        assert torch.equal(model.generate(tokens, **options), base)
    al.merge(model)
    assert torch.equal(model.generate(tokens, **options), generated)
    assert not torch.equal(generated, base)


# ---- torch.func -----------------------------------------------------------------------------------

each_func_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def stacked(adapter, n):
    """n sets of parameters, stacked, none of them that of the model."""
    return {
        name: torch.stack([p.detach() * 1.2 + 0.1 * randn(*p.shape, seed=i, dtype=p.dtype) for i in range(n)])
        for name, p in adapter.named_parameters()
    }


def loss_of(model, x):
    return lambda parameters: functional_call(model, parameters, (x,)).float().square().sum()


@torch.no_grad()
def set_parameters(adapter, parameters, i):
    for name, p in adapter.named_parameters():
        p.copy_(parameters[name][i])


@each_variant
@each_func_dtype
def test_functional_call_takes_other_parameters(variant, dtype):
    model, adapter = adapted(variant, dtype)
    x = randn(6, 12, seed=1, dtype=dtype)
    before = model(x)
    parameters = stacked(adapter, 2)
    found = functional_call(model, {name: p[1] for name, p in parameters.items()}, (x,))
    assert torch.equal(model(x), before)
    set_parameters(adapter, parameters, 1)
    assert torch.equal(found, model(x))
    assert relative(found, before) > 1e-2


@each_variant
@each_func_dtype
@pytest.mark.parametrize("reloaded", [False, True], ids=["", "after load_state_dict"])
def test_func_grad_equals_backward(variant, dtype, reloaded):
    model, adapter = adapted(variant, dtype)
    if reloaded:  # what is derived is then made inside the transform, and must not be kept as its tensor
        model.load_state_dict(model.state_dict())
    x = randn(6, 12, seed=1, dtype=dtype)
    found = grad(loss_of(model, x))({name: p.detach() for name, p in adapter.named_parameters()})
    model(x).float().square().sum().backward()
    assert_close(found, gradients(adapter), 1e-6)


@each_variant
@each_func_dtype
@pytest.mark.parametrize("reloaded", [False, True], ids=["", "after load_state_dict"])
def test_vmap_over_stacked_parameters(variant, dtype, reloaded):
    model, adapter = adapted(variant, dtype)
    if reloaded:
        model.load_state_dict(model.state_dict())
    x = randn(6, 12, seed=1, dtype=dtype)
    parameters = stacked(adapter, 3)
    outputs = vmap(lambda parameters: functional_call(model, parameters, (x,)))(parameters)
    slopes = vmap(grad(loss_of(model, x)))(parameters)
    # A batched product rounds in another order than a plain one; in bf16 that may cross a rounding edge.
    bound = 2e-2 if dtype == torch.bfloat16 else FP32
    for i in range(3):
        set_parameters(adapter, parameters, i)
        y = model(x)
        assert relative(outputs[i], y) < bound
        y.float().square().sum().backward()
        assert_close({name: slope[i] for name, slope in slopes.items()}, gradients(adapter), bound)


@each_variant
@each_func_dtype
def test_vmap_over_inputs_gives_gradients_per_example(variant, dtype):
    model, adapter = adapted(variant, dtype)
    x = randn(4, 12, seed=1, dtype=dtype)
    parameters = {name: p.detach() for name, p in adapter.named_parameters()}
    per_example = vmap(lambda p, row: grad(loss_of(model, row))(p), in_dims=(None, 0))(parameters, x)
    model(x).float().square().sum().backward()
    bound = 2e-2 if dtype == torch.bfloat16 else FP32
    assert_close({name: g.sum(0) for name, g in per_example.items()}, gradients(adapter), bound)
