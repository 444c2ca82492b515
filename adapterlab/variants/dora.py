"""DoRA · Liu et al. 2024, arXiv 2402.09353, eq. 5.  W' = diag(m / |V|) V,  V = W + s B A."""

from dataclasses import dataclass

import torch

from ..ops import add_low_rank_rescaled, arithmetic_dtype, row_norm
from ..variant import ParamSpec, Variant, check_alpha, check_fits, check_rank, kaiming, register, scaling
from ..weights import dense_weight, row_squares


@register("dora")
@dataclass(frozen=True)
class DoRA(Variant):
    """Train the size m and the direction V / |V| of each row of the weight apart.

    One norm per output feature, over d_in (the paper writes W transposed and says "column-wise"). The
    bias is not scaled. |V| is detached in the backward pass (section 4.3). A row with |V| = 0 has no
    direction and stays as it is.

    Args:
        r, alpha, rslora: as in LoRA.

    Tensors: lora_A (r, d_in), lora_B (d_out, r), lora_m (d_out,), all trained. lora_m is stored in
    float32 at least: rounded to bf16 it would no longer equal |W| at t=0. |W|^2 is kept beside them,
    unsaved, and computed again after load_state_dict and after a change of dtype.

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
            "lora_m": ParamSpec((d_out,), full_precision=True),
        }

    def layer_scale(self):
        return scaling(self.r, self.alpha, self.rslora)

    def init(self, p, layer):
        p.lora_m.copy_(self._norm(p, layer))  # the routine of `prepare`: m / |V| is then exactly 1

    def derive(self, p, layer):
        return {"row_sq": row_squares(dense_weight(layer), arithmetic_dtype(p.lora_A.dtype))}  # (d_out,)

    def effective_weight(self, p, W, b):
        V = W + p.scale * p.lora_B @ p.lora_A  # (d_out, d_in)
        norm = V.detach().norm(dim=1)  # (d_out,)
        divisor = norm.masked_fill(norm == 0, 1.0)  # 1 / 0 would make m's gradient NaN even where it is not used
        return torch.where(norm > 0, p.lora_m / divisor, 1.0)[:, None] * V, b

    def _norm(self, p, layer):
        row_sq = self.derive(p, layer)["row_sq"] if p.row_sq is None else p.row_sq
        A, B = p.lora_A.detach().to(row_sq.dtype), p.lora_B.detach().to(row_sq.dtype)
        return row_norm(dense_weight(layer), row_sq, A, B, p.scale)  # (d_out,)

    def prepare(self, p, layer):
        norm = self._norm(p, layer)
        no_direction = norm == 0
        c = p.lora_m / norm.masked_fill(no_direction, 1.0)
        return p.lora_A, p.lora_B, p.scale, c.masked_fill(no_direction, 1.0), layer.bias

    def forward(self, prepared, x, y):
        A, B, s, c, b = prepared
        return add_low_rank_rescaled(y, x, A, B, s, c, b)
