"""Models that are spread over several processes: what FSDP2 has sharded is made whole, what cannot work is refused."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered, for which every rank must call this; any other as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def sharded_as(own: Tensor, value: Tensor) -> Tensor:
    """A whole value, sharded as `own` is."""
    if not is_sharded(own):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device, own.dtype), own.device_mesh, own.placements)


@contextmanager
def gathered(layer: nn.Module) -> Iterator[None]:
    """Inside, an adapted layer's tensors are whole, to be read; every rank must enter it."""
    owners = (layer, layer.adapter)
    held = [(m, name, p) for m in owners for name, p in m._parameters.items() if p is not None and is_sharded(p)]
    try:
        for module, name, parameter in held:
            module._parameters[name] = whole(parameter)
        yield
    finally:
        for module, name, parameter in held:
            module._parameters[name] = parameter


def reshard(model: nn.Module) -> bool:
    """Free what FSDP2 may have left gathered after a forward pass, so that what is set is set on the shards.

    Returns:
        Whether FSDP2 has sharded any part of the model.
    """
    parts = [module for module in model.modules() if _is(module, "FSDPModule")]
    for module in parts:
        module.reshard()
    return bool(parts) or any(is_sharded(parameter) for parameter in model.parameters())


def refuse_spread(model: nn.Module) -> None:
    """An adapter that comes after the wrapper is unknown to it: each process would train another one, and say nothing.

    Raises:
        ValueError: the model, or a part of it, is wrapped in DDP or FSDP, or sharded.
    """
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise ValueError(
                "the model is in DistributedDataParallel already, which would not average the gradients of an adapter "
                "that comes later: attach or load first, then wrap"
            )
        if _is(module, "FSDPModule", "FullyShardedDataParallel"):
            raise ValueError("the model is sharded by FSDP already: attach or load first, then call fully_shard")
    if any(is_sharded(parameter) for parameter in model.parameters()):
        raise ValueError(
            "the model's weights are sharded already (DTensor): attach or load first, then call fully_shard"
        )


def _is(module: nn.Module, *classes: str) -> bool:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # not imported: nothing was ever sharded
    return fsdp is not None and isinstance(module, tuple(getattr(fsdp, name) for name in classes))
