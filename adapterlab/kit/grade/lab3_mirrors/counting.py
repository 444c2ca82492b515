"""What a function of an input and trained numbers costs, counted and not timed."""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ....bench.costs import saved

aten = torch.ops.aten


def _elements(*shapes, out_shape=None, **_) -> int:
    return 2 * prod(out_shape)


def _vector(matrix, vector, *_, **__) -> int:
    return 2 * prod(matrix)


# PyTorch's counter knows products of matrices. A mirror is a product with a vector, and one with the outer product.
VECTORS = {aten.mv: _vector, aten.dot: _vector, aten.mul: _elements}


def multiply_adds(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, U: Tensor) -> int:
    """Of a training step, forward and backward, with gradients for x and U: products of matrices, with vectors, and
    element by element."""
    x, U = (t.detach().clone().requires_grad_() for t in (x, U))
    with FlopCounterMode(display=False, custom_mapping=VECTORS) as counter:
        y = function(x, U)
        if y.requires_grad:
            torch.autograd.grad(y, (x, U), torch.ones_like(y), allow_unused=True)
    return counter.get_total_flops() // 2


def bytes_kept(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, U: Tensor) -> int:
    """What function(x, U) keeps for its backward pass beside U: x too, where it is kept."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.U = nn.Parameter(U.detach().clone())

        def forward(self, x):
            return function(x, self.U)

    tensors = saved(Layer(), x.detach().clone().requires_grad_())
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
