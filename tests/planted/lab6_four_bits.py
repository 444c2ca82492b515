"""Answers for lab 6."""

import torch

import adapterlab as al
from adapterlab import kit

# ---- to_nf4 ---------------------------------------------------------------------------------------


def _coded(W, levels, scales):
    parts = W.reshape(-1, 64) / scales.reshape(-1, 1)
    return (parts[..., None] - levels).abs().argmin(-1).reshape(W.shape), scales


def largest_with_its_sign(W, levels):
    return _coded(W, levels, W.reshape(-1, 64).amax(1))


def a_scale_for_each_row(W, levels):
    scales = W.abs().amax(1)
    return ((W / scales[:, None])[..., None] - levels).abs().argmin(-1), scales


def even_steps(W, levels):
    scales = W.reshape(-1, 64).abs().amax(1)
    parts = W.reshape(-1, 64) / scales[:, None]
    return ((parts + 1) * 7.5).round().long().reshape(W.shape), scales


def always_down(W, levels):
    scales = W.reshape(-1, 64).abs().amax(1)
    parts = (W.reshape(-1, 64) / scales[:, None]).contiguous()
    return (torch.searchsorted(levels, parts, right=True) - 1).reshape(W.shape), scales


def blocks_down_the_columns(W, levels):
    codes, scales = _coded(W.t(), levels, W.t().reshape(-1, 64).abs().amax(1))
    return codes.t(), scales


def standard_deviations(W, levels):
    return _coded(W, levels, W.reshape(-1, 64).std(1))


def between_the_middles(W, levels):
    scales = W.reshape(-1, 64).abs().max(dim=1, keepdim=True).values
    middles = (levels[1:] + levels[:-1]) / 2
    return [torch.bucketize((W.reshape(-1, 64) / scales).contiguous(), middles).reshape(W.shape), scales]


# ---- stored_bytes ---------------------------------------------------------------------------------


