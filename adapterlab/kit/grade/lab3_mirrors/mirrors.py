"""HRA's rotation written out, and the turns that a test of it is tried on."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..evidence import draw

Turn = Callable[[Tensor, Tensor], Tensor]  # (x (n, d), U (r, d)) -> (n, d)


def rotation(U: Tensor, swapped: bool = False, fixed_length: bool = False) -> Tensor:
    """R = H_0 H_1 ... H_(r-1) as a (d, d) matrix.

    Args:
        swapped: H_(r-1) ... H_0 instead, which is the transpose.
        fixed_length: the lengths of the rows get no gradient.
    """
    R = torch.eye(U.shape[1], dtype=U.dtype)
    for u in U.flip(0) if swapped else U:
        square = u @ u
        R = R - 2 * torch.outer(R @ u, u) / (square.detach() if fixed_length else square)
    return R


def inverse_triangle(U: Tensor) -> Tensor:
    """T (r, r) with rotation(U) = I - U^T T U."""
    gram = U @ U.t()
    return torch.linalg.inv(gram.triu(1) + gram.diagonal().diag() / 2)


def rows(
    r: int = 5, d: int = 24, pairs: bool = False, unit: bool = False, dtype: torch.dtype = torch.float64
) -> Tensor:
    """U (r, d): far from the start, or in equal pairs as HRA starts; of several lengths, or all of length 1."""
    U = draw(31, r, d) * torch.linspace(0.2, 1.4, r, dtype=torch.float64)[:, None]
    if pairs:
        U = U[: (r + 1) // 2].repeat_interleave(2, dim=0)
    return (U / U.norm(dim=1, keepdim=True) if unit else U).to(dtype)


def inputs(n: int = 10, d: int = 24, dtype: torch.dtype = torch.float64) -> Tensor:
    return draw(32, n, d, dtype=dtype)


# ---- turns that are right, and turns that are not -------------------------------------------------


def through_the_matrix(x: Tensor, U: Tensor) -> Tensor:
    return x @ rotation(U).t()


def in_turn(x: Tensor, U: Tensor) -> Tensor:
    for u in U.flip(0):
        x = x - 2 * torch.outer(x @ u, u) / (u @ u)
    return x


def compact(x: Tensor, U: Tensor) -> Tensor:
    return x - (x @ U.t()) @ inverse_triangle(U).t() @ U


def other_order(x: Tensor, U: Tensor) -> Tensor:
    return x @ rotation(U)


def nothing(x: Tensor, U: Tensor) -> Tensor:
    return x.clone()


def by_length(x: Tensor, U: Tensor) -> Tensor:
    for u in U.flip(0):
        x = x - 2 * torch.outer(x @ u, u) / u.norm()
    return x


def one_short(x: Tensor, U: Tensor) -> Tensor:
    return in_turn(x, U[1:])


RIGHT: dict[str, Turn] = {
    "goes mirror by mirror": in_turn,
    "multiplies by the matrix R": through_the_matrix,
    "takes two thin products": compact,
}
WRONG: dict[str, Turn] = {
    "does nothing at all": nothing,
    "takes the mirrors in the other order": other_order,
    "divides by the length of u and not by its square": by_length,
    "leaves one mirror out": one_short,
}
