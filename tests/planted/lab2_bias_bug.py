"""Answers for lab 2."""

import torch
import torch.nn.functional as F

import adapterlab as al

# ---- effective ------------------------------------------------------------------------------------


def scales_the_bias(W, b, A, B, s, m):
    V = W + s * B @ A
    c = m / V.norm(dim=1)
    return c[:, None] * V, None if b is None else c * b


def along_dim_0(W, b, A, B, s, m):
    V = W + s * B @ A
    return m[:, None] * V / V.norm(dim=0), b


def forgets_s(W, b, A, B, s, m):
    V = W + B @ A
    return (m / V.norm(dim=1))[:, None] * V, b


def norm_of_W(W, b, A, B, s, m):
    return (m / W.norm(dim=1))[:, None] * (W + s * B @ A), b


def only_the_weight(W, b, A, B, s, m):
    V = W + s * B @ A
    return (m / V.norm(dim=1))[:, None] * V


def a_bias_of_zeros(W, b, A, B, s, m):
    V = W + s * B @ A
    return (m / V.norm(dim=1))[:, None] * V, torch.zeros(len(W)) if b is None else b


def transposed(W, b, A, B, s, m):
    return (W + s * A @ B, b)


def row_by_row(W, b, A, B, s, m):
    rows = [size * row / row.norm() for size, row in zip(m, W + s * B @ A)]
    return [torch.stack(rows), b]


# ---- leave_the_start ------------------------------------------------------------------------------


def moves_A_only(layer):
    g = torch.Generator().manual_seed(0)
    layer.adapter.lora_A.data += torch.randn(layer.adapter.lora_A.shape, generator=g)


def moves_A_and_B(layer):
    g = torch.Generator().manual_seed(0)
    for name in ("lora_A", "lora_B"):
        p = getattr(layer.adapter, name)
        p.data = torch.randn(p.shape, generator=g).to(p)
    V = layer.weight + layer.adapter.scale * layer.adapter.lora_B @ layer.adapter.lora_A
    layer.adapter.lora_m.data = V.norm(dim=1)  # as if m followed


def another_place_each_time(layer):
    for p in layer.adapter.parameters():
        p.data = p.data + torch.randn_like(p) * (p.data.mean() + 0.5)


def moves_the_base(layer):
    g = torch.Generator().manual_seed(0)
    for p in layer.parameters():
        p.data = p.data * 1.5 + torch.randn(p.shape, generator=g).to(p)


def does_nothing(layer):
    pass


def in_place(layer):
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        layer.adapter.lora_B.normal_(generator=g)
        layer.adapter.lora_m.mul_(1.5 + torch.rand(layer.adapter.lora_m.shape, generator=g).to(layer.adapter.lora_m))


# ---- is_dora --------------------------------------------------------------------------------------


def dense(layer):
    p = layer.adapter
    V = layer.weight + p.scale * p.lora_B @ p.lora_A
    return (p.lora_m / V.norm(dim=1))[:, None] * V


def compared(variant, bias=True, far=True, r_is_alpha=False):
    torch.manual_seed(1)
    layer = torch.nn.Linear(24, 16, bias, dtype=torch.float64)
    if r_is_alpha:
        variant = type(variant)(r=variant.r, alpha=variant.r)
    al.attach(layer, variant, dtype=torch.float64)
    if far:
        in_place(layer)
    x = torch.randn(5, 24, dtype=torch.float64)
    return torch.allclose(layer(x), F.linear(x, dense(layer), layer.bias))


def at_the_start(variant):
    return compared(variant, far=False)


def without_a_bias(variant):
    return compared(variant, bias=False)


def that_always_passes(variant):
    return True


def that_always_fails(variant):
    return False


def with_a_fixed_scale(variant):
    torch.manual_seed(1)
    layer = torch.nn.Linear(24, 16, dtype=torch.float64)
    al.attach(layer, variant, dtype=torch.float64)
    in_place(layer)
    p, x = layer.adapter, torch.randn(5, 24, dtype=torch.float64)
    V = layer.weight + 1.5 * p.lora_B @ p.lora_A
    W = (p.lora_m / V.norm(dim=1))[:, None] * V
    return torch.allclose(layer(x), F.linear(x, W, layer.bias))


def blind_to_s(variant):
    return compared(variant, r_is_alpha=True)


def by_the_contract(variant):
    return al.contract.check(variant, only=["dense", "bias"]).ok and with_its_own_scale(variant)


def with_its_own_scale(variant):
    torch.manual_seed(1)
    layer = torch.nn.Linear(24, 16, dtype=torch.float64)
    al.attach(layer, variant, dtype=torch.float64)
    in_place(layer)
    p, x = layer.adapter, torch.randn(5, 24, dtype=torch.float64)
    s = variant.alpha / (variant.r**0.5 if variant.rslora else variant.r)
    V = layer.weight + s * p.lora_B @ p.lora_A
    W = (p.lora_m / V.norm(dim=1))[:, None] * V
    return torch.allclose(layer(x), F.linear(x, W, layer.bias))


# ---- rescale --------------------------------------------------------------------------------------


def scales_all(t, c, b):
    return c * t


def loses_the_bias(t, c, b):
    return c * t if b is None else c * (t - b)


def adds_it_twice(t, c, b):
    return c * t if b is None else c * t + b


def rounds_twice(t, c, b):
    return c * t if b is None else c * (t - b) + b


def needs_a_bias(t, c, b):
    return t + (c - 1) * (t - b)


def zeros_are_a_bias(t, c, b):
    b = torch.zeros_like(c) if b is None else b
    return torch.addcmul(t, t - b, c - 1)


# ---- rescue ---------------------------------------------------------------------------------------


def keeps_b(W, b, A, B, s, m):
    return scales_the_bias(W, None, A, B, s, m)[0], b


def divides(W, b, A, B, s, m):
    V = W + s * B @ A
    c = m / V.norm(dim=1)
    return c[:, None] * V, None if b is None else b / c


def drops_it(W, b, A, B, s, m):
    return scales_the_bias(W, None, A, B, s, m)[0], None


def by_a_diagonal(W, b, A, B, s, m):
    V = W + s * B @ A
    c = torch.diag(m / V.square().sum(1).sqrt())
    return c @ V, None if b is None else c @ b


WRONG = {
    "effective": [
        scales_the_bias,
        along_dim_0,
        forgets_s,
        norm_of_W,
        only_the_weight,
        a_bias_of_zeros,
        transposed,
        lambda *_: None,
    ],
    "leave_the_start": [moves_A_only, moves_A_and_B, another_place_each_time, moves_the_base, does_nothing],
    "is_dora": [
        at_the_start,
        without_a_bias,
        that_always_passes,
        that_always_fails,
        with_a_fixed_scale,
        blind_to_s,
        lambda _: None,
    ],
    "rescale": [scales_all, loses_the_bias, adds_it_twice, rounds_twice, needs_a_bias, lambda t, c, b: "t"],
    "rescue": [keeps_b, divides, drops_it, lambda *_: 1.0],
}
RIGHT = {
    "effective": [row_by_row],
    "leave_the_start": [in_place],
    "is_dora": [by_the_contract, with_its_own_scale],
    "rescale": [zeros_are_a_bias],
    "rescue": [by_a_diagonal, scales_the_bias],
}
