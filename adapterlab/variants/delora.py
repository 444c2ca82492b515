"""DeLoRA · Bini et al. 2025, arXiv 2503.18225, eq. 8.  W' = W + (lambda / r) B diag(1 / (|b_i| |a_i|)) A diag(|W|)."""

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..ops import add_low_rank, arithmetic_dtype
from ..variant import ParamSpec, Variant, check_fits, check_rank, kaiming, register
from ..weights import column_squares, dense_weight

LEAST = 1e-4  # norms are divided by no less, as in PEFT


@register("delora")
@dataclass(frozen=True)
class DeLoRA(Variant):
    """Train the angles of a low-rank update and, apart from them, its strength lambda.

    Each of the r directions b_i a_i^T is divided by its norm, so lambda alone bounds the update's size:
    norm(dW diag(1 / |W|)) <= lambda, whatever A and B are. The norms take part in the gradient.

    Args:
        r: rank, 1 to min(d_in, d_out).
        lambda0: start of lambda, above 0: at 0 neither A nor B would ever have a gradient. 15 is PEFT's.
        start: "zero" starts B at zero, as PEFT does. The first optimiser step then moves W by about
            lambda0 / sqrt(r d_in) of its norm whatever the learning rate. "copy" is the paper's section 2.2 and
            eq. 9: A and B start at random and a frozen copy of the start is subtracted.
        norm: |W| per input "column", as in PEFT, or the "scalar" Frobenius norm of eq. 8.

    Tensors: lora_A (r, d_in), lora_B (d_out, r), lora_lambda (1,), trained; lora_wnorm (d_in,), frozen; with
    start="copy" also lora_A0, lora_B0, lora_lambda0, frozen. lora_B and lora_wnorm are stored in float32 at
    least: near B = 0 the gradient of B is beyond what float16 can hold.

    Raises:
        ValueError: r does not fit, lambda0 is not above 0 and finite, or start or norm is none of the above.
    """

    r: int = 8
    lambda0: float = 15.0
    start: str = "zero"
    norm: str = "column"

    def __post_init__(self):
        check_rank(self.r)
        number = isinstance(self.lambda0, (int, float)) and not isinstance(self.lambda0, bool)
        if not number or not math.isfinite(self.lambda0) or self.lambda0 <= 0:
            raise ValueError(
                f"lambda0 = {self.lambda0!r}: it must be finite and above 0: at 0 nothing but lambda could move"
            )
        if self.start not in ("zero", "copy"):
            raise ValueError(f"start = {self.start!r}: choose 'zero' (PEFT's) or 'copy' (the paper's)")
        if self.norm not in ("column", "scalar"):
            raise ValueError(f"norm = {self.norm!r}: choose 'column' (PEFT's) or 'scalar' (the paper's)")

    def specs(self, d_in, d_out):
        check_fits(self.r, d_in, d_out)
        A, B = (self.r, d_in), (d_out, self.r)
        copy = self.start == "copy"
        specs = {
            "lora_A": ParamSpec(A, kaiming),
            "lora_B": ParamSpec(B, kaiming if copy else nn.init.zeros_, full_precision=True),
            "lora_lambda": ParamSpec((1,), lambda t: t.fill_(self.lambda0)),  # FSDP2 shards no scalar
            "lora_wnorm": ParamSpec((d_in,), as_buffer=True, full_precision=True),
        }
        if copy:
            specs["lora_A0"] = ParamSpec(A, as_buffer=True)
            specs["lora_B0"] = ParamSpec(B, as_buffer=True, full_precision=True)
            specs["lora_lambda0"] = replace(specs["lora_lambda"], as_buffer=True)
        return specs

    def init(self, p, layer):
        squares = column_squares(dense_weight(layer), p.lora_wnorm.dtype)  # (d_in,)
        p.lora_wnorm.copy_((squares if self.norm == "column" else squares.sum()).sqrt())
        if self.start == "copy":
            p.lora_A0.copy_(p.lora_A)
            p.lora_B0.copy_(p.lora_B)

    def effective_weight(self, p, W, b):
        dW = self._update(p.lora_A, p.lora_B, p.lora_lambda, p.lora_wnorm)
        if self.start == "copy":
            dW = dW - self._update(p.lora_A0, p.lora_B0, p.lora_lambda0, p.lora_wnorm)
        return W + dW, b

    def _update(self, A, B, strength, wnorm):
        directions = B / B.norm(dim=0).clamp(min=LEAST) @ (A / A.norm(dim=1, keepdim=True).clamp(min=LEAST))
        return strength / len(A) * directions * wnorm  # (d_out, d_in)

    def prepare(self, p, layer):
        A, B = self._factors(p.lora_A, p.lora_B, p.lora_lambda, p.lora_wnorm)
        if self.start == "copy":
            A0, B0 = self._factors(p.lora_A0, p.lora_B0, p.lora_lambda0, p.lora_wnorm)
            A, B = torch.cat([A, A - A0]), torch.cat([B - B0, B0], dim=1)  # exactly 0 at t=0: see PiSSA
        return A, B

    def _factors(self, A, B, strength, wnorm):
        """(r, d_in) with |W| in it and (d_out, r) with the rest: two thin matrices, so that x meets no more."""
        dtype = arithmetic_dtype(A.dtype, B.dtype)
        A, B, strength, wnorm = A.to(dtype), B.to(dtype), strength.to(dtype), wnorm.to(dtype)
        norms = A.norm(dim=1).clamp(min=LEAST) * B.norm(dim=0).clamp(min=LEAST)  # (r,)
        return A * wnorm, B * (strength / len(A) / norms)

    def forward(self, prepared, x, y):
        A, B = prepared
        return add_low_rank(y, x, A, B, 1.0)

    def low_rank(self, p, layer):
        return self.prepare(p, layer)
