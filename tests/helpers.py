"""What the tests share: the variants with r != alpha, what to expect of each, and models small enough to be quick."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import adapterlab as al

# r != alpha everywhere: a forgotten alpha / r would not show otherwise. alpha / r is no power of two either.
VARIANTS = [al.LoRA(r=4, alpha=6), al.LoRA(r=4, alpha=6, rslora=True), al.DoRA(r=4, alpha=6), al.HRA(r=4)]
IDS = ["lora", "rslora", "dora", "hra"]

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
    """

    identity: float = 0.0
    identity_low: float = 0.0
    no_gradient: frozenset[str] = frozenset()
    rank_step: int = 1


EXPECTED = {
    "lora": Expected(no_gradient=frozenset({"lora_A"})),
    "dora": Expected(no_gradient=frozenset({"lora_A"})),
    # The paired reflections cancel to rounding. In a low-precision layer that is below what x can hold, but may
    # send a number or two across a rounding edge.
    "hra": Expected(identity=5e-6, identity_low=1e-3, rank_step=2),
}


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
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@torch.no_grad()
def far_from_start(adapter: al.Adapter, seed: int = 0) -> al.Adapter:
    """Give every trained parameter a random value far from t=0, and hand the adapter back.

    Size: |s B A| is comparable to |W|. lora_m is its start times random factors from 0.5 to 2.
    """
    for i, (name, p) in enumerate(adapter.named_parameters()):
        noise = randn(*p.shape, seed=1000 * seed + i)
        if name.endswith("lora_m"):
            p.mul_(2.0 ** noise.clamp(-1, 1))
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
