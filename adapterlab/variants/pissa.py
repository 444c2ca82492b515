"""PiSSA · Meng et al. 2024, arXiv 2404.02948, eq. 2 to 4.  W' = W + s (B A - B0 A0),  s B0 A0 = the top of W's SVD."""

import math
from dataclasses import dataclass

import torch

from ..ops import add_low_rank, arithmetic_dtype
from ..singular import top_svd
from ..variant import ParamSpec, Variant, check_alpha, check_fits, check_rank, register, scaling


@register("pissa")
@dataclass(frozen=True)
class PiSSA(Variant):
    """Train the principal singular directions of the weight itself, from where they are.

    The paper (and PEFT) take s B0 A0 out of the stored weight. Here the weight stays and the trained
    difference is s (B A - B0 A0): the same W', zero bit for bit at t=0 in every dtype, and nothing to restore.
    A and B have a gradient from the first step on.

    Args:
        r: rank of what is trained, 1 to min(d_in, d_out). The trained difference has rank 2 r.
        alpha: s = alpha / r; None is the paper's alpha = r. The product s B0 A0 is the same for any alpha, the
            share of it that a step moves is not.
        rslora: s = alpha / sqrt(r) instead.

    Tensors: lora_A (r, d_in), lora_B (d_out, r), trained; lora_A0, lora_B0, their start, frozen and saved, since
    an SVD is not reproducible to the bit across machines.

    Raises:
        ValueError: r is no whole number from 1 to min(d_in, d_out), or alpha is 0 or not finite.
    """

    r: int = 8
    alpha: float | None = None
    rslora: bool = False

    def __post_init__(self):
        check_rank(self.r)
        if self.alpha is not None:
            check_alpha(self.alpha)

    def specs(self, d_in, d_out):
        check_fits(self.r, d_in, d_out)
        A, B = (self.r, d_in), (d_out, self.r)
        return {
            "lora_A": ParamSpec(A),
            "lora_B": ParamSpec(B),
            "lora_A0": ParamSpec(A, as_buffer=True),
            "lora_B0": ParamSpec(B, as_buffer=True),
        }

    def layer_scale(self):
        return scaling(self.r, self.r if self.alpha is None else self.alpha, self.rslora)

    def init(self, p, layer):
        U, S, Vh = top_svd(layer, self.r)
        root = (S / abs(p.scale)).sqrt()  # (r,)
        p.lora_A0.copy_(root[:, None] * Vh)
        p.lora_B0.copy_(U * math.copysign(1, p.scale) * root)
        p.lora_A.copy_(p.lora_A0)
        p.lora_B.copy_(p.lora_B0)

    def effective_weight(self, p, W, b):
        return W + p.scale * (p.lora_B @ p.lora_A - p.lora_B0 @ p.lora_A0), b  # (d_out, d_in)

    def prepare(self, p, layer):
        """B A - B0 A0 = (B - B0) A + B0 (A - A0), as one product of rank 2 r. Each half has a factor that is
        zero at t=0; two products of which one is subtracted would cancel to rounding only."""
        dtype = arithmetic_dtype(p.lora_A.dtype)
        A, B, A0, B0 = (t.to(dtype) for t in (p.lora_A, p.lora_B, p.lora_A0, p.lora_B0))
        return torch.cat([A, A - A0]), torch.cat([B - B0, B0], dim=1), p.scale  # (2r, d_in), (d_out, 2r)

    def forward(self, prepared, x, y):
        A, B, s = prepared
        return add_low_rank(y, x, A, B, s)

    def low_rank(self, p, layer):
        A, B, s = self.prepare(p, layer)
        return A, s * B
