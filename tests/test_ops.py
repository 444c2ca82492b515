"""The hand-written backward passes, what they keep, and DoRA's row norm where it is hardest."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from adapterlab.ops import (
    _add_low_rank,
    _AddLowRank,
    _AddLowRankRescaled,
    _rescale,
    add_low_rank,
    add_low_rank_rescaled,
    row_norm,
)
from helpers import FLOATS, IDS, LOW_PRECISION, VARIANTS, attach, far_from_start, linear, randn, relative

S = 1.5
D_IN, D_OUT, R = 5, 4, 2


def inputs(lead=(3,), d_in=D_IN, d_out=D_OUT, r=R, dtype=torch.float64, wide=torch.float64):
    """y, x in `dtype`; A, B, c in `wide`; b in `dtype`."""
    y, x = randn(*lead, d_out, seed=1, dtype=dtype), randn(*lead, d_in, seed=2, dtype=dtype)
    A, B = randn(r, d_in, seed=3, dtype=wide), randn(d_out, r, seed=4, dtype=wide)
    c, b = 2 * torch.rand(d_out, generator=torch.Generator().manual_seed(5)), randn(d_out, seed=6, dtype=dtype)
    return y, x, A, B, c.to(wide), b


def dense_add(y, x, A, B):
    return y + S * torch.einsum("oi,...i->...o", B @ A, x)


def dense_rescaled(y, x, A, B, c, b):
    return c * (dense_add(y, x, A, B) - b) + b


def function_add(y, x, A, B):
    return _AddLowRank.apply(y, x, A, B, S)


def function_rescaled(y, x, A, B, c, b):
    return _AddLowRankRescaled.apply(y, x, A, B, S, c, b)


def plain_add(y, x, A, B):
    return _add_low_rank(y, x, A, B, S)


def plain_rescaled(y, x, A, B, c, b):
    return _rescale(_add_low_rank(y, x, A, B, S), c, b)


PAIRS = [(function_add, dense_add, 4), (function_rescaled, dense_rescaled, 5)]  # how many inputs have a gradient
both = pytest.mark.parametrize("function, dense, n", PAIRS, ids=["add", "rescaled"])
PLAIN = {function_add: plain_add, function_rescaled: plain_rescaled}


def arguments(function, **kwargs):
    """(inputs with a gradient), (the rest)"""
    y, x, A, B, c, b = inputs(**kwargs)
    tensors, rest = ((y, x, A, B), ()) if function in (function_add, plain_add) else ((y, x, A, B, c), (b,))
    return tuple(t.clone().requires_grad_() for t in tensors), rest


# ---- the two Functions ----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3), (0,)], ids=str)
def test_function_is_the_dense_formula(function, dense, n, lead):
    tensors, rest = arguments(function, lead=lead)
    y, expected = function(*tensors, *rest), dense(*tensors, *rest)
    assert relative(y, expected) < 1e-12
    g = randn(*lead, D_OUT, seed=7)
    for ours, theirs in zip(torch.autograd.grad(y, tensors, g), torch.autograd.grad(expected, tensors, g), strict=True):
        assert relative(ours, theirs) < 1e-12


@both
@pytest.mark.parametrize("lead", [(), (3,), (2, 2)], ids=str)
def test_backward_passes_gradcheck_and_gradgradcheck(function, dense, n, lead):
    tensors, rest = arguments(function, lead=lead)
    assert gradcheck(lambda *t: function(*t, *rest), tensors)
    assert gradgradcheck(lambda *t: function(*t, *rest), tensors)


@both
@pytest.mark.parametrize("i", range(5))
def test_each_input_alone_has_its_gradient(function, dense, n, i):
    tensors, rest = arguments(function)
    if i < n:
        alone = [t if j == i else t.detach() for j, t in enumerate(tensors)]
        assert gradcheck(lambda t: function(*alone[:i], t, *alone[i + 1 :], *rest), tensors[i])


@both
def test_vmap_over_samples_is_a_loop_over_samples(function, dense, n):
    tensors, rest = arguments(function, lead=(6, 3))
    y, x, *theta = (t.detach() for t in tensors)
    expected = torch.stack([dense(y[i], x[i], *theta, *rest) for i in range(6)])
    assert relative(torch.func.vmap(lambda y, x: function(y, x, *theta, *rest))(y, x), expected) < 1e-12


@both
def test_per_sample_gradients_of_torch_func_are_those_of_a_loop(function, dense, n):
    tensors, rest = arguments(function, lead=(6, 3))
    y, x, *theta = (t.detach() for t in tensors)

    def loss(f):
        return lambda theta, y, x: f(y, x, *theta, *rest).square().sum()

    ours = torch.func.vmap(torch.func.grad(loss(function)), in_dims=(None, 0, 0))(tuple(theta), y, x)
    for i in range(6):
        theirs = torch.func.grad(loss(dense))(tuple(theta), y[i], x[i])
        for a, b in zip(ours, theirs, strict=True):
            assert relative(a[i], b) < 1e-12


@both
def test_gradcheck_under_vmap(function, dense, n):
    tensors, rest = arguments(function, lead=(2, 3))
    assert gradcheck(lambda y, x, *theta: torch.func.vmap(lambda y, x: function(y, x, *theta, *rest))(y, x), tensors)


@both
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_function_on_low_precision_is_the_plain_path_on_float32_copies(function, dense, n, dtype):
    tensors, rest = arguments(function, lead=(33,), d_in=48, d_out=40, r=8, dtype=dtype, wide=torch.float32)
    g = randn(33, 40, seed=8, dtype=dtype)
    copies = [t.detach().float().requires_grad_() for t in tensors]
    y, plain = function(*tensors, *rest), PLAIN[function](*copies, *(t.float() for t in rest))
    assert y.dtype == dtype and torch.equal(y, plain.to(dtype))
    ours = torch.autograd.grad(y, tensors, g)
    theirs = torch.autograd.grad(plain, copies, g.float())
    for t, a, b in zip(tensors, ours, theirs, strict=True):
        assert a.dtype == t.dtype
        # the same float32 sums in another order: a hundredth of a rounding step of what is stored in low precision
        assert relative(a, b.to(t.dtype)) < (1e-6 if t.dtype == torch.float32 else torch.finfo(dtype).eps / 100)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backward_inside_autocast_is_in_float32_still(function, dense, n, dtype):
    tensors, rest = arguments(function, lead=(33,), d_in=48, d_out=40, r=8, dtype=dtype, wide=torch.float32)
    g = randn(33, 40, seed=8, dtype=dtype)
    outside = torch.autograd.grad(function(*tensors, *rest), tensors, g)
    y = function(*tensors, *rest)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = torch.autograd.grad(y, tensors, g)
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_front_doors_choose_a_path_that_agrees_with_float64(dtype):
    wide = torch.promote_types(dtype, torch.float32)
    y, x, A, B, c, b = inputs((7,), 32, 24, 4, dtype, wide)
    y64, x64, A64, B64, c64, b64 = (t.double() for t in (y, x, A, B, c, b))
    bound = 1e-12 if dtype == torch.float64 else 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    cases = [
        (add_low_rank(y, x, A, B, S), dense_add(y64, x64, A64, B64)),
        (add_low_rank(x, x, A, A.t().contiguous(), S), dense_add(x64, x64, A64, A64.t())),  # y is x, as in HRA
        (add_low_rank_rescaled(y, x, A, B, S, c, b), dense_rescaled(y64, x64, A64, B64, c64, b64)),
        (add_low_rank_rescaled(y, x, A, B, S, c, None), dense_rescaled(y64, x64, A64, B64, c64, 0)),
    ]
    for ours, expected in cases:
        assert ours.dtype == dtype and relative(ours, expected) < bound


def test_y_and_x_may_be_one_tensor_and_get_both_gradients():
    _, x, A, _, _, _ = inputs(dtype=torch.float32)
    x.requires_grad_()  # a float32 layer with a float64 adapter: the Function
    B = randn(D_IN, R, seed=9)
    g = randn(3, D_IN, seed=10, dtype=torch.float32)
    (ours,) = torch.autograd.grad(add_low_rank(x, x, A, B, S), x, g)
    x64 = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(dense_add(x64, x64, A, B), x64, g.double())
    assert relative(ours, expected) < 1e-6


# ---- what backward keeps --------------------------------------------------------------------------


def kept(layer, x):
    found = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t) or t, lambda t: t):
        layer(x)
    return found


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_a_low_precision_layer_keeps_no_float32_copy_of_its_input_or_output(variant, dtype):
    layer = linear(12, 20, dtype=dtype)
    far_from_start(attach(layer, variant))
    x = randn(500, 12, seed=1, dtype=dtype).requires_grad_()
    long = [t for t in kept(layer, x) if t.numel() >= 500 * 12]
    assert long and {t.dtype for t in long} == {dtype}
    # x and, where the output is rescaled, y: each once
    assert len({t.data_ptr() for t in long}) <= (2 if "lora_m" in dict(layer.adapter.named_parameters()) else 1)


# ---- row_norm -------------------------------------------------------------------------------------


def exact_norm(W, A, B, s):
    return (W.double() + s * (B.double() @ A.double())).norm(dim=1)


def squares(W, dtype=torch.float32):
    return W.to(dtype).square().sum(1)


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("s", [1.5, -0.75])
@pytest.mark.parametrize("shape", [(64, 48), (48, 64), (1100, 16)], ids=str)  # (d_out, d_in); W is read in chunks
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_row_norm_agrees_with_float64(size, s, shape, dtype):
    wide = torch.promote_types(dtype, torch.float32)
    W = randn(*shape, seed=1, dtype=dtype)
    A, B = randn(4, shape[1], seed=2, dtype=wide), size * randn(shape[0], 4, seed=3, dtype=wide)
    norm, expected = row_norm(W, squares(W, wide), A, B, s), exact_norm(W, A, B, s)
    assert norm.dtype == wide and norm.shape == (shape[0],)
    assert ((norm / expected - 1).abs() < (1e-13 if wide == torch.float64 else 1e-6)).all()


# Measured: 1.3e-6 of |V| at one half left, where the Gram form is used still, and 2e-8 of |W| below. The Gram form
# alone is 6e-6 off at 20 % left, 3e-5 at 10 %, 3e-3 at 1 %, and has no digit right at 0.1 %.
@pytest.mark.parametrize("left", [1.0, 0.7, 0.5, 0.45, 0.3, 0.2, 0.15, 0.1, 0.01, 1e-3, 1e-5, 0.0])
def test_row_norm_is_right_where_w_and_its_update_cancel(left):
    A, B = randn(8, 256, seed=1, dtype=torch.float32), randn(96, 8, seed=2, dtype=torch.float32)
    update = S * B @ A
    rest = torch.nn.functional.normalize(randn(96, 256, seed=3, dtype=torch.float32), dim=1)
    W = -update + left * update.norm(dim=1, keepdim=True) * rest
    W[48:] = randn(48, 256, seed=4, dtype=torch.float32)  # rows that do not cancel stand beside those that do
    expected = exact_norm(W, A, B, S)
    error = (row_norm(W, squares(W), A, B, S) - expected).abs()
    assert (error < 2e-6 * expected + 5e-8 * W.norm(dim=1)).all()


def test_row_norm_in_float64_is_right_where_w_and_its_update_cancel():
    A, B = randn(8, 256, seed=1), randn(4, 8, seed=2)
    left = torch.tensor([0.1, 0.01, 1e-3, 1e-6], dtype=torch.float64)
    rest = torch.nn.functional.normalize(randn(4, 256, seed=3), dim=1)
    update = S * B @ A
    W = -update + (left * update.norm(dim=1))[:, None] * rest
    error = row_norm(W, squares(W, torch.float64), A, B, S) / (left * update.norm(dim=1)) - 1
    assert (error.abs() < 1e-14 / left).all()


def test_row_norm_of_a_row_that_cancels_exactly_is_zero():
    A, B = randn(3, 16, seed=1).mul(4).round().float(), randn(10, 3, seed=2).mul(4).round().float()
    W = -0.5 * B @ A  # small integers and halves: no rounding
    W[5:] += 1
    norm = row_norm(W, squares(W), A, B, 0.5)
    assert (norm[:5] == 0).all()
    assert relative(norm[5:], torch.full((5,), 4.0)) < 1e-6


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_row_norm_of_zero_rows_is_that_of_the_update(dtype):
    wide = torch.promote_types(dtype, torch.float32)
    W, A, B = torch.zeros(6, 12, dtype=dtype), randn(2, 12, seed=1, dtype=wide), randn(6, 2, seed=2, dtype=wide)
    B[3:] = 0
    norm = row_norm(W, squares(W, wide), A, B, S)
    assert (norm[3:] == 0).all()
    assert relative(norm[:3], exact_norm(W, A, B, S)[:3]) < 1e-6


def test_row_norm_at_the_start_is_the_root_of_the_squares_bit_for_bit():
    W, A = randn(64, 48, seed=1, dtype=torch.float32), randn(4, 48, seed=2, dtype=torch.float32)
    assert torch.equal(row_norm(W, squares(W), A, torch.zeros(64, 4), S), squares(W).sqrt())


def test_row_norm_changes_none_of_its_inputs_and_has_no_gradient():
    W, A, B = randn(6, 5, seed=1), randn(2, 5, seed=2), randn(6, 2, seed=3)
    row_sq = squares(W, torch.float64)
    before = [t.clone() for t in (W, row_sq, A, B)]
    row_norm(W, row_sq, A, B, S)
    assert all(torch.equal(a, b) for a, b in zip((W, row_sq, A, B), before, strict=True))
    with pytest.raises(RuntimeError):
        row_norm(W, row_sq, A.requires_grad_(), B, S).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cancel", [False, True], ids=["plain", "cancelled"])
def test_row_norm_passes_opcheck(dtype, cancel):
    # no gradient is asked for, as DoRA asks for none: the op is registered without one
    wide = torch.promote_types(dtype, torch.float32)
    W, A, B = randn(7, 6, seed=1, dtype=dtype), randn(2, 6, seed=2, dtype=wide), randn(7, 2, seed=3, dtype=wide)
    if cancel:
        W[:3] = (-S * B @ A)[:3].to(dtype)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    results = torch.library.opcheck(row_norm, (W, squares(W, wide), A, B, S), test_utils=tests)
    assert set(results.values()) == {"SUCCESS"}
