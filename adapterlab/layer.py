"""One adapted layer: the child module that holds its adapter, and the hook that calls it.

An adapted layer keeps its class, its weight and its place. It gains one child module, `layer.adapter`,
that holds the adapter's tensors and is called by a hook. The hooks are module-level functions that find
everything through the layer they are given, so that deepcopy and pickle copy them right.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .offload import at_hand, is_absent, lent, refuse_gradients
from .ops import arithmetic_dtype
from .sharding import gathered
from .variant import ParamSpec, Variant
from .weights import dense_weight


class LayerAdapter(nn.Module):
    """`layer.adapter`: one layer's adapter tensors, under their paper names, and how they are applied.

    Attributes:
        variant: this layer's hyperparameters, its own rank among them.
        scale: of this layer.
        enabled: False inside `disabled()`. An attribute here, because torch.compile guards it.
        prepared: inside `frozen()`, what `variant.prepare` gave on entry.
        path: of the layer in the model that `attach` was given.
        pass_id, order: the `attach` call it belongs to, and that call's place among them.
        repacking: paths of all 4-bit layers whose repacking the first attach stopped.
        was_trainable: names of all parameters that required a gradient before the first attach.
    """

    def __init__(self, variant: Variant, path: str, tensors: dict[str, Tensor], buffers: set[str], scale: float):
        super().__init__()
        self.variant, self.path, self.scale = variant, path, scale
        self.enabled = True
        self.prepared: tuple | None = None
        self.handle: RemovableHandle | None = None
        self.pass_id, self.order, self.was_trainable = "", 0, frozenset()
        self.repacking: frozenset[str] = frozenset()
        self.derived: tuple[str, ...] = ()
        if variant.steerable:  # a tensor, so that a change neither recompiles nor is baked in; float64 holds any float
            self.register_buffer("coefficient", torch.ones((), dtype=torch.float64), persistent=False)
        for name, tensor in tensors.items():
            if name in buffers:
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, of: "_Of", x: Tensor, y: Tensor | None = None) -> Tensor:
        layer = of.layer
        if torch.is_autocast_enabled(x.device.type):
            with full_precision(x.device):
                return self._apply_variant(layer, x, y)
        return self._apply_variant(layer, x, y)

    def _apply_variant(self, layer: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
        if x.is_nested:  # as nn.TransformerEncoder hands on a padded batch in eval mode
            return _nested_as(x, self._apply_variant(layer, _rows(x), None if y is None else _rows(y)))
        if self.prepared is not None:
            if torch.is_grad_enabled():
                raise RuntimeError(
                    "a forward pass with gradients inside adapter.frozen() would train on parameters computed "
                    "before it: leave frozen(), or wrap the call in torch.no_grad()"
                )
            return self.variant.forward(self.prepared, x, y)
        if any(self._buffers[name] is None for name in self.derived) and not torch.compiler.is_compiling():
            self.derive(layer)
        return self.variant.forward(self.variant.prepare(self, layer), x, y)

    def derive(self, layer: nn.Module) -> None:
        """Compute what follows from the base weight, as plain tensors even inside inference_mode."""
        with torch.inference_mode(False), torch.no_grad(), full_precision(layer.weight.device):
            found = self.variant.derive(self, layer)
        self.derived = tuple(found)  # of the buffers that are not saved, those to be computed again
        for name, tensor in found.items():
            self.register_buffer(name, tensor, persistent=False)

    def _forget_derived(self) -> None:
        for name in self.derived:
            self._buffers[name] = None
            self._non_persistent_buffers_set.discard(name)  # accelerate's offload_buffers takes each for a tensor

    def _apply(self, fn, recurse=True):  # what .to(), .half(), .cuda() ... call
        before = {name: self._buffers[name] for name in self.derived}
        super()._apply(fn, recurse)
        # A cast may round the base weight (and has rounded this buffer): compute it again at the next forward.
        if any(old is not None and self._buffers[name].dtype != old.dtype for name, old in before.items()):
            self._forget_derived()
        return self

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self._forget_derived()  # the base weight may have been loaded too

    def tensors(self) -> dict[str, Tensor]:
        """What is saved: trained parameters and frozen buffers, by name."""
        unsaved = {*self._non_persistent_buffers_set, *self.derived}
        return {**self._parameters, **{n: b for n, b in self._buffers.items() if n not in unsaved}}

    def extra_repr(self) -> str:
        return f"{self.variant}, scale={self.scale:g}"


def full_precision(device: torch.device) -> torch.autocast:
    """Outside autocast, which would take the adapter's products to bf16 or fp16."""
    return torch.autocast(device.type, enabled=False)


