"""LoRA · Hu et al. 2021, arXiv 2106.09685, eq. 3.  W' = W + s B A,  s = alpha / r."""

from dataclasses import dataclass

from ..ops import add_low_rank, arithmetic_dtype
from ..variant import ParamSpec, Variant, check_alpha, check_fits, check_rank, kaiming, register, scaling


@register("lora")
@dataclass(frozen=True)
class LoRA(Variant):
    """Add a thin matrix: W' = W + s B A.

    B starts at zero, so W' = W at t=0 and only B has a gradient in the first step.

    Args:
        r: rank of the added matrix, 1 to min(d_in, d_out).
        alpha: s = alpha / r; the update shrinks as r grows.
        rslora: s = alpha / sqrt(r) instead (Kalajdzievski 2023, arXiv 2312.03732).

    Tensors: lora_A (r, d_in), lora_B (d_out, r), both trained.

    Raises:
        ValueError: r is no whole number from 1 to min(d_in, d_out), or alpha is 0 or not finite.
    """

    r: int = 8
    alpha: float = 16
    rslora: bool = False

    def __post_init__(self):
        check_rank(self.r)
        check_alpha(self.alpha)

    def specs(self, d_in, d_out):
        check_fits(self.r, d_in, d_out)
        return {
            "lora_A": ParamSpec((self.r, d_in), kaiming),
            "lora_B": ParamSpec((d_out, self.r)),
        }

    def layer_scale(self):
        return scaling(self.r, self.alpha, self.rslora)

    def effective_weight(self, p, W, b):
        return W + p.scale * p.lora_B @ p.lora_A, b  # (d_out, d_in)

    def prepare(self, p, layer):
        return p.lora_A, p.lora_B, p.scale

    def forward(self, prepared, x, y):
        A, B, s = prepared
        return add_low_rank(y, x, A, B, s)

    def low_rank(self, p, layer):
        A, B, s = self.prepare(p, layer)
        return A, s * B.to(arithmetic_dtype(B.dtype))
