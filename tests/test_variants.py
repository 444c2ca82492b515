"""Each variant against its paper's equation: outputs, gradients, t=0, and what only one of them promises."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import adapterlab as al
import reference
from helpers import (
    FLOATS,
    IDS,
    LOW_PRECISION,
    OTHER_EQUATIONS,
    VARIANTS,
    attach,
    expected,
    far_from_start,
    linear,
    randn,
    relative,
    small_model,
    with_fields,
)

every_variant = pytest.mark.parametrize("variant", [*VARIANTS, *OTHER_EQUATIONS.values()], ids=[*IDS, *OTHER_EQUATIONS])

# (base, adapter): the arithmetic is in float64 where the adapter is, and never below float32
WIDE = [
    (torch.float64, torch.float64, 1e-9),
    (torch.float64, torch.float32, 5e-6),
    (torch.float32, torch.float64, 5e-6),
    (torch.float32, torch.float32, 5e-6),
    (torch.float32, torch.bfloat16, 5e-6),
    (torch.float32, torch.float16, 5e-6),
]
SHAPES = [(5, 12), (12, 5), (16, 16)]  # d_in, d_out
quick = settings(derandomize=True, deadline=None, max_examples=40)


@st.composite
def cases(draw, dtypes=WIDE):
    """Dtypes with their tolerance, a layer's shape, changes to the variant's fields, the shape of x, a seed."""
    base, adapter, tolerance = draw(st.sampled_from(dtypes))
    # In float32 a row of W + s B A must not cancel by chance, as one of length 1 easily does: that has its own test.
    least = 2 if tolerance < 1e-8 else 6
    d_in, d_out = draw(st.integers(least, 24)), draw(st.integers(least, 24))
    fields = {"alpha": draw(st.sampled_from([-3, 0.5, 1, 6, 40])), "rslora": draw(st.booleans())}
    half_rank = draw(st.integers(1, min(d_in, d_out) // 2))
    fields["r"] = 2 * half_rank - draw(st.booleans())
    lead = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    return base, adapter, tolerance, (d_in, d_out), draw(st.booleans()), fields, lead, draw(st.integers(0, 99))


def fitted(variant, fields):
    step = expected(variant).rank_step
    return with_fields(variant, **{**fields, "r": math.ceil(fields["r"] / step) * step})


def attached(variant, d_in=12, d_out=20, bias=True, base=torch.float64, adapter=None, seed=0, far=True):
    """A layer with `variant` on it at random parameters, and the handle."""
    layer = linear(d_in, d_out, bias, base, seed)
    handle = attach(layer, variant, dtype=adapter or torch.promote_types(base, torch.float32))
    return layer, far_from_start(handle, seed) if far else handle


# ---- the equation ---------------------------------------------------------------------------------


@every_variant
@quick
@given(case=cases())
def test_output_is_that_of_the_papers_dense_equation(variant, case):
    base, adapter, tolerance, shape, bias, fields, lead, seed = case
    variant = fitted(variant, fields)
    layer, _ = attached(variant, *shape, bias, base, adapter, seed)
    x = randn(*lead, shape[0], seed=seed, dtype=base)
    y, expected = layer(x), reference.output(variant, layer, x)
    assert y.dtype == base and y.shape == expected.shape
    # against |x| |W'| + |b| rather than |y|: a single output may be close to 0 by chance
    W, b = reference.weight(variant, layer)
    size = x.double().norm() * W.norm() + (0 if b is None else b.norm() * math.sqrt(math.prod(lead)))
    assert (y - expected).norm() <= tolerance * size


@every_variant
@quick
@given(case=cases())
def test_effective_weight_is_the_papers_dense_equation(variant, case):
    base, adapter, tolerance, shape, bias, fields, _, seed = case
    variant = fitted(variant, fields)
    layer, _ = attached(variant, *shape, bias, base, adapter, seed)
    W, b = al.effective_weight(layer)
    expected, expected_bias = reference.weight(variant, layer)
    assert W.dtype == torch.promote_types(torch.promote_types(base, adapter), torch.float32)
    assert relative(W, expected) < tolerance
    if not bias:
        assert b is None and expected_bias is None
    else:  # a bias that the equation leaves alone comes back bit for bit
        untouched = torch.equal(expected_bias, layer.bias.double())
        assert torch.equal(b.double(), expected_bias) if untouched else relative(b, expected_bias) < tolerance


@every_variant
@quick
@given(case=cases(WIDE[:1]))
def test_gradients_are_those_of_the_papers_dense_equation(variant, case):
    base, adapter, tolerance, shape, bias, fields, lead, seed = case
    variant = fitted(variant, fields)
    layer, handle = attached(variant, *shape, bias, base, adapter, seed)
    x, g = randn(*lead, shape[0], seed=seed).requires_grad_(), randn(*lead, shape[1], seed=seed + 1)
    parameters = dict(layer.adapter.named_parameters())
    t = reference.tensors(layer, requires_grad=True)
    theirs = torch.autograd.grad(reference.output(variant, layer, x, t), [*(t[n] for n in parameters), x], g)
    most = max(b.norm() for b in theirs)  # one of them may be 0 but for rounding: B's in DeLoRA at r = 1, by chance
    for y in (layer(x), F.linear(x, *al.effective_weight(layer))):
        ours = torch.autograd.grad(y, [*parameters.values(), x], g)
        for name, a, b in zip([*parameters, "x"], ours, theirs, strict=True):
            assert (a - b).norm() <= tolerance * max(b.norm(), 1e-3 * most), name


@every_variant
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_float32_agrees_with_float64_to_5e_6(variant, shape, bias):
    layer, _ = attached(variant, *shape, bias, torch.float32)
    x = randn(64, shape[0], seed=3, dtype=torch.float32)
    assert relative(layer(x), reference.output(variant, layer, x)) < 5e-6


# Measured: 0.2 to 0.4 of a step (2^-7 in bf16, 2^-10 in fp16) for outputs, up to 0.45 for gradients.
@every_variant
@pytest.mark.parametrize("base", LOW_PRECISION, ids=str)
@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lead", [(), (64,), (3, 5), (2, 3, 4), (0,)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_low_precision_base_is_within_a_rounding_step_of_float64(variant, base, adapter, lead, bias):
    layer, handle = attached(variant, 16, 24, bias, base, adapter)
    x = randn(*lead, 16, seed=3, dtype=base).requires_grad_()
    y = layer(x)
    step = torch.finfo(base).eps
    assert y.dtype == base and relative(y, reference.output(variant, layer, x)) < step
    g = randn(*lead, 24, seed=4, dtype=base)
    parameters = dict(layer.adapter.named_parameters())
    ours = torch.autograd.grad(y, [*parameters.values(), x], g)
    t = reference.tensors(layer, requires_grad=True)
    x64 = x.detach().double().requires_grad_()
    theirs = torch.autograd.grad(
        reference.output(variant, layer, x64, t), [*(t[n] for n in parameters), x64], g.double()
    )
    for name, a, b in zip([*parameters, "x"], ours, theirs, strict=True):
        assert relative(a, b) < max(step, torch.finfo(a.dtype).eps), name


@every_variant
@pytest.mark.parametrize("base", FLOATS, ids=str)
def test_a_zero_input_gives_the_equations_bias(variant, base):
    """The layer's own, bit for bit, but for IA3, whose gates are on the whole output."""
    layer, _ = attached(variant, base=base)
    bias = reference.weight(variant, layer)[1].to(base)
    assert torch.equal(layer(torch.zeros(3, 12, dtype=base)), bias.expand(3, -1))


