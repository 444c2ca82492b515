"""The papers' equations, dense and in float64, written without a look at the package: what its outputs are judged by.

Every function takes the adapter's tensors by name and returns (W', b'). All of it is differentiable.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import adapterlab as al


def lora(variant, t: dict[str, Tensor], W: Tensor, b: Tensor | None):
    """Hu et al. 2021, eq. 3, with rsLoRA's scale (Kalajdzievski 2023)."""
    s = variant.alpha / (math.sqrt(variant.r) if variant.rslora else variant.r)
    return W + s * (t["lora_B"] @ t["lora_A"]), b


def dora(variant, t, W, b):
    """Liu et al. 2024, eq. 5; the norm is a constant in the backward pass (section 4.3), the bias is not scaled."""
    V, _ = lora(variant, t, W, b)
    norm = (V.detach() ** 2).sum(dim=1).sqrt()  # one per output feature
    return torch.diag(t["lora_m"] / norm) @ V, b


def hra(variant, t, W, b):
    """Yuan et al. 2024, eq. 3: W H_0 H_1 ... H_{r-1}."""
    for u in t["lora_U"]:
        W = W @ householder(u)
    return W, b


def householder(u: Tensor) -> Tensor:
    return torch.eye(len(u), dtype=u.dtype) - 2 * u[:, None] * u[None, :] / (u**2).sum()


EQUATIONS = {"lora": lora, "dora": dora, "hra": hra}


def tensors(layer: nn.Module, requires_grad: bool = False) -> dict[str, Tensor]:
    """Float64 copies of an adapted layer's parameters, by their own names."""
    return {
        name: p.detach().to(torch.float64, copy=True).requires_grad_(requires_grad)
        for name, p in layer.adapter.named_parameters()
    }


def weight(variant: al.Variant, layer: nn.Module, t: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
    """(W', b') of an adapted layer, from the stored numbers."""
    W, b = layer.weight.detach().double(), None if layer.bias is None else layer.bias.detach().double()
    return EQUATIONS[variant.name](variant, tensors(layer) if t is None else t, W, b)


def output(variant: al.Variant, layer: nn.Module, x: Tensor, t: dict[str, Tensor] | None = None) -> Tensor:
    return F.linear(x.double(), *weight(variant, layer, t))
