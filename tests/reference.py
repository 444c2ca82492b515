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


def pissa(variant, t, W, b):
    """Meng et al. 2024, eq. 2 to 4: the residual W - s B0 A0 stays, s B A is trained."""
    alpha = variant.r if variant.alpha is None else variant.alpha
    s = alpha / (math.sqrt(variant.r) if variant.rslora else variant.r)
    return (W - s * (t["lora_B0"] @ t["lora_A0"])) + s * (t["lora_B"] @ t["lora_A"]), b


def delora(variant, t, W, b):
    """Bini et al. 2025, eq. 8, one rank-1 term after the other; with the paper's start less a copy of it, eq. 9."""
    W = W + bounded(t["lora_A"], t["lora_B"], t["lora_lambda"], t["lora_wnorm"])
    if variant.start == "copy":
        W = W - bounded(t["lora_A0"], t["lora_B0"], t["lora_lambda0"], t["lora_wnorm"])
    return W, b


def bounded(A, B, strength, wnorm):
    total = 0
    for a, b in zip(A, B.t(), strict=True):
        sizes = torch.linalg.vector_norm(a).clamp(min=1e-4) * torch.linalg.vector_norm(b).clamp(min=1e-4)
        total = total + (strength / len(A)) * torch.outer(b, a) / sizes
    return total @ torch.diag(wnorm)


def ia3(variant, t, W, b):
    """Liu et al. 2022, section 3.3: each output is multiplied by its gate."""
    G = torch.diag(t["lora_g"])
    return G @ W, None if b is None else G @ b


def ia3_ff(variant, t, W, b):
    """Liu et al. 2022, section 3.3, of the feed-forward: each input is multiplied by its gate."""
    return W @ torch.diag(t["lora_g"]), b


def antipasto(variant, t, W, b):
    """Clark 2026: the top of W's SVD is replaced by U diag(S + delta_s) R Vh, or U R^T diag(S + delta_s) Vh."""
    U, S, Vh = t["lora_U"], torch.diag(t["lora_S"]), t["lora_Vh"]
    stretched = S + torch.diag(t["lora_delta_s"])
    if variant.rotate_basis == "none":
        return W - U @ S @ Vh + U @ stretched @ Vh, b
    R = torch.block_diag(*[cayley(angles, variant.block_size, variant.max_angle) for angles in t["lora_rot_T"]])
    turned = stretched @ R if variant.rotate_basis == "V" else R.t() @ stretched
    return W - U @ S @ Vh + U @ turned @ Vh, b


def cayley(angles: Tensor, size: int, max_angle: float) -> Tensor:
    """The rotation of one block from the entries above the diagonal of twice its skew matrix."""
    A = [[angles.new_zeros(()) for _ in range(size)] for _ in range(size)]
    limit, entries = 2 * math.tan(max_angle / 2), iter(angles)
    for i in range(size):
        for j in range(i + 1, size):
            A[i][j] = limit * torch.tanh(next(entries) / 2 / limit)
            A[j][i] = -A[i][j]
    A = torch.stack([torch.stack(row) for row in A])
    eye = torch.eye(size, dtype=A.dtype)
    return torch.linalg.inv(eye - A / 2) @ (eye + A / 2)


EQUATIONS = {
    "lora": lora,
    "pissa": pissa,
    "dora": dora,
    "delora": delora,
    "ia3": ia3,
    "ia3_ff": ia3_ff,
    "hra": hra,
    "eva": lora,
    "antipasto": antipasto,
}


def tensors(layer: nn.Module, requires_grad: bool = False) -> dict[str, Tensor]:
    """Float64 copies of an adapted layer's parameters and of the frozen tensors beside them, by their own names."""
    parameters = {
        name: p.detach().to(torch.float64, copy=True).requires_grad_(requires_grad)
        for name, p in layer.adapter.named_parameters()
    }
    frozen = {name: b.double() for name, b in layer.adapter.named_buffers() if name.startswith("lora_")}
    return parameters | frozen


def trained(t: dict[str, Tensor]) -> list[Tensor]:
    return [tensor for tensor in t.values() if tensor.requires_grad]


def weight(variant: al.Variant, layer: nn.Module, t: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
    """(W', b') of an adapted layer, from the stored numbers."""
    W, b = layer.weight.detach().double(), None if layer.bias is None else layer.bias.detach().double()
    return EQUATIONS[variant.name](variant, tensors(layer) if t is None else t, W, b)


def output(variant: al.Variant, layer: nn.Module, x: Tensor, t: dict[str, Tensor] | None = None) -> Tensor:
    return F.linear(x.double(), *weight(variant, layer, t))
