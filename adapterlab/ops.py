"""The few functions that fast paths share: low-rank additions, and DoRA's row norm.

Where base and adapter have one dtype, plain autograd is fastest. Where the base is in lower precision
(bf16 weights, float32 adapter), plain autograd would keep float32 copies of x and y for the backward
pass; the two Functions below keep them as they came and repeat the thin products instead.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from .weights import times


def arithmetic_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """float32, or float64 where anything is float64: nothing drops below float32."""
    result = torch.float32
    for dtype in dtypes:
        result = torch.promote_types(result, dtype)
    return result


def rows(x: Tensor) -> Tensor:
    """(..., d) as (n, d)."""
    return x.reshape(-1, x.shape[-1])


# ---- y + s B A x ----------------------------------------------------------------------------------


def add_low_rank(y: Tensor, x: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
    """y + s (x A^T) B^T, rounded once to y's dtype. y (..., d_out), x (..., d_in), A (r, d_in), B (d_out, r)."""
    dtype = arithmetic_dtype(x.dtype, A.dtype)
    A, B = A.to(dtype), B.to(dtype)
    if x.dtype == dtype and y.dtype == dtype:
        return _add_low_rank(y, x, A, B, s)
    if not torch.is_grad_enabled():  # a Function's own call costs as much as the products of one token
        return _AddLowRank.forward(y, x, A, B, s)
    if y is x:  # HRA; torch.compile refuses one tensor as two inputs of a Function
        y = x.view_as(x)
    return _AddLowRank.apply(y, x, A, B, s)