# ---- t = 0 ----------------------------------------------------------------------------------------


@every_variant
@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("base", FLOATS, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_nothing_changes_at_the_start(variant, base, adapter, bias):
    layer = linear(48, 80, bias, base)
    x = randn(3, 7, 48, seed=5, dtype=base)
    before = layer(x)
    attach(layer, variant, dtype=adapter)
    facts = expected(variant)
    bound = facts.identity_low if base in LOW_PRECISION else facts.identity
    assert relative(layer(x), before) <= bound


@every_variant
@pytest.mark.parametrize("base", FLOATS, ids=str)
def test_who_has_a_gradient_in_the_first_step(variant, base):
    layer, handle = attached(variant, base=base, far=False)
    layer(randn(6, 12, seed=1, dtype=base)).square().sum().backward()
    without = {n for n, p in layer.adapter.named_parameters() if p.grad.abs().max() == 0}
    assert without == expected(variant).no_gradient
    assert all(p.grad.isfinite().all() for p in handle.parameters())


@every_variant
def test_the_base_gets_no_gradient(variant):
    model = small_model()
    handle = far_from_start(attach(model, variant))
    model(randn(6, 12, seed=1, dtype=torch.float32)).square().sum().backward()
    ours = {name for name, _ in handle.named_parameters()}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == ours
    assert all(".adapter.lora_" in name for name in ours)


LOW_RANK, AXES = "lora_A lora_B", "lora_U lora_S lora_Vh"
TENSORS = {  # trained, frozen
    "lora": (LOW_RANK, ""),
    "rslora": (LOW_RANK, ""),
    "pissa": (LOW_RANK, "lora_A0 lora_B0"),
    "dora": (f"{LOW_RANK} lora_m", ""),
    "delora": (f"{LOW_RANK} lora_lambda", "lora_wnorm"),
    "delora-copy": (f"{LOW_RANK} lora_lambda", "lora_wnorm lora_A0 lora_B0 lora_lambda0"),
    "ia3": ("lora_g", ""),
    "ia3_ff": ("lora_g", ""),
    "hra": ("lora_U", ""),
    "eva": (LOW_RANK, ""),
    "antipasto": ("lora_delta_s lora_rot_T", AXES),
    "antipasto-u": ("lora_delta_s lora_rot_T", AXES),
    "antipasto-none": ("lora_delta_s", AXES),
}


@pytest.mark.parametrize("name", TENSORS)
def test_which_tensors_are_trained_and_which_are_frozen(name):
    variant = dict(zip([*IDS, *OTHER_EQUATIONS], [*VARIANTS, *OTHER_EQUATIONS.values()]))[name]
    layer = linear(12, 8)
    trained = {path.split(".")[-1] for path, _ in attach(layer, variant).named_parameters()}
    assert trained == set(TENSORS[name][0].split())
    assert layer.adapter.tensors().keys() - trained == set(TENSORS[name][1].split())


# ---- hyperparameters ------------------------------------------------------------------------------

OTHER = {
    "r": lambda r: r // 2,
    "alpha": lambda alpha: alpha + 1,
    "rslora": lambda rslora: not rslora,
    "lambda0": lambda lambda0: 2 * lambda0,
    "start": {"zero": "copy", "copy": "zero"}.get,
    "norm": {"column": "scalar", "scalar": "column"}.get,
    "center": lambda center: not center,
    "rho": lambda rho: 2 * rho,
    "block_size": lambda size: 2 * size,
    "max_angle": lambda angle: 2 * angle,
    "rotate_basis": {"V": "U", "U": "none", "none": "V"}.get,
}


@pytest.mark.parametrize(
    "variant, field", [(v, f.name) for v in VARIANTS for f in dataclasses.fields(v)], ids=lambda v: repr(v)
)
def test_every_field_changes_what_the_model_does(variant, field):
    changed = dataclasses.replace(variant, **{field: OTHER[field](getattr(variant, field))})
    shapes, starts, outputs = [], [], []
    for one in (variant, changed):
        torch.manual_seed(0)
        model = small_model(torch.float64)
        handle = attach(model, one, dtype=torch.float64)
        shapes.append({name: p.shape for name, p in handle.named_parameters()})
        starts.append({name: p.detach().clone() for name, p in handle.named_parameters()})
        far_from_start(handle)
        outputs.append(model(randn(4, 12, seed=2)))
    assert (
        shapes[0] != shapes[1]
        or relative(*outputs) > 1e-2
        or any(relative(starts[0][name], starts[1][name]) > 1e-2 for name in starts[0])
    )


RANKED = pytest.mark.parametrize("variant", [v for v in VARIANTS if hasattr(v, "r")], ids=lambda v: v.name)


@RANKED
@pytest.mark.parametrize("r", [0, -2, True, 2.0, "4", None], ids=repr)
def test_a_rank_that_is_no_whole_number_from_1_is_refused(variant, r):
    with pytest.raises(ValueError, match=f"r = {r!r}"):
        dataclasses.replace(variant, r=r)


@RANKED
@pytest.mark.parametrize("shape", [(12, 6), (6, 12)], ids=str)
def test_a_rank_that_does_not_fit_is_refused_with_the_layers_name(variant, shape):
    between = torch.nn.AdaptiveAvgPool1d(shape[0])
    model = torch.nn.Sequential(linear(20, 20), between, torch.nn.Sequential(linear(*shape)))
    with pytest.raises(ValueError, match=r"'2\.0'.*r = 8.*6"):
        attach(model, dataclasses.replace(variant, r=8))
    assert not any("adapter" in name for name, _ in model.named_modules())
    attach(model, dataclasses.replace(variant, r=6))  # min(d_in, d_out) itself fits


@pytest.mark.parametrize(
    "variant, alpha",
    [
        (v, alpha)
        for v in VARIANTS
        if hasattr(v, "alpha")
        for alpha in (math.nan, math.inf, -math.inf, 0, 0.0, "16", None, True)
        if alpha is not None or type(v)().alpha is not None  # PiSSA's None stands for alpha = r
    ],
    ids=lambda value: getattr(value, "name", repr(value)),
)
def test_an_alpha_that_is_no_finite_number_other_than_0_is_refused(variant, alpha):
    with pytest.raises(ValueError, match=f"alpha = {alpha!r}"):
        dataclasses.replace(variant, alpha=alpha)


def test_hra_refuses_an_odd_rank():
    with pytest.raises(ValueError, match="r = 3 .*even"):
        al.HRA(r=3)


# ---- DoRA alone -----------------------------------------------------------------------------------

DORA = al.DoRA(r=4, alpha=6)


def weight_in_use(layer):
    """W' as the forward pass applies it, (d_out, d_in)."""
    eye = torch.eye(layer.in_features, dtype=layer.weight.dtype)
    return (layer(eye) - (0 if layer.bias is None else layer.bias)).t()


@pytest.mark.parametrize("base", FLOATS, ids=str)
def test_doras_magnitudes_are_one_per_output_and_start_as_the_rows_norms(base):
    layer, _ = attached(DORA, 12, 20, base=base, far=False)
    assert layer.adapter.lora_m.shape == (20,)
    norm = layer.weight.double().pow(2).sum(1).sqrt()
    assert relative(layer.adapter.lora_m, norm) < (1e-14 if base == torch.float64 else 1e-6)  # bf16 squares: 1e-3


def test_doras_rows_have_the_size_m_and_the_direction_of_v():
    layer, _ = attached(DORA)
    p, W = layer.adapter, weight_in_use(layer)
    assert relative(W.norm(dim=1), p.lora_m) < 1e-9
    V = layer.weight + 6 / 4 * p.lora_B @ p.lora_A
    assert torch.allclose(F.cosine_similarity(W, V), torch.ones(20, dtype=torch.float64), atol=1e-12)


def test_a_negative_m_turns_its_row_round():
    layer, _ = attached(DORA)
    before = weight_in_use(layer)
    with torch.no_grad():
        layer.adapter.lora_m[::2] *= -1
    assert relative(weight_in_use(layer)[::2], -before[::2]) < 1e-9
    assert relative(weight_in_use(layer)[1::2], before[1::2]) < 1e-9
    x = randn(5, 12, seed=1)
    assert relative(layer(x), reference.output(DORA, layer, x)) < 1e-9
    assert relative(al.effective_weight(layer)[0], reference.weight(DORA, layer)[0]) < 1e-9


@pytest.mark.parametrize("base", FLOATS, ids=str)
def test_a_zero_row_keeps_its_output_and_has_finite_gradients(base):
    layer = linear(12, 20, dtype=base)
    with torch.no_grad():
        layer.weight[3] = 0
    x = randn(6, 12, seed=1, dtype=base).requires_grad_()
    before = layer(x)
    handle = attach(layer, DORA, dtype=torch.promote_types(base, torch.float32))
    assert torch.equal(layer(x), before)
    assert torch.equal(al.effective_weight(layer)[0][3], torch.zeros(12, dtype=layer.adapter.lora_A.dtype))
    optimizer = torch.optim.AdamW(handle.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        F.linear(x.detach().to(layer.adapter.lora_A.dtype), *al.effective_weight(layer)).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in handle.parameters())
        optimizer.zero_grad()
        layer(x).float().square().sum().backward()
        assert all(p.grad.isfinite().all() for p in [*handle.parameters(), x])
        optimizer.step()
    assert layer(x).isfinite().all()
    assert al.effective_weight(layer)[0][3].abs().max() > 0  # first B has moved, then m: the row is not dead


def test_a_zero_rows_gradient_is_loras():
    """It stays as it is: its factor is 1, on the fast path and in the equation."""
    x, found = randn(6, 12, seed=1), []
    for variant in (DORA, al.LoRA(r=4, alpha=6)):
        for path in (lambda layer: layer(x), lambda layer: F.linear(x, *al.effective_weight(layer))):
            layer, _ = attached(variant, 12, 20, far=False)
            with torch.no_grad():
                layer.weight[3] = 0
                layer.adapter.lora_A.copy_(randn(4, 12, seed=2))
                if variant is DORA:
                    layer.adapter.derive(layer)
            path(layer).square().sum().backward()
            found.append(layer.adapter.lora_B.grad[3])
    assert found[0].norm() > 0.1 and all(relative(grad, found[-1]) < 1e-9 for grad in found)


def test_a_row_that_has_lost_its_direction_while_the_others_train_keeps_its_bias():
    layer, _ = attached(DORA)
    with torch.no_grad():
        layer.weight[3] = 0
        layer.adapter.lora_B[3] = 0
        layer.adapter.derive(layer)
    x = randn(5, 12, seed=1)
    assert torch.equal(layer(x)[:, 3], layer.bias[3].expand(5))
    keep = [i for i in range(20) if i != 3]
    assert relative(layer(x)[:, keep], reference.output(DORA, layer, x)[:, keep]) < 1e-9


def test_dora_of_a_row_that_nearly_cancels_agrees_with_float64():
    layer, _ = attached(DORA, bias=False, base=torch.float32)
    s, p = 6 / 4, layer.adapter
    with torch.no_grad():
        for row, left in enumerate([0.1, 0.01, 1e-3]):
            update = s * p.lora_B[row] @ p.lora_A
            layer.weight[row] = -update + left * update.norm() * F.normalize(
                randn(12, seed=row, dtype=torch.float32), dim=0
            )
        p.derive(layer)
    x = randn(9, 12, seed=1, dtype=torch.float32)
    y, expected = layer(x), reference.output(DORA, layer, x)
    for row, left in enumerate([0.1, 0.01, 1e-3]):
        assert relative(y[:, row], expected[:, row]) < 1e-6 / left  # what float32 can know of so small a difference


def test_dora_makes_the_norms_of_w_where_they_have_been_forgotten():
    layer, _ = attached(DORA, 12, 20)
    kept = DORA.prepare(layer.adapter, layer)
    layer.adapter.row_sq = None
    made = DORA.prepare(layer.adapter, layer)
    assert torch.equal(kept[3], made[3]) and layer.adapter.row_sq is None


@pytest.mark.parametrize("adapter", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_dora_never_stores_m_below_float32(adapter):
    layer, _ = attached(DORA, base=torch.bfloat16, adapter=adapter, far=False)
    assert layer.adapter.lora_m.dtype == torch.promote_types(adapter, torch.float32)
    assert layer.adapter.lora_A.dtype == layer.adapter.lora_B.dtype == adapter


# ---- HRA alone ------------------------------------------------------------------------------------

HRA = al.HRA(r=4)


def test_hras_gradients_are_opposite_within_a_pair_at_the_start():
    layer, _ = attached(HRA, far=False)
    layer(randn(6, 12, seed=1)).square().sum().backward()
    grad = layer.adapter.lora_U.grad
    assert relative(grad[0::2], -grad[1::2]) < 1e-9
    assert grad.norm(dim=1).min() > 0.1


def test_a_nan_in_a_row_of_u_does_not_pass_for_a_zero_row():
    layer, _ = attached(HRA)
    with torch.no_grad():
        layer.adapter.lora_U[1, 0] = torch.nan
    assert al.effective_weight(layer)[0].isnan().any() and layer(randn(6, 12, seed=1)).isnan().any()


def test_hra_multiplies_by_r_not_by_its_transpose():
    layer, _ = attached(HRA)
    R = torch.linalg.multi_dot([reference.householder(u) for u in layer.adapter.lora_U.detach()])
    assert relative(R, R.t()) > 0.5
    x = randn(5, 12, seed=1)
    assert relative(layer(x), F.linear(x, layer.weight @ R, layer.bias)) < 1e-9
    assert relative(layer(x), F.linear(x, layer.weight @ R.t(), layer.bias)) > 0.1
    assert relative(al.effective_weight(layer)[0], layer.weight @ R) < 1e-9


def test_hra_keeps_singular_values_row_norms_and_angles():
    layer, _ = attached(HRA)
    W, turned = layer.weight.detach(), weight_in_use(layer).detach()
    assert relative(turned, W) > 0.5
    assert relative(torch.linalg.svdvals(turned), torch.linalg.svdvals(W)) < 1e-12
    assert relative(turned @ turned.t(), W @ W.t()) < 1e-12


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_a_zero_row_of_u_reflects_nothing(zero):
    layer, handle = attached(HRA)
    with torch.no_grad():
        layer.adapter.lora_U[zero] = 0
    rest = [u for i, u in enumerate(layer.adapter.lora_U.detach()) if i != zero]
    expected = layer.weight @ torch.linalg.multi_dot([reference.householder(u) for u in rest])
    x = randn(5, 12, seed=1)
    assert relative(layer(x), F.linear(x, expected, layer.bias)) < 1e-9
    assert relative(al.effective_weight(layer)[0], expected) < 1e-9
    layer(x).square().sum().backward()
    assert layer.adapter.lora_U.grad.isfinite().all()


def test_hra_with_all_rows_zero_is_the_base():
    layer, _ = attached(HRA)
    with torch.no_grad():
        layer.adapter.lora_U.zero_()
    x = randn(5, 12, seed=1)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("factor", [1e-15, 1e-3, 1e3, 1e15])
def test_the_length_of_a_row_of_u_means_nothing(factor):
    layer, _ = attached(HRA)
    x = randn(5, 12, seed=1)
    before = layer(x)
    with torch.no_grad():
        layer.adapter.lora_U[1] *= factor
        layer.adapter.lora_U[2] *= -1
    assert relative(layer(x), before) < 1e-9


def parallel_rows(kind):
    u = randn(8, 64, seed=1)
    if kind == "paired":
        return u[:4].repeat_interleave(2, 0)
    if kind == "nearly paired":
        return u[:4].repeat_interleave(2, 0) + 1e-4 * randn(8, 64, seed=2)
    if kind == "all parallel":
        return u[:1] * torch.linspace(0.5, 3, 8, dtype=torch.float64)[:, None]
    return u


@pytest.mark.parametrize("kind", ["random", "paired", "nearly paired", "all parallel"])
def test_hra_in_float32_is_as_accurate_as_one_reflection_after_the_other(kind):
    layer = torch.nn.Linear(64, 64, bias=False)
    torch.nn.init.eye_(layer.weight)  # the output is then x R^T itself
    attach(layer, al.HRA(r=8))
    x = randn(256, 64, seed=3, dtype=torch.float32)
    with torch.no_grad():
        layer.adapter.lora_U.copy_(parallel_rows(kind))
    one_by_one = x
    for u in reversed(layer.adapter.lora_U.detach()):
        one_by_one = one_by_one - torch.outer(one_by_one @ u, 2 * u / (u @ u))
    expected = reference.output(al.HRA(r=8), layer, x)
    assert relative(layer(x), expected) < 2 * relative(one_by_one, expected)


# ---- training -------------------------------------------------------------------------------------


@every_variant
def test_fifty_steps_on_the_fast_path_are_fifty_steps_on_the_equation(variant):
    """The same AdamW steps through the layer and through the dense float64 equation."""
    layer, handle = attached(variant, far=False)
    t = reference.tensors(layer, requires_grad=True)
    frozen = copy.deepcopy(layer)  # only its W and b are read
    x, target = randn(16, 12, seed=1), randn(16, 20, seed=2)
    ours = torch.optim.AdamW(handle.parameters(), lr=1e-2)
    theirs = torch.optim.AdamW(reference.trained(t), lr=1e-2)
    for _ in range(50):
        losses = F.mse_loss(layer(x), target), F.mse_loss(reference.output(variant, frozen, x, t), target)
        assert abs(losses[0] / losses[1] - 1) < 1e-9
        for loss, optimizer in zip(losses, (ours, theirs), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, p in layer.adapter.named_parameters():
        assert relative(p, t[name]) < 1e-9, name