def _rows(nested: Tensor) -> Tensor:
    """All rows of a nested tensor, one below the other."""
    return nested.values() if nested.layout == torch.jagged else torch.cat(nested.unbind())


def _nested_as(nested: Tensor, rows: Tensor) -> Tensor:
    if nested.layout == torch.jagged:
        return torch.nested.nested_tensor_from_jagged(rows, nested.offsets())
    return torch.nested.as_nested_tensor(list(rows.split([len(part) for part in nested.unbind()])))


class _Of:
    """The layer, as an argument of its adapter: accelerate moves every argument that has a `.to`."""

    def __init__(self, layer: nn.Module):
        self.layer = layer


class _OfOffloaded:
    """The same for an adapter that is offloaded itself: it asks for the layer when it has been lent its own tensors."""

    def __init__(self, layer: nn.Module):
        self._layer = layer

    @property
    def layer(self) -> nn.Module:
        refuse_gradients(self._layer.adapter)
        return self._layer


def _call(layer: nn.Module, *tensors: Tensor) -> Tensor:
    if not layer.weight.is_meta:
        return layer.adapter(_Of(layer), *tensors)
    of = _OfOffloaded(layer) if is_absent(layer.adapter) else _Of(layer)
    with lent(layer):  # accelerate lends the weights for the layer's own forward alone, and moves its inputs then
        moved = (tensor.to(layer.weight.device) for tensor in tensors)
        return layer.adapter(of, *moved).to(tensors[-1].device)


def _run_on_output(layer: nn.Module, args: tuple, kwargs: dict, y: Tensor) -> Tensor | None:
    return _call(layer, args[0] if args else kwargs["input"], y) if layer.adapter.enabled else None


def _run_on_input(layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    if not layer.adapter.enabled:
        return None
    if args:
        return (_call(layer, args[0]), *args[1:]), kwargs
    return args, {**kwargs, "input": _call(layer, kwargs["input"])}


# ---- putting it on, taking it off -----------------------------------------------------------------


def specs_of(variant: Variant, path: str, layer: nn.Module) -> dict[str, ParamSpec]:
    try:
        return variant.specs(layer.in_features, layer.out_features)
    except ValueError as error:
        raise ValueError(f"{variant.name} does not fit layer {path!r}: {error}") from None


def buffers_of(specs: dict[str, ParamSpec]) -> set[str]:
    return {name for name, spec in specs.items() if spec.as_buffer}


def hook(layer: nn.Module, adapter: LayerAdapter) -> None:
    adapter.train(layer.training)
    layer.adapter = adapter
    if adapter.variant.side == "output":
        adapter.handle = layer.register_forward_hook(_run_on_output, with_kwargs=True)
    else:
        adapter.handle = layer.register_forward_pre_hook(_run_on_input, with_kwargs=True)


def unhook(layer: nn.Module) -> None:
    adapter = layer._modules.pop("adapter", None)  # None, or without a hook: an interrupt while it was put on
    if adapter is not None and adapter.handle is not None:
        adapter.handle.remove()


def adapted_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of `model` that have an adapter of ours, in model order."""
    return [module for module in model.modules() if isinstance(getattr(module, "adapter", None), LayerAdapter)]


def full_name(path: str, name: str) -> str:
    return f"{path}.adapter.{name}" if path else f"adapter.{name}"


def effective_weight(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The dense (W', b') that an adapted layer stands for, by the variant's equation.

    Returns:
        W' (d_out, d_in) and b' (d_out,) or None, in float32 or float64, differentiable in the adapter's
        parameters. The switch of `disabled()` is not looked at.

    Raises:
        ValueError: the layer has no adapter, or no values (on the meta device).
    """
    adapter = getattr(layer, "adapter", None)
    if not isinstance(adapter, LayerAdapter):
        raise ValueError(f"this {type(layer).__name__} has no adapter: pass a layer named in adapter.targets")
    with at_hand(layer, adapter.path), gathered(layer):
        W, b, tensors = dense_weight(layer), layer.bias, adapter.tensors()
    dtype = arithmetic_dtype(W.dtype, *(t.dtype for t in tensors.values()))
    p = SimpleNamespace(scale=adapter.scale, **{name: t.to(dtype) for name, t in tensors.items()})
    if adapter.variant.steerable:
        p.coefficient = adapter.coefficient
    with full_precision(W.device):
        return adapter.variant.effective_weight(p, W.to(dtype), None if b is None else b.detach().to(dtype))