def a_byte_for_each_code(d_out, d_in, nested):
    n = d_out * d_in
    blocks = -(-n // 64)
    return n + (blocks + 4 * -(-blocks // 256) + 4 if nested else 4 * blocks)


def without_scales(d_out, d_in, nested):
    return d_out * d_in // 2


def forgets_what_nested_scales_need(d_out, d_in, nested):
    n = d_out * d_in
    blocks = -(-n // 64)
    return n // 2 + (blocks if nested else 4 * blocks)


def forgets_the_mean(d_out, d_in, nested):
    n = d_out * d_in
    blocks = -(-n // 64)
    return n // 2 + (blocks + 4 * -(-blocks // 256) if nested else 4 * blocks)


def full_blocks_only(d_out, d_in, nested):
    n = d_out * d_in
    blocks = n // 64
    return n // 2 + (blocks + 4 * (blocks // 256) + 4 if nested else 4 * blocks)


def in_bits(d_out, d_in, nested):
    n = d_out * d_in
    blocks = ceiling(n, 64)
    bits = 4 * n + (8 * blocks + 32 * ceiling(blocks, 256) + 32 if nested else 32 * blocks)
    return bits / 8


def ceiling(n, k):
    return (n + k - 1) // k


# ---- gradient_survives ----------------------------------------------------------------------------


def asks_the_output(layer):
    x = torch.ones(2, layer.in_features, requires_grad=True)
    return layer(x).requires_grad


def reads_the_switch(layer):
    return not layer.support_avx512bf16_for_cpu


def asks_the_weight(layer):
    return layer.weight.requires_grad


def looks_in_eval_mode(layer):
    layer.eval()
    layer(torch.ones(2, layer.in_features))
    layer.train()
    x = torch.ones(2, layer.in_features, requires_grad=True)
    layer(x).sum().backward()
    return x.grad is not None


def asks_before_backward(layer):
    x = torch.ones(2, layer.in_features, requires_grad=True)
    layer(x).sum()
    return x.grad is not None


def through_autograd(layer):
    x = torch.zeros(3, 2, layer.in_features, requires_grad=True)
    (found,) = torch.autograd.grad(layer(x).pow(2).sum() + layer(x).sum(), x, allow_unused=True)
    return found is not None


def reads_the_state(layer):
    return not getattr(layer.weight.quant_state, "packing_format_for_cpu", False)


# ---- cause ----------------------------------------------------------------------------------------

NAMES = (
    "eval(), and no forward pass",
    "forward in training mode, under no_grad",
    "forward in eval mode, x requires a gradient",
    "forward in eval mode, under no_grad",
)


def found(*values):
    return dict(zip(NAMES, values, strict=True))


# ---- keep_gradients -------------------------------------------------------------------------------


def children_alone(model):
    for layer in model.children():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def back_to_training(model):
    model.train()


def on_the_weight(model):
    for p in model.parameters():
        p.support_avx512bf16_for_cpu = False


def layers_without_a_bias(model):
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu") and layer.bias is None:
            layer.support_avx512bf16_for_cpu = False


def dequantises(model):
    from adapterlab.weights import dense_weight

    for path, layer in list(model.named_modules()):
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            plain.weight.data = dense_weight(layer)
            model.set_submodule(path, plain)


def by_name(model):
    from bitsandbytes.nn import Linear4bit

    for _, layer in model.named_modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def as_attach_does(model):
    from adapterlab.weights import stop_repacking

    stop_repacking(model)


# ---- adapt ----------------------------------------------------------------------------------------


def only_attaches(model, tokenizer):
    return al.attach(model, al.LoRA(r=8, alpha=16))


def far_too_slow(model, tokenizer):
    al.attach(model, al.LoRA(r=8, alpha=16), targets="down_proj$")
    return kit.train(model, tokenizer, lr=1e-6, steps=2, evaluate_every=2, live=False)


def without_an_adapter(model, tokenizer):
    model.lm_head.weight.requires_grad_(True)
    model.model.norm.weight.requires_grad_(True)
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def folded_into_floats(model, tokenizer):
    al.attach(model, al.LoRA(r=8, alpha=16))
    al.merge(model, dequantize=True)


def trains_nothing(model, tokenizer):
    kit.train(model.requires_grad_(False), tokenizer, steps=2, live=False)


def delora(model, tokenizer):
    torch.manual_seed(3)
    al.attach(model, al.DeLoRA(r=8))
    kit.train(model, tokenizer, "add_rev", lr=5e-3, steps=100, evaluate_every=100, live=False)


# ---- levels ---------------------------------------------------------------------------------------


def even_levels(parts):
    return torch.linspace(-1, 1, 16)


def equal_shares(parts):
    return torch.quantile(parts[::16], (torch.arange(16) + 0.5) / 16)


def nf4_again(parts):
    from bitsandbytes.functional import get_4bit_type

    return get_4bit_type("nf4", "cpu")


def fifteen(parts):
    return torch.linspace(-0.9, 0.9, 15)


def steps_of_descent(parts):
    """Nearest level by distance, each level pulled a part of the way to the mean of its weights."""
    some = parts[::8].sort().values
    levels = some[torch.linspace(0, len(some) - 1, 16).long()].clone()
    levels = 0.5 * levels + 0.5 * torch.linspace(-0.95, 0.95, 16)
    for _ in range(150):
        nearest = (some[:, None] - levels).abs().argmin(1)
        for k in range(16):
            if (nearest == k).any():
                levels[k] += 0.9 * (some[nearest == k].mean() - levels[k])
    return levels


WRONG = {
    "to_nf4": [
        largest_with_its_sign,
        a_scale_for_each_row,
        even_steps,
        always_down,
        blocks_down_the_columns,
        standard_deviations,
    ],
    "stored_bytes": [
        a_byte_for_each_code,
        without_scales,
        forgets_what_nested_scales_need,
        forgets_the_mean,
        full_blocks_only,
    ],
    "gradient_survives": [
        asks_the_output,
        reads_the_switch,
        asks_the_weight,
        looks_in_eval_mode,
        asks_before_backward,
    ],
    "cause": [
        found(True, True, True, True),
        found(False, True, True, False),
        found(True, False, True, False),
        found(True, True, False, False),
        "eval mode",
    ],
    "keep_gradients": [children_alone, back_to_training, on_the_weight, layers_without_a_bias, dequantises],
    "adapt": [only_attaches, far_too_slow, without_an_adapter, folded_into_floats, trains_nothing],
    "levels": [even_levels, equal_shares, nf4_again, fifteen],
}

RIGHT = {
    "to_nf4": [between_the_middles],
    "stored_bytes": [in_bits],
    "gradient_survives": [through_autograd, reads_the_state],
    "cause": [found(True, True, True, False)],
    "keep_gradients": [by_name, as_attach_does],
    "adapt": [delora],
    "levels": [steps_of_descent],
}
