"""AntiPaSTO · Clark 2026, arXiv 2601.07473, github.com/wassname/AntiPaSTO. W' = W + U (diag(S + dS) R - diag(S)) Vh."""

import math
from dataclasses import dataclass

import torch

from .. import calibrate
from ..ops import add_low_rank, arithmetic_dtype
from ..singular import svd, top_svd
from ..variant import ParamSpec, Variant, check_fits, check_rank, register


@register("antipasto")
@dataclass(frozen=True)
class AntiPaSTO(Variant):
    """Stretch and turn the weight's own singular axes: dS adds to the singular values, R rotates among the axes.

    R is block-diagonal, one Cayley rotation per block: R = (I - A/2)^-1 (I + A/2) with A skew. A's entries are
    softly capped, A = L tanh(A / L), L = 2 tan(max_angle / 2). The cap holds per entry: one entry alone turns its
    plane by at most max_angle, a block of 4 with all six at the cap by more.

    `adapter.coefficient` c multiplies dS, and A before the cap: R(-c) undoes R(c). 0 is the base, bit for bit.

    Args:
        r: number of singular axes, a multiple of block_size, at most min(d_in, d_out).
        block_size: axes that turn among themselves, at least 2.
        max_angle: the cap in radians, above 0 and below pi.
        rotate_basis: "V" turns the input axes (R Vh), "U" the output axes (U R^T), "none" only stretches.

    With calibration data the r axes are those of largest S_i mean|v_i x| instead of largest S_i.

    Tensors: lora_delta_s (r,) and, unless rotate_basis="none", lora_rot_T (r / bs, bs (bs - 1) / 2), trained, zero
    at t=0; lora_U (d_out, r), lora_S (r,), lora_Vh (r, d_in), frozen and saved.

    Raises:
        ValueError: a field is outside these bounds, or r is above min(d_in, d_out).
    """

    r: int = 32
    block_size: int = 4
    max_angle: float = 0.5
    rotate_basis: str = "V"

    data = "optional"
    steerable = True

    def __post_init__(self):
        check_rank(self.r)
        if isinstance(self.block_size, bool) or not isinstance(self.block_size, int) or self.block_size < 2:
            raise ValueError(f"block_size = {self.block_size!r}: it takes a whole number of at least 2 axes to turn")
        if self.r % self.block_size:
            raise ValueError(f"r = {self.r} is no multiple of block_size = {self.block_size}: choose one that is")
        number = isinstance(self.max_angle, (int, float)) and not isinstance(self.max_angle, bool)
        if not number or not 0 < self.max_angle < math.pi:
            raise ValueError(f"max_angle = {self.max_angle!r}: it must be above 0 and below pi radians")
        if self.rotate_basis not in ("V", "U", "none"):
            raise ValueError(f"rotate_basis = {self.rotate_basis!r}: choose 'V', 'U' or 'none'")

    def specs(self, d_in, d_out):
        check_fits(self.r, d_in, d_out)
        bs = self.block_size
        specs = {
            "lora_delta_s": ParamSpec((self.r,)),
            "lora_rot_T": ParamSpec((self.r // bs, bs * (bs - 1) // 2)),
            "lora_U": ParamSpec((d_out, self.r), as_buffer=True),
            "lora_S": ParamSpec((self.r,), as_buffer=True),
            "lora_Vh": ParamSpec((self.r, d_in), as_buffer=True),
        }
        if self.rotate_basis == "none":
            del specs["lora_rot_T"]
        return specs

    def init(self, p, layer):
        self._take(p, *top_svd(layer, self.r))

    def group_init(self, layers, batches):
        axes = {path: svd(p.base_weight()) for path, p in layers.items()}
        size = calibrate.mean_absolute({path: Vh for path, (_, _, Vh) in axes.items()}, batches)
        for path, p in layers.items():
            U, S, Vh = axes[path]
            chosen = (S * size[path]).topk(self.r).indices.sort().values  # in the order of S
            self._take(p, U[:, chosen], S[chosen], Vh[chosen])

    def _take(self, p, U, S, Vh):
        p.lora_U.copy_(U)
        p.lora_S.copy_(S)
        p.lora_Vh.copy_(Vh)

    def effective_weight(self, p, W, b):
        core = torch.block_diag(*self._core(p, W.dtype))  # (r, r)
        return W + p.lora_U @ core @ p.lora_Vh, b

    def _core(self, p, dtype):
        """diag(S + dS) R - diag(S) block by block, (r / bs, bs, bs), as diag(S) (R - I) + diag(dS) R: nothing is
        subtracted that is not itself zero at t=0."""
        bs, c = self.block_size, p.coefficient
        S, dS = p.lora_S.to(dtype).view(-1, bs, 1), c * p.lora_delta_s.to(dtype).view(-1, bs, 1)
        if self.rotate_basis == "none":
            return torch.diag_embed(dS.squeeze(-1))
        turn = self._turn(c * p.lora_rot_T.to(dtype))  # R - I
        if self.rotate_basis == "V":
            return S * turn + dS * turn + torch.diag_embed(dS.squeeze(-1))
        turn = turn.mT  # U R^T diag(S + dS) Vh: the values stand to the right of the rotation
        return turn * S.mT + turn * dS.mT + torch.diag_embed(dS.squeeze(-1))

    def _turn(self, angles):
        """R - I = (I - A/2)^-1 A of each block, from the (r / bs, bs (bs - 1) / 2) entries above the diagonal."""
        bs, limit = self.block_size, 2 * math.tan(self.max_angle / 2)
        above = torch.ones(bs, bs, dtype=torch.bool, device=angles.device).triu(1).expand(len(angles), bs, bs)
        upper = angles.new_zeros(len(angles), bs, bs).masked_scatter(above, angles)
        A = limit * torch.tanh((upper - upper.mT) / 2 / limit)
        return torch.linalg.solve(torch.eye(bs, dtype=A.dtype, device=A.device) - A / 2, A)

    def prepare(self, p, layer):
        dtype = arithmetic_dtype(p.lora_U.dtype)
        core = self._core(p, dtype)
        U = p.lora_U.to(dtype).view(-1, *core.shape[:2])  # (d_out, r / bs, bs)
        return p.lora_Vh.to(dtype), torch.einsum("okb,kbc->okc", U, core).flatten(1)  # (r, d_in), (d_out, r)

    def forward(self, prepared, x, y):
        Vh, U_core = prepared
        return add_low_rank(y, x, Vh, U_core, 1.0)

    def low_rank(self, p, layer):
        return self.prepare(p, layer)
