"""attach, detach, merge and the Adapter they hand out: the only file that changes a module.

An adapted layer keeps its class, its weight and its place. It gains one child module, `layer.adapter`,
that holds the adapter's tensors and is called by a hook. The hooks are module-level functions that find
everything through the layer they are given, so that deepcopy and pickle copy them right.
"""

import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from . import calibrate
from .ops import arithmetic_dtype
from .targets import Patterns, clean, select
from .variant import ParamSpec, Variant
from .weights import dense_weight

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class LayerAdapter(nn.Module):
    """`layer.adapter`: one layer's adapter tensors, under their paper names, and how they are applied.

    Attributes:
        variant: the hyperparameters it was attached with; the tensors' shapes say the layer's rank.
        scale: of this layer.
        enabled: False inside `disabled()`. An attribute here, because torch.compile guards it.
        prepared: inside `frozen()`, what `variant.prepare` gave on entry.
        path: of the layer in the model that `attach` was given.
        pass_id, order: the `attach` call it belongs to, and that call's place among them.
        was_trainable: names of all parameters that required a gradient before the first attach.
    """

    def __init__(self, variant: Variant, path: str, tensors: dict[str, Tensor], buffers: set[str], scale: float):
        super().__init__()
        self.variant, self.path, self.scale = variant, path, scale
        self.enabled = True
        self.prepared: tuple | None = None
        self.handle: RemovableHandle | None = None
        self.pass_id, self.order, self.was_trainable = "", 0, frozenset()
        self.derived: tuple[str, ...] = ()
        for name, tensor in tensors.items():
            if name in buffers:
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, layer: nn.Module, x: Tensor, y: Tensor | None = None) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            with _full_precision(x.device):
                return self._apply_variant(layer, x, y)
        return self._apply_variant(layer, x, y)

    def _apply_variant(self, layer: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
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
        with torch.inference_mode(False), torch.no_grad(), _full_precision(layer.weight.device):
            found = self.variant.derive(self, layer)
        self.derived = tuple(found)
        for name, tensor in found.items():
            self.register_buffer(name, tensor, persistent=False)

    def _forget_derived(self) -> None:
        for name in self.derived:
            self._buffers[name] = None

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
        return {**self._parameters, **{n: b for n, b in self._buffers.items() if n not in self.derived}}

    def extra_repr(self) -> str:
        return f"{self.variant}, scale={self.scale:g}"


def _full_precision(device: torch.device) -> torch.autocast:
    """Outside autocast, which would take the adapter's products to bf16 or fp16."""
    return torch.autocast(device.type, enabled=False)


def _run_on_output(layer: nn.Module, args: tuple, kwargs: dict, y: Tensor) -> Tensor | None:
    adapter = layer.adapter
    return adapter(layer, args[0] if args else kwargs["input"], y) if adapter.enabled else None


def _run_on_input(layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    adapter = layer.adapter
    if not adapter.enabled:
        return None
    if args:
        return (adapter(layer, args[0]), *args[1:]), kwargs
    return args, {**kwargs, "input": adapter(layer, kwargs["input"])}


# ---- attach ---------------------------------------------------------------------------------------


def attach(
    model: nn.Module,
    variant: Variant,
    *,
    targets: Patterns | None = None,
    exclude: Patterns = ("lm_head", "embed"),
    layers: Iterable[int] | None = None,
    calibration_data: Iterable[Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> "Adapter":
    """Put `variant` on layers of `model`, freeze every other parameter, and return a handle.

    Nothing has changed if it raises. A second attach, on other layers, is allowed.

    Args:
        model: any module, a bare nn.Linear among them.
        targets: one regular expression or several, searched in the module path ("model.layers.0.mlp.up_proj");
            None means every linear-like layer that `exclude` does not name.
        exclude: patterns that apply only where `targets` is None.
        layers: block indices, matched against the first integer in the module path; None means all.
        calibration_data: batches (dict of kwargs, tuple of args, or a tensor) for variants that start from data.
        dtype: of the adapter's tensors: float16, bfloat16, float32 or float64. All adapter arithmetic is in
            float32 at least. DoRA's lora_m is never stored below float32.

    Raises:
        ValueError: no layer matches, a layer is adapted already, the variant does not fit a layer, calibration
            data is missing or not taken, or `dtype` is none of the four.
        TypeError: `variant` is no variant, or a layer stores its weight in an unknown way.
    """
    if not isinstance(variant, Variant):
        raise TypeError(f"{variant!r} is no variant: pass an instance, such as LoRA(r=8)")
    if dtype not in DTYPES:
        raise ValueError(f"dtype = {dtype}: adapters are stored in {', '.join(str(d) for d in DTYPES)}")
    if variant.data == "required" and calibration_data is None:
        raise ValueError(f"{variant.name} starts from data: pass calibration_data, an iterable of batches")
    if variant.data == "none" and calibration_data is not None:
        raise ValueError(f"{variant.name} takes no calibration data: leave calibration_data out")
    _refuse_other_root(model)
    chosen = select(model, targets, exclude, layers)
    taken = [path for path, layer in chosen.items() if hasattr(layer, "adapter")]
    if taken:
        raise ValueError(
            f"{taken[0]!r} (and {len(taken) - 1} more) has an adapter already: detach it, or choose other targets"
        )

    adapters = {}
    for path, layer in chosen.items():
        dense_weight(layer)  # refuses what cannot be read, before any tensor is made
        specs = _specs(variant, path, layer)
        tensors = {name: spec.make_tensor(dtype, layer.weight.device) for name, spec in specs.items()}
        adapters[path] = LayerAdapter(variant, path, tensors, _buffers(specs), variant.layer_scale())
        with torch.no_grad(), _full_precision(layer.weight.device):
            adapters[path].derive(layer)
            variant.init(adapters[path], layer)
    if calibration_data is not None:
        # Closed here: after an error the traceback would keep the stream, and with it its hooks on the model.
        with closing(calibrate.layer_inputs(model, chosen, calibration_data)) as batches:
            variant.group_init(adapters, batches)
    return _install(model, [adapters])


def _specs(variant: Variant, path: str, layer: nn.Module) -> dict[str, ParamSpec]:
    try:
        return variant.specs(layer.in_features, layer.out_features)
    except ValueError as error:
        raise ValueError(f"{variant.name} does not fit layer {path!r}: {error}") from None


def _buffers(specs: dict[str, ParamSpec]) -> set[str]:
    return {name for name, spec in specs.items() if spec.as_buffer}


def _install(model: nn.Module, passes: list[dict[str, LayerAdapter]]) -> "Adapter":
    """Put finished adapters on their layers and freeze the rest; on failure take all of it back."""
    present = adapted_layers(model)
    if present:
        was_trainable, order = present[0].adapter.was_trainable, 1 + max(layer.adapter.order for layer in present)
    else:
        was_trainable, order = frozenset(_trainable(model)), 0
    layers = {clean(path): module for path, module in model.named_modules()}
    installed, ids = [], []
    try:
        for adapters in passes:
            ids.append(uuid.uuid4().hex)
            for path, adapter in adapters.items():
                adapter.pass_id, adapter.order, adapter.was_trainable = ids[-1], order, was_trainable
                installed.append(layers[path])
                _hook(layers[path], adapter)
            order += 1
    except BaseException:
        for layer in installed:
            _unhook(layer)
        raise
    ours = {id(p) for layer in adapted_layers(model) for p in layer.adapter.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in ours:
            parameter.requires_grad_(False)
    _forget_compiled()
    return Adapter(model, ids)


def _hook(layer: nn.Module, adapter: LayerAdapter) -> None:
    adapter.train(layer.training)
    layer.adapter = adapter
    if adapter.variant.side == "output":
        adapter.handle = layer.register_forward_hook(_run_on_output, with_kwargs=True)
    else:
        adapter.handle = layer.register_forward_pre_hook(_run_on_input, with_kwargs=True)


def _unhook(layer: nn.Module) -> None:
    adapter = layer._modules.pop("adapter", None)  # None, or without a hook: an interrupt while it was put on
    if adapter is not None and adapter.handle is not None:
        adapter.handle.remove()


def _trainable(model: nn.Module) -> list[str]:
    return [clean(name) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _forget_compiled() -> None:
    """torch.compile does not guard hooks: compiled code would go on without, or with, the adapter."""
    if "torch._dynamo" in sys.modules:  # not imported: nothing was ever compiled
        torch.compiler.reset()


def adapted_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of `model` that have an adapter of ours, in model order."""
    return [module for module in model.modules() if isinstance(getattr(module, "adapter", None), LayerAdapter)]


# ---- the handle -----------------------------------------------------------------------------------


class Adapter:
    """What one `attach` (or one `load`) put on a model. As a context manager it detaches on exit.

    Attributes:
        targets: module paths of the adapted layers, in model order, without wrappers' prefixes.
    """

    def __init__(self, model: nn.Module, pass_ids: list[str]):
        self._model, self._pass_ids = model, set(pass_ids)
        self.targets = tuple(layer.adapter.path for layer in self._layers())

    def _layers(self) -> list[nn.Module]:
        return [layer for layer in adapted_layers(self._model) if layer.adapter.pass_id in self._pass_ids]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(full path, parameter) of everything that is trained here."""
        for layer in self._layers():
            for name, parameter in layer.adapter.named_parameters():
                if parameter.requires_grad:
                    yield _full_name(layer.adapter.path, name), parameter

    def parameters(self) -> Iterator[nn.Parameter]:
        """What to give the optimiser."""
        return (parameter for _, parameter in self.named_parameters())

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def coefficient(self) -> float:
        """Of variants that can be steered; the others raise AttributeError."""
        raise AttributeError(self._no_coefficient())

    @coefficient.setter
    def coefficient(self, value: float) -> None:
        raise AttributeError(self._no_coefficient())

    def _no_coefficient(self) -> str:
        names = " + ".join(dict.fromkeys(layer.adapter.variant.name for layer in self._layers())) or "detached adapter"
        return f"there is no coefficient to read or set: this is {names}, which cannot be steered"

    @contextmanager
    def disabled(self):
        """Inside, these layers are the base layers again, bit for bit."""
        switches = [(layer.adapter, layer.adapter.enabled) for layer in self._layers()]
        try:
            for adapter, _ in switches:
                adapter.enabled = False
            yield self
        finally:
            for adapter, enabled in switches:
                adapter.enabled = enabled

    @contextmanager
    def frozen(self):
        """Inside, what depends on the parameters alone is computed once: for generation.

        Edits to the parameters are not seen before exit. A forward pass with gradients is refused.
        """
        before = [(layer.adapter, layer.adapter.prepared) for layer in self._layers()]
        try:
            with torch.no_grad():
                for layer in self._layers():
                    with _full_precision(layer.weight.device):
                        prepared = layer.adapter.variant.prepare(layer.adapter, layer)
                    # Copies: an edit of lora_A would otherwise be seen at once, and beside the old norm in DoRA.
                    layer.adapter.prepared = tuple(t.clone() if isinstance(t, Tensor) else t for t in prepared)
            yield self
        finally:
            for adapter, prepared in before:
                adapter.prepared = prepared

    def detach(self) -> None:
        """Remove what this call attached; other passes stay."""
        _remove(self._model, self._layers())

    def __enter__(self) -> "Adapter":
        return self

    def __exit__(self, *_) -> None:
        self.detach()

    def __repr__(self) -> str:
        variants = " + ".join(dict.fromkeys(repr(layer.adapter.variant) for layer in self._layers())) or "detached"
        return f"Adapter({variants}, {len(self.targets)} layers, {self.num_parameters:,} trained parameters)"


def _full_name(path: str, name: str) -> str:
    return f"{path}.adapter.{name}" if path else f"adapter.{name}"


# ---- detach, merge, effective_weight --------------------------------------------------------------


def detach(model: nn.Module) -> None:
    """Remove all adapters: the base model again, bit for bit, with its requires_grad flags restored."""
    _remove(model, adapted_layers(model))


def _remove(model: nn.Module, layers: list[nn.Module]) -> None:
    if not layers:
        return
    _refuse_other_root(model)
    was_trainable = layers[0].adapter.was_trainable
    for layer in layers:
        _unhook(layer)
    if not adapted_layers(model):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(clean(name) in was_trainable)
    _forget_compiled()


def _refuse_other_root(model: nn.Module) -> None:
    """Paths and flags were recorded from the module that attach was given; another root would mix them up."""
    for path, module in model.named_modules():
        adapter = getattr(module, "adapter", None)
        if isinstance(adapter, LayerAdapter) and adapter.path != clean(path):
            raise ValueError(
                f"the layer {clean(path)!r} was adapted as {adapter.path!r}: "
                "call this on the model that attach was given"
            )


def merge(model: nn.Module) -> None:
    """Fold all adapters into the weights and remove them: plain layers with W' and b' afterwards.

    One-way. Computed in float32 at least and rounded once to the base's dtype, into new tensors. If it
    raises, nothing has changed.

    Raises:
        ValueError: no adapter is attached, a weight to be changed is tied to another module, or a merged
            weight would not be finite in the base's dtype.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ValueError("the model has no adapter to merge")
    _refuse_other_root(model)
    _refuse_tied(model, layers)
    for layer in layers:  # all are tried before any is changed; W' is made twice rather than kept for all layers
        if not all(t is None or t.isfinite().all() for t in _merged(layer)):
            raise ValueError(f"the merged weight of {layer.adapter.path!r} is not finite in {layer.weight.dtype}")
    for layer in layers:
        weight, bias = _merged(layer)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias, requires_grad=False)
    _remove(model, layers)


@torch.no_grad()
def _merged(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    W, b = effective_weight(layer)
    return W.to(layer.weight.dtype), None if b is None else b.to(layer.bias.dtype)


def _refuse_tied(model: nn.Module, layers: list[nn.Module]) -> None:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(clean(name))
    for layer in layers:
        for parameter in (layer.weight, layer.bias):
            tied = names.get(id(parameter), [])
            if parameter is not None and len(tied) > 1:
                shared = " and ".join(map(repr, tied))
                raise ValueError(f"{shared} are one tensor: merging would change both, untie them")


def effective_weight(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The dense (W', b') that an adapted layer stands for, by the variant's equation.

    Returns:
        W' (d_out, d_in) and b' (d_out,) or None, in float32 or float64, differentiable in the adapter's
        parameters. The switch of `disabled()` is not looked at.

    Raises:
        ValueError: the layer has no adapter.
    """
    adapter = getattr(layer, "adapter", None)
    if not isinstance(adapter, LayerAdapter):
        raise ValueError(f"this {type(layer).__name__} has no adapter: pass a layer named in adapter.targets")
    W, b = dense_weight(layer), layer.bias
    dtype = arithmetic_dtype(W.dtype, *(t.dtype for t in adapter.tensors().values()))
    p = SimpleNamespace(scale=adapter.scale, **{name: t.to(dtype) for name, t in adapter.tensors().items()})
    with _full_precision(W.device):
        return adapter.variant.effective_weight(p, W.to(dtype), None if b is None else b.detach().to(dtype))
