"""The largest singular values of a weight and their axes, exact to 1e-6 and faster than a whole decomposition."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .weights import dense_weight

SMALL = 1024  # up to here all eigenvectors of W^T W cost less than looking for a few
ANGLE = 1e-7  # of the space found to the space of the r largest, where they stand apart from the rest
EXTRA = 8  # directions beyond r in each block: the gap to them is what convergence lives on


def svd(W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All of it: U (d_out, k), S (k,) descending, Vh (k, d_in), k = min(d_out, d_in), in float32 at least.

    Raises:
        ValueError: W holds values that are not finite.
    """
    return torch.linalg.svd(_finite(W).to(torch.promote_types(W.dtype, torch.float32)), full_matrices=False)


def top_svd(layer: nn.Module, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """The r largest: U (d_out, r), S (r,) descending, Vh (r, d_in) of the layer's weight, in float64.

    By the eigenvectors of W^T W, or W W^T where that is smaller. Squaring costs half the digits, which is why it
    is done in float64; below 1e-5 of the largest value too few are left, and the whole decomposition is made.

    Raises:
        ValueError: the weight holds values that are not finite.
    """
    W = _finite(dense_weight(layer)).double()
    tall = W if W.shape[0] >= W.shape[1] else W.T
    n = tall.shape[1]
    found = _krylov(lambda X: tall.T @ (tall @ X), n, r, W.device) if n > SMALL else None
    V, squares = found or _eigenvectors(tall.T @ tall, r)  # (n, r), (r,)
    S = squares.clamp(min=0).sqrt()
    if S[-1] <= 1e-5 * S[0]:
        U, S, Vh = torch.linalg.svd(tall, full_matrices=False)
        U, S, Vh = U[:, :r], S[:r], Vh[:r]
    else:
        U, Vh = tall @ V / S, V.T
    return (U, S, Vh) if tall is W else (Vh.T, S, U.T)


def top_eigenvectors(M: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Of a symmetric, nonnegative M (n, n) in float64 the r with the largest eigenvalues: (n, r), (r,) descending."""
    found = _krylov(lambda X: M @ X, len(M), r, M.device) if len(M) > SMALL else None
    return found or _eigenvectors(M, r)


def _finite(W: Tensor) -> Tensor:
    if not W.isfinite().all():
        raise ValueError("the weight holds values that are not finite: it has no singular value decomposition")
    return W


def _eigenvectors(M: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Of a symmetric M the r with the largest eigenvalues, as columns, and these, descending."""
    values, vectors = torch.linalg.eigh(M)
    return vectors[:, -r:].flip(1), values[-r:].flip(0)


def _krylov(times: Callable[[Tensor], Tensor], n: int, r: int, device) -> tuple[Tensor, Tensor] | None:
    """`top_eigenvectors` of the matrix that `times` multiplies by, by block Lanczos from a fixed start.

    A basis grows by one block, the matrix times the last, until the r best vectors in it have converged (Musco and
    Musco 2015, arXiv 1504.05477; all blocks are kept orthogonal). None where that takes more than half of the
    space: the r-th value and the next are then too close, or r too large, for it to be worth while.
    """
    k = r + EXTRA
    draw = torch.Generator().manual_seed(0)  # not the caller's: a start from an SVD uses up no random numbers
    block = torch.randn(n, k, generator=draw, dtype=torch.float64).to(device)
    basis = block = torch.linalg.qr(block)[0]
    M, look = block.new_zeros(0, 0), 3  # the matrix in this basis; the step at which to look next, for looking costs
    for step in range(1, 1 + n // (2 * k)):
        image = times(block)  # (n, k)
        column = basis.T @ image
        image = image - basis @ column
        grown = M.new_zeros(len(column), len(column))
        grown[: len(M), : len(M)] = M
        grown[:, -k:], grown[-k:, :] = column, column.T
        M = grown
        block, rest = torch.linalg.qr(image)
        # Twice: what rounding left along the basis has been scaled up with a small image.
        block, second = torch.linalg.qr(block - basis @ (basis.T @ block))
        rest = second @ rest
        if step == look:
            look += 1 + step // 5
            vectors, values = _eigenvectors((M + M.T) / 2, r + 1)
            residual = (rest @ vectors[-k:, :r]).norm()
            if residual < ANGLE * (values[r - 1] - values[r]):
                return basis @ vectors[:, :r], values[:r]
        basis = torch.cat([basis, block], dim=1)
    return None
