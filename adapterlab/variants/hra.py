"""HRA · Yuan et al. 2024, arXiv 2405.17484, eq. 3.  W' = W R,  R = H_0 H_1 ... H_{r-1}."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..ops import add_low_rank, arithmetic_dtype
from ..variant import ParamSpec, Variant, check_fits, check_rank, kaiming, register
from ..weights import dense_weight, times


def paired_rows(U):
    """Rows 0 and 1 equal, 2 and 3 equal, ...: each reflection is undone by the next."""
    half = U.new_empty(U.shape[0] // 2, U.shape[1])
    kaiming(half)
    U.copy_(half.repeat_interleave(2, dim=0))


@register("hra")
@dataclass(frozen=True)
class HRA(Variant):
    """Turn the input space by r Householder reflections H_i = I - 2 u_i u_i^T / |u_i|^2.

    Equal rows come in pairs at t=0 and cancel, to rounding (1e-7 in float32), while every row has a
    gradient from step 0, opposite within a pair. A zero row reflects nothing: H_i = I.

    Args:
        r: number of reflections, even, 2 to min(d_in, d_out).

    Tensors: lora_U (r, d_in), trained. PEFT's hra_u is its transpose.

    Raises:
        ValueError: r is odd, below 2, or above min(d_in, d_out).
    """

    r: int = 8

    side = "input"

    def __post_init__(self):
        check_rank(self.r)
        if self.r % 2:
            raise ValueError(f"r = {self.r} is odd: HRA's reflections cancel in pairs, choose an even r")

    def specs(self, d_in, d_out):
        check_fits(self.r, d_in, d_out)
        return {"lora_U": ParamSpec((self.r, d_in), paired_rows)}

    def effective_weight(self, p, W, b):
        for u in p.lora_U:  # W H_0, W H_0 H_1, ...: mirror by mirror, so that no (d_in, d_in) matrix is formed
            if u @ u != 0:  # not "> 0": a NaN must not pass for a zero row
                W = W - 2 * torch.outer(W @ u, u) / (u @ u)
        return W, b

    def prepare(self, p, layer):
        """Compact WY (Schreiber and Van Loan 1989): R = I - Q^T T Q, Q the unit rows, T r x r and
        triangular with T^-1 = striu(Q Q^T) + diag(Q Q^T)/2."""
        dtype = arithmetic_dtype(p.lora_U.dtype)
        Q = F.normalize(p.lora_U.to(dtype), dim=1)  # (r, d_in)
        eye = torch.eye(len(Q), dtype=dtype, device=Q.device)
        gram = Q @ Q.t()
        # Not 1: rounded rows are not quite of unit length, and R is a rotation only with the length they have.
        length_sq = gram.diagonal().masked_fill(gram.diagonal() == 0, 1.0)  # a zero row needs any other number
        T = torch.linalg.solve_triangular(gram.triu(1) + torch.diag(length_sq / 2), eye, upper=True)
        return T @ Q, Q.t()

    def forward(self, prepared, x, y):
        TQ, Qt = prepared  # (r, d_in), (d_in, r)
        return add_low_rank(x, x, TQ, Qt, -1.0)  # x R^T = x - (x (T Q)^T) Q

    def low_rank(self, p, layer):
        TQ, Qt = self.prepare(p, layer)
        return TQ, -times(dense_weight(layer), Qt)  # W R = W - (W Q^T) (T Q)
