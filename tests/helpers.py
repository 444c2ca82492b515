"""What the tests share: the variants with r != alpha, what to expect of each, and models small enough to be quick."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import adapterlab as al

# r != alpha everywhere: a forgotten alpha / r would not show otherwise. alpha / r is no power of two either.
VARIANTS = [
    al.LoRA(r=4, alpha=6),
    al.PiSSA(r=4, alpha=6),
    al.DoRA(r=4, alpha=6),
    al.DeLoRA(r=4, lambda0=3.0),
    al.IA3(),
    al.IA3FF(),
    al.HRA(r=4),
    al.EVA(r=4, alpha=6),
    al.AntiPaSTO(r=4, block_size=2),
]
IDS = [variant.name for variant in VARIANTS]

# Fields that lead to another equation or another start; judged by the same equations, where a variant's maths is.
OTHER_EQUATIONS = {
    "rslora": al.LoRA(r=4, alpha=6, rslora=True),
    "delora-copy": al.DeLoRA(r=4, lambda0=3.0, start="copy", norm="scalar"),
    "antipasto-u": al.AntiPaSTO(r=4, block_size=2, rotate_basis="U"),
    "antipasto-none": al.AntiPaSTO(r=4, block_size=2, rotate_basis="none"),
}

LOW_PRECISION = [torch.bfloat16, torch.float16]
FLOATS = [torch.float64, torch.float32, *LOW_PRECISION]


@dataclass(frozen=True)
class Expected:
    """What is true of a variant, most of it at t=0.

    Attributes:
        identity: bound on the relative change of the outputs of a float32 or float64 layer; 0 is bit for bit.
        identity_low: the same for a bf16 or fp16 layer.
        no_gradient: parameters whose gradient is zero in the first step; all others have one.
        rank_step: the rank is a multiple of it.
        full_precision: parameters that are never stored below float32.
    """

    identity: float = 0.0
    identity_low: float = 0.0
    no_gradient: frozenset[str] = frozenset()
    rank_step: int = 1
    full_precision: frozenset[str] = frozenset()


EXPECTED = {
    "lora": Expected(no_gradient=frozenset({"lora_A"})),
    "pissa": Expected(),
    "dora": Expected(no_gradient=frozenset({"lora_A"}), full_precision=frozenset({"lora_m"})),  # in bf16 not |W|
    # In fp16 the gradient of B overflows where B is near zero.
    "delora": Expected(no_gradient=frozenset({"lora_A", "lora_lambda"}), full_precision=frozenset({"lora_B"})),
    "ia3": Expected(),
    "ia3_ff": Expected(),
    # The paired reflections cancel to rounding. In a low-precision layer that is below what x can hold, but may
    # send a number or two across a rounding edge.
    "hra": Expected(identity=5e-6, identity_low=1e-3, rank_step=2),
    "eva": Expected(no_gradient=frozenset({"lora_A"})),
    "antipasto": Expected(rank_step=2),
}


def expected(variant: al.Variant) -> Expected:
    if variant == OTHER_EQUATIONS["delora-copy"]:
        return Expected()  # B starts at random: everything moves at once
    return EXPECTED[variant.name]


def calibration(model: nn.Module) -> list:
    """Batches that `model` takes, for the variants that start from data."""
    if hasattr(model, "config"):
        return [{"input_ids": torch.randint(3, 48, (4, 16), generator=torch.Generator().manual_seed(0))}]
    first = next(m for m in model.modules() if hasattr(m, "in_features"))
    return [randn(64, first.in_features, seed=7, dtype=first.weight.dtype)]


def attach(model: nn.Module, variant: al.Variant, **options) -> al.Adapter:
    """al.attach, with calibration data where the variant cannot do without."""
    if getattr(variant, "data", "") == "required":
        options.setdefault("calibration_data", calibration(model))
    return al.attach(model, variant, **options)


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|, in float64; 0 for two empty or two zero tensors."""
    a, b = a.detach().double(), b.detach().double()
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    difference = (a - b).norm().item()
    return difference if difference == 0 else difference / max(b.norm().item(), 1e-300)


def with_fields(variant: al.Variant, **fields) -> al.Variant:
    """The variant with those of the fields changed that it has."""
    return replace(variant, **{name: value for name, value in fields.items() if hasattr(variant, name)})


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Drawn in float64, so that a seed gives the same numbers, rounded, in every dtype."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@torch.no_grad()
def far_from_start(adapter: al.Adapter, seed: int = 0) -> al.Adapter:
    """Give every trained parameter a random value far from t=0, and hand the adapter back.

    Size: |s B A| is comparable to |W|. Sizes, gates and strengths are their start times random factors from 0.5 to 2.
    """
    for i, (name, p) in enumerate(adapter.named_parameters()):
        noise = randn(*p.shape, seed=1000 * seed + i).to(p.device)
        if name.endswith(("lora_m", "lora_g", "lora_lambda")):
            p.mul_(2.0 ** noise.clamp(-1, 1))
        elif name.endswith("lora_delta_s"):
            p.copy_(0.5 * noise)
        elif name.endswith("lora_rot_T"):
            p.copy_(2 * noise)  # far into the cap
        elif name.endswith("lora_B"):
            p.copy_(0.5 * noise / p.shape[1] ** 0.5)
        else:
            p.copy_(noise / p.shape[1] ** 0.5)
    return adapter


def linear(d_in: int, d_out: int, bias: bool = True, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Linear:
    """A layer whose bias is as large as its output: a bias that is scaled by mistake shows."""
    layer = nn.Linear(d_in, d_out, bias=bias, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(randn(d_out, d_in, seed=seed) / d_in**0.5)
        if bias:
            layer.bias.copy_(randn(d_out, seed=seed + 1))
    return layer


def small_model(dtype: torch.dtype = torch.float32, bias: bool = True, seed: int = 0) -> nn.Sequential:
    """A two-layer MLP, 12 -> 20 -> 8."""
    return nn.Sequential(linear(12, 20, bias, dtype, seed), nn.Tanh(), linear(20, 8, bias, dtype, seed + 100)).eval()


def tiny_llama(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A random two-layer Llama: biases in attention, two key-value heads for four query heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_bias=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for name, p in model.named_parameters():
            if name.endswith("bias"):  # transformers starts them at zero, where nothing could go wrong with them
                nn.init.normal_(p, std=0.5)
    return model.to(dtype).eval()
