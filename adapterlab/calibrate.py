"""Streams the inputs of layers, batch by batch, and sums them up: what data-driven starts see."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .singular import top_eigenvectors


def layer_inputs(model: nn.Module, layers: dict[str, nn.Module], data: Iterable[Any]) -> Iterator[dict[str, Tensor]]:
    """Run the model on each batch and yield path -> inputs (tokens, d_in) of the given layers.

    Memory does not grow with the number of batches. The model runs in eval mode without gradients; its
    mode and the random state are as they were once the iterator ends or is dropped. Layers that are called with
    one and the same tensor share one copy of it; one that is called several times gets all its inputs. Tokens that
    a batch's `attention_mask` masks are left out.

    Args:
        data: batches, each a dict of keyword arguments, a tuple or list of arguments, or a tensor.

    Raises:
        TypeError: `data` is one batch instead of an iterable of batches.
        ValueError: there is no batch at all, or a layer's input is not finite.
    """
    if isinstance(data, (Mapping, str)):
        raise TypeError(f"calibration_data is one {type(data).__name__}: pass a list of batches, such as [batch]")
    seen: dict[str, Tensor] = {}
    copies: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # the input itself too: its id stays taken
    mask: list[Tensor | None] = [None]
    modes = {module: module.training for module in model.modules()}

    def keep(path):
        def hook(_, args, kwargs):
            x = args[0] if args else kwargs["input"]
            # The version tells a tensor from itself after a write in place; inference tensors have none.
            key = (id(x), -len(copies) - 1 if x.is_inference() else x._version)
            if key not in copies:
                copies[key] = x, _tokens(x, mask[0])  # a copy, for what comes after may write to x
            x = copies[key][1]
            seen[path] = torch.cat([seen[path], x]) if path in seen else x

        return hook

    handles = [layer.register_forward_pre_hook(keep(path), with_kwargs=True) for path, layer in layers.items()]
    number = 0
    try:
        model.eval()
        for number, batch in enumerate(data, start=1):
            seen.clear()
            mask[0] = batch.get("attention_mask") if isinstance(batch, Mapping) else None
            with torch.random.fork_rng(), torch.no_grad(), _uncompiled():
                _call(model, batch)
            copies.clear()
            _refuse_not_finite(seen, number)
            yield dict(seen)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    if not number:
        first, *_ = layers
        raise ValueError(
            f"calibration_data holds no batch, so {first!r} sees no token: pass an iterable of dicts, tuples or tensors"
        )


def _uncompiled():
    """torch.compile does not guard hooks: code compiled before would run without ours."""
    # Not imported: nothing was ever compiled.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):  # tokenizers give a mapping that is no dict
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    else:
        model(batch)


def _tokens(x: Tensor, mask: Tensor | None) -> Tensor:
    """(..., d_in) -> (tokens, d_in), without those that are masked."""
    x = x.detach()
    if isinstance(mask, Tensor) and mask.shape == x.shape[:-1]:
        return x[mask.to(x.device) != 0]
    return x.reshape(-1, x.shape[-1]).clone()


def _refuse_not_finite(seen: dict[str, Tensor], number: int) -> None:
    checked = {id(x): x.isfinite().all() for x in seen.values()}
    for path, x in seen.items():
        if not checked[id(x)]:
            raise ValueError(
                f"the input of {path!r} holds values that are not finite in calibration batch {number}: "
                "look at that batch, or run the base model in a wider dtype"
            )


# ---- sums over all batches ------------------------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """Of a layer's inputs, summed in float64.

    Attributes:
        tokens: how many inputs.
        total: (d_in,), their sum. None before the first.
        gram: (d_in, d_in), the sum of x x^T.
    """

    tokens: int = 0
    total: Tensor | None = None
    gram: Tensor | None = None

    def plus(self, x: Tensor) -> "Moments":
        """With x (n, d_in)."""
        x = x.double()
        total, gram = x.sum(0), x.t() @ x
        if self.tokens:
            total, gram = total + self.total, gram + self.gram
        return Moments(self.tokens + len(x), total, gram)

    def require(self, needed: int, path: str) -> None:
        if self.tokens < needed:
            raise ValueError(
                f"{path!r} sees {self.tokens} tokens in the calibration data and needs {needed} at least: "
                "pass more or longer batches"
            )

    def directions(self, center: bool, k: int) -> tuple[Tensor, Tensor]:
        """The inputs' k largest right singular vectors (k, d_in), one a row, and the share of the sum of squares that
        each explains (k,). With `center`, those of the inputs less their mean."""
        gram = self.gram
        if center:
            gram = gram - torch.outer(self.total, self.total) / self.tokens
        vectors, squares = top_eigenvectors(gram, k)
        # What the sums' rounding left explains nothing: inputs that are all alike have no variance.
        rounding = max(self.tokens, len(gram)) * torch.finfo(gram.dtype).eps * self.gram.trace()
        squares = torch.where(squares > rounding, squares, 0)
        whole = gram.trace().clamp(min=rounding).clamp(min=torch.finfo(gram.dtype).tiny)  # inputs may all be zero
        return vectors.t(), squares / whole


def second_moments(paths: Iterable[str], batches: Iterable[Mapping[str, Tensor]]) -> dict[str, Moments]:
    """path -> Moments. Layers that got the same tensors in all batches get the same object."""
    found = dict.fromkeys(paths, Moments())
    for seen in batches:
        sums: dict[tuple[int, int], Moments] = {}
        for path, x in seen.items():
            key = (id(x), id(found[path]))  # the same inputs now, and so far
            if key not in sums:
                sums[key] = found[path].plus(x)
            found[path] = sums[key]
    return found


def mean_absolute(directions: Mapping[str, Tensor], batches: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """path -> mean over all tokens of |v x| for each row v of directions[path] (k, d_in): (k,).

    Raises:
        ValueError: a layer sees no token.
    """
    total, tokens = dict.fromkeys(directions, 0.0), dict.fromkeys(directions, 0)
    for seen in batches:
        for path, x in seen.items():
            V = directions[path]
            total[path] = total[path] + (x.to(V.dtype) @ V.t()).abs().sum(0)
            tokens[path] += len(x)
    for path, number in tokens.items():
        Moments(number).require(1, path)
    return {path: total[path] / tokens[path] for path in directions}
