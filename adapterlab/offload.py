"""Models that accelerate has offloaded: what it keeps elsewhere is lent to be read, what would be lost is refused.

Between calls the tensors of an offloaded module are on the meta device, where they have no values. accelerate's hook
on the module, `_hf_hook`, brings them back for that module's own forward, and takes them away when it ends. It is
known by what it does: accelerate itself is not imported.
"""

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

UNWRAP = "accelerate.hooks.remove_hook_from_submodules(model)"


def is_absent(module: nn.Module) -> bool:
    """Whether a tensor of the module's own is on the meta device."""
    own = (*module._parameters.values(), *module._buffers.values())
    return any(tensor is not None and tensor.is_meta for tensor in own)


@contextmanager
def lent(*modules: nn.Module) -> Iterator[None]:
    """Inside, what is offloaded of these modules is there. Tensors that are read stay when it ends; writing to them
    is lost, and so a gradient of them is refused."""
    with ExitStack() as back:
        for module in modules:
            hook = module.__dict__.get("_hf_hook") if is_absent(module) else None
            if hook is not None:
                hook.pre_forward(module)
                back.callback(hook.post_forward, module, None)
                refuse_gradients(module)
        yield


@contextmanager
def at_hand(layer: nn.Module, path: str) -> Iterator[None]:
    """`lent` for a layer and its adapter, if it has one.

    Raises:
        ValueError: a tensor stays on the meta device.
    """
    adapter = layer._modules.get("adapter")
    modules = (layer,) if adapter is None else (layer, adapter)
    with lent(*modules):
        if any(map(is_absent, modules)):
            raise ValueError(
                f"the weight of layer {path!r} cannot be read: it is on the meta device, where it has no values. "
                "Load the model's weights first; where accelerate offloads them, layer by layer, not in whole blocks "
                "(preload_module_classes)"
            )
        yield


def refuse_gradients(module: nn.Module) -> None:
    """A lent parameter is gone after the call, and its gradient with it: the backward pass raises instead."""
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.requires_grad:
            parameter.register_hook(functools.partial(_refuse_gradient, name))


def _refuse_gradient(name: str, gradient: Tensor) -> None:
    raise RuntimeError(
        f"the gradient of {name} would be lost, for accelerate has offloaded it: attach (or load) the adapter after "
        f"offloading, and it stays where it can be trained, or bring it back with {UNWRAP}"
    )


def refuse_offloaded(module: nn.Module, path: str, remedy: str) -> None:
    """For what would have to be written to tensors that accelerate keeps.

    Raises:
        ValueError: a tensor of the module's own is on the meta device.
    """
    if is_absent(module):
        raise ValueError(f"{path!r} is on the meta device, or offloaded there by accelerate: {remedy}")


def refuse_lent_in_blocks(model: nn.Module, adapters: list[nn.Module]) -> None:
    """A hook on a whole block (`preload_module_classes`) has the names of all that it lends, and asks for each again.

    Raises:
        ValueError: one of the adapters is offloaded so.
    """
    owned_by_blocks = [adapter for adapter in adapters if is_absent(adapter) and not hasattr(adapter, "_hf_hook")]
    if owned_by_blocks and any(hasattr(module, "_hf_hook") for module in model.modules()):
        raise ValueError(
            f"accelerate has offloaded the adapter of {owned_by_blocks[0].path!r} with the whole block around it, and "
            f"would look for it there: call {UNWRAP} first, then detach"
        )