def _add_low_rank(y: Tensor, x: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
    h = F.linear(rows(x), A) * s  # (n, r)
    # addmm adds while it multiplies: one pass over y
    return torch.addmm(rows(y), h, B.t()).view(y.shape)


def _without_autocast(backward):
    """backward() may be called inside autocast, which would take the thin products to bf16."""

    @functools.wraps(backward)
    def run(ctx, g):
        with torch.autocast(g.device.type, enabled=False):
            return backward(ctx, g)

    return run


class _AddLowRank(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(y, x, A, B, s):
        return _add_low_rank(y.to(A.dtype), x.to(A.dtype), A, B, s).to(y.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        y, x, A, B, s = inputs
        ctx.save_for_backward(x, A, B)
        ctx.s = s

    @staticmethod
    @_without_autocast
    def backward(ctx, g):
        x, A, B = ctx.saved_tensors
        gx, gA, gB = _low_rank_backward(rows(g).to(A.dtype), rows(x).to(A.dtype), A, B, ctx.s)
        return g, gx.view(x.shape).to(x.dtype), gA, gB, None


def _low_rank_backward(g: Tensor, x: Tensor, A: Tensor, B: Tensor, s: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of s (x A^T) B^T for x, A and B. g (n, d_out), x (n, d_in)."""
    gh = (g @ B) * s  # (n, r)
    h = (x @ A.t()) * s  # (n, r)
    return gh @ A, gh.t() @ x, g.t() @ h


# ---- DoRA: b + c (y - b + s B A x), c per output feature ------------------------------------------


def add_low_rank_rescaled(y: Tensor, x: Tensor, A: Tensor, B: Tensor, s: float, c: Tensor, b: Tensor | None) -> Tensor:
    """c t + (1 - c) b with t = y + s (x A^T) B^T: exactly y where B = 0 and c = 1.

    c (d_out,) scales each output feature; the bias b (d_out,) or None is not scaled.
    """
    dtype = arithmetic_dtype(x.dtype, A.dtype)
    A, B, c = A.to(dtype), B.to(dtype), c.to(dtype)
    if x.dtype == dtype and y.dtype == dtype:
        return _rescale(_add_low_rank(y, x, A, B, s), c, b)
    if b is None:
        b = torch.zeros_like(c)
    if not torch.is_grad_enabled():
        return _AddLowRankRescaled.forward(y, x, A, B, s, c, b)
    return _AddLowRankRescaled.apply(y, x, A, B, s, c, b.detach())


def _rescale(t: Tensor, c: Tensor, b: Tensor | None) -> Tensor:
    return t * c if b is None else torch.addcmul((1 - c) * b, t, c)  # one pass over t


class _AddLowRankRescaled(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(y, x, A, B, s, c, b):
        t = _add_low_rank(y.to(A.dtype), x.to(A.dtype), A, B, s)
        return _rescale(t, c, b.to(A.dtype)).to(y.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        y, x, A, B, s, c, b = inputs
        ctx.save_for_backward(y, x, A, B, c, b)
        ctx.s = s

    @staticmethod
    @_without_autocast
    def backward(ctx, g):
        y, x, A, B, c, b = ctx.saved_tensors
        wide = rows(x).to(A.dtype)
        v = _add_low_rank(rows(y).to(A.dtype), wide, A, B, ctx.s) - b.to(A.dtype)  # (n, d_out)
        gt = rows(g).to(A.dtype) * c
        gc = (rows(g).to(A.dtype) * v).sum(0)
        gx, gA, gB = _low_rank_backward(gt, wide, A, B, ctx.s)
        return gt.view(y.shape).to(y.dtype), gx.view(x.shape).to(x.dtype), gA, gB, None, gc, None


# ---- the norm of each row of W + s B A ------------------------------------------------------------

# |V|^2 below this share of |W|^2 + |sBA|^2: the Gram form has lost digits that float32 cannot spare. With the rows
# formed from here on the norm is within 1e-6 throughout; just above a share of 0.1 it was 2e-6 off, of 0.01 1e-5.
CANCELLED = 0.2


@torch.no_grad()
def _row_norm(W: Tensor, row_sq: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
    """|W + s B A| per row, (d_out,), without forming the (d_out, d_in) sum.

    |V|^2 = |W|^2 + 2 s <W A^T, B> + s^2 <B (A A^T), B>, row by row. Where the sum cancels, those rows
    are formed after all. An opaque op, because which rows cancel depends on the values: under
    torch.compile that branch would break the graph. It has no gradient: DoRA detaches the norm.

    Args:
        W: (d_out, d_in) in any dtype; row_sq: (d_out,) |W|^2; A: (r, d_in); B: (d_out, r).
    """
    cross = times(W, A.t())  # (d_out, r)
    own = (B @ (A @ A.t()) * B).sum(1).mul_(s * s)  # (d_out,) |sBA|^2
    norm_sq = row_sq + (cross * B).sum(1).mul_(2 * s) + own
    cancelled = (norm_sq < CANCELLED * (row_sq + own)).nonzero().squeeze(1)
    if len(cancelled):
        V = torch.addmm(W[cancelled].to(A.dtype), B[cancelled], A, alpha=s)
        norm_sq[cancelled] = V.square().sum(1)
    return norm_sq.clamp_(min=0).sqrt_()


def _row_norm_vmap(info, in_dims, W, row_sq, A, B, s):
    """Which rows cancel differs along the batch, so one after the other."""

    def at(i, tensor, dim):
        return tensor if dim is None else tensor.select(dim, i)

    batch = (tuple(map(at, [i] * 4, (W, row_sq, A, B), in_dims)) for i in range(info.batch_size))
    return torch.stack([row_norm(*tensors, s) for tensors in batch]), 0


# Not torch.library.custom_op, which would import torch.compile's machinery (seconds) at the first call.
_library = torch.library.Library("adapterlab", "DEF")
_library.define("row_norm(Tensor W, Tensor row_sq, Tensor A, Tensor B, float s) -> Tensor")
_library.impl("row_norm", _row_norm, "CompositeExplicitAutograd")
_library.impl("row_norm", torch.library.fallthrough_kernel, "Autograd")  # none, without a warning: see no_grad above
torch.library.register_fake("adapterlab::row_norm", lambda W, row_sq, *_: torch.empty_like(row_sq), lib=_library)
torch.library.register_vmap("adapterlab::row_norm", _row_norm_vmap, lib=_library)
row_norm = torch.ops.adapterlab.row_norm.default
