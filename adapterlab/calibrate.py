"""Streams the inputs of layers, batch by batch: what data-driven starts see."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def layer_inputs(model: nn.Module, layers: dict[str, nn.Module], data: Iterable[Any]) -> Iterator[dict[str, Tensor]]:
    """Run the model on each batch and yield path -> inputs (tokens, d_in) of the given layers.

    Memory does not grow with the number of batches. The model runs in eval mode without gradients; its
    mode and the random state are as they were once the iterator ends or is dropped.

    Args:
        data: batches, each a dict of keyword arguments, a tuple or list of arguments, or a tensor.

    Raises:
        ValueError: there is no batch at all.
    """
    seen: dict[str, Tensor] = {}
    modes = {module: module.training for module in model.modules()}

    def keep(path):
        def hook(_, args, kwargs):
            x = args[0] if args else kwargs["input"]
            seen[path] = x.detach().reshape(-1, x.shape[-1])

        return hook

    handles = [layer.register_forward_pre_hook(keep(path), with_kwargs=True) for path, layer in layers.items()]
    empty = True
    try:
        model.eval()
        for batch in data:
            empty = False
            seen.clear()
            with torch.random.fork_rng(), torch.no_grad():
                _call(model, batch)
            yield dict(seen)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    if empty:
        raise ValueError("calibration_data holds no batch: pass an iterable of dicts, tuples or tensors")


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, dict):
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    else:
        model(batch)
