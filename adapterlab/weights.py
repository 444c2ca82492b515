"""How a layer stores its weight: the only file that knows."""

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

ROWS = 512  # per chunk when a low-precision weight is read in float32: bounds the temporary


def is_linear_like(module: nn.Module) -> bool:
    """By structure (in_features, out_features, weight), so that quantised layers count.

    MultiheadAttention's out_proj is left out: its weight is used without calling it, so a hook on it
    would silently never run.
    """
    has_shape = isinstance(getattr(module, "in_features", None), int) and isinstance(
        getattr(module, "out_features", None), int
    )
    weight = getattr(module, "weight", None)
    return has_shape and isinstance(weight, Tensor) and not isinstance(module, NonDynamicallyQuantizableLinear)


def dense_weight(layer: nn.Module) -> Tensor:
    """The layer's weight as a dense (d_out, d_in) tensor, detached; never write to it.

    Raises:
        TypeError: the layer stores its weight in a way that is not known here.
    """
    weight = layer.weight
    if tuple(weight.shape) != (layer.out_features, layer.in_features) or not weight.is_floating_point():
        raise TypeError(
            f"{type(layer).__name__} stores a weight of shape {tuple(weight.shape)} and {weight.dtype} for "
            f"{layer.in_features} -> {layer.out_features} features: only dense floating-point weights are supported"
        )
    return weight.detach()


def row_squares(W: Tensor, dtype: torch.dtype) -> Tensor:
    """(d_out,): the squared norm of each row, summed in `dtype`."""
    return torch.cat([rows.to(dtype).square().sum(1) for rows in W.split(ROWS)])


def column_squares(W: Tensor, dtype: torch.dtype) -> Tensor:
    """(d_in,): the squared norm of each column, summed in `dtype`."""
    return torch.stack([rows.to(dtype).square().sum(0) for rows in W.split(ROWS)]).sum(0)


def svd(W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (d_out, k), S (k,) descending, Vh (k, d_in) of W, k = min(d_out, d_in), in float32 at least.

    Raises:
        ValueError: W holds values that are not finite.
    """
    if not W.isfinite().all():
        raise ValueError("the weight holds values that are not finite: it has no singular value decomposition")
    return torch.linalg.svd(W.to(torch.promote_types(W.dtype, torch.float32)), full_matrices=False)


def top_svd(layer: nn.Module, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """The r largest: U (d_out, r), S (r,), Vh (r, d_in) of the layer's weight."""
    U, S, Vh = svd(dense_weight(layer))
    return U[:, :r], S[:r], Vh[:r]


def times(W: Tensor, M: Tensor) -> Tensor:
    """W M in M's dtype, without a full copy of a W of another dtype. W (d_out, d_in), M (d_in, k)."""
    if W.dtype == M.dtype:
        return W @ M
    return torch.cat([rows.to(M.dtype) @ M for rows in W.split(ROWS)])
