"""attach, detach, merge, and the Adapter they hand out: what changes a model, whole or not at all."""

import functools
import math
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import calibrate
from .layer import (
    LayerAdapter,
    adapted_layers,
    buffers_of,
    effective_weight,
    full_name,
    full_precision,
    hook,
    specs_of,
    unhook,
)
from .offload import at_hand, lent, refuse_lent_in_blocks, refuse_offloaded
from .ops import arithmetic_dtype
from .sharding import gathered, refuse_spread, reshard
from .targets import Patterns, clean, select
from .variant import Variant
from .weights import dense_weight, merged_dtype, resume_repacking, stop_repacking, storage

KEPT_WHILE_MERGING = 2**30  # bytes of merged weights that are held beside the old ones; the rest is made twice
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

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

    Nothing has changed if it raises. A second attach, on other layers, is allowed. In several processes each attaches
    before the model is wrapped, with the same seed and calibration data: DDP hands out what rank 0 has, FSDP2 does not.

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
            data is missing or not taken, `dtype` is none of the four, the model is sharded or wrapped in DDP, or a
            layer's weight has no values (on the meta device).
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
    refuse_other_root(model)
    refuse_spread(model)
    chosen = select(model, targets, exclude, layers)
    taken = [path for path, layer in chosen.items() if hasattr(layer, "adapter")]
    if taken:
        raise ValueError(
            f"{taken[0]!r} (and {len(taken) - 1} more) has an adapter already: detach it, or choose other targets"
        )

    adapters = {}
    for path, layer in chosen.items():
        with at_hand(layer, path):
            adapters[path] = _start(variant, path, layer, dtype)
    if calibration_data is not None:
        _calibrate(model, variant, chosen, adapters, calibration_data)
    return install(model, [adapters])


def _start(variant: Variant, path: str, layer: nn.Module, dtype: torch.dtype) -> LayerAdapter:
    dense_weight(layer)  # refuses what cannot be read, before any tensor is made
    specs = specs_of(variant, path, layer)
    tensors = {name: spec.make_tensor(dtype, layer.weight.device) for name, spec in specs.items()}
    adapter = LayerAdapter(variant, path, tensors, buffers_of(specs), variant.layer_scale())
    with torch.no_grad(), full_precision(layer.weight.device):
        adapter.derive(layer)
        try:
            variant.init(adapter, layer)
        except ValueError as error:
            raise ValueError(f"{variant.name} cannot start on layer {path!r}: {error}") from None
    return adapter


def _calibrate(model, variant, chosen, adapters, data) -> None:
    stopped = stop_repacking(model)  # for calibration itself runs the model in eval mode
    try:
        # Closed here: after an error the traceback would keep the stream, and with it its hooks on the model.
        with closing(calibrate.layer_inputs(model, chosen, data)) as batches:
            for path, adapter in adapters.items():
                adapter.base_weight = functools.partial(_lent_weight, chosen[path])
            variant.group_init(adapters, batches)
            for adapter in adapters.values():  # it must not keep the layer alive, nor be pickled with it
                del adapter.base_weight
    finally:
        resume_repacking(stopped.values())


def _lent_weight(layer: nn.Module) -> Tensor:
    with lent(layer):
        return dense_weight(layer)


def install(model: nn.Module, passes: list[dict[str, LayerAdapter]]) -> "Adapter":
    """Put finished adapters on their layers and freeze the rest; on failure take all of it back."""
    present = adapted_layers(model)
    if present:
        first, order = present[0].adapter, 1 + max(layer.adapter.order for layer in present)
        was_trainable, repacking = first.was_trainable, first.repacking
    else:
        was_trainable, order = frozenset(_trainable(model)), 0
        repacking = frozenset(map(clean, stop_repacking(model)))
    layers = {clean(path): module for path, module in model.named_modules()}
    installed, ids = [], []
    try:
        for adapters in passes:
            ids.append(uuid.uuid4().hex)
            for path, adapter in adapters.items():
                adapter.pass_id, adapter.order = ids[-1], order
                adapter.was_trainable, adapter.repacking = was_trainable, repacking
                installed.append(layers[path])
                hook(layers[path], adapter)
            order += 1
    except BaseException:
        for layer in installed:
            unhook(layer)
        if not present:
            _resume(model, repacking)
        raise
    ours = {id(p) for layer in adapted_layers(model) for p in layer.adapter.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in ours:
            parameter.requires_grad_(False)
    _forget_compiled()
    return Adapter(model, ids)


def _resume(model: nn.Module, paths: frozenset[str]) -> None:
    resume_repacking(layer for path, layer in model.named_modules() if clean(path) in paths)


def _trainable(model: nn.Module) -> list[str]:
    return [clean(name) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _forget_compiled() -> None:
    """torch.compile does not guard hooks: compiled code would go on without, or with, the adapter."""
    if "torch._dynamo" in sys.modules:  # not imported: nothing was ever compiled
        torch.compiler.reset()


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
                    yield full_name(layer.adapter.path, name), parameter

    def parameters(self) -> Iterator[nn.Parameter]:
        """What to give the optimiser."""
        return (parameter for _, parameter in self.named_parameters())

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def coefficient(self) -> float:
        """How far the trained difference is turned up: 1 as trained, 0 the base bit for bit, -1 the other way.

        Not saved; forward, effective_weight and merge honour it. Only variants that can be steered have it, which
        is AntiPaSTO.

        Raises:
            AttributeError: another variant is among the layers.
            ValueError: set to something that is no finite number.
        """
        return self._steered()[0].adapter.coefficient.item()

    @coefficient.setter
    def coefficient(self, value: float) -> None:
        layers = self._steered()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"coefficient = {value!r}: it must be a finite number")
        with torch.no_grad():
            for layer in layers:
                layer.adapter.coefficient.fill_(value)
                if layer.adapter.prepared is not None:  # inside frozen()
                    _freeze(layer)

    def _steered(self) -> list[nn.Module]:
        layers = self._layers()
        rigid = [layer.adapter.variant.name for layer in layers if not layer.adapter.variant.steerable]
        if rigid or not layers:
            names = " + ".join(dict.fromkeys(rigid)) or "detached adapter"
            raise AttributeError(f"there is no coefficient to read or set: this is {names}, which cannot be steered")
        return layers

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
                    _freeze(layer)
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


def _freeze(layer: nn.Module) -> None:
    with at_hand(layer, layer.adapter.path), full_precision(layer.weight.device), gathered(layer):
        prepared = layer.adapter.variant.prepare(layer.adapter, layer)
    # Copies: an edit of lora_A would otherwise be seen at once, and beside the old norm in DoRA.
    layer.adapter.prepared = tuple(t.clone() if isinstance(t, Tensor) else t for t in prepared)


# ---- detach, merge, effective_weight --------------------------------------------------------------


def detach(model: nn.Module) -> None:
    """Remove all adapters: the base model again, bit for bit, with its requires_grad flags restored."""
    _remove(model, adapted_layers(model))


def _remove(model: nn.Module, layers: list[nn.Module]) -> None:
    if not layers:
        return
    refuse_other_root(model)
    refuse_lent_in_blocks(model, [layer.adapter for layer in layers])
    reshard(model)
    was_trainable, repacking = layers[0].adapter.was_trainable, layers[0].adapter.repacking
    for layer in layers:
        unhook(layer)
    if not adapted_layers(model):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(clean(name) in was_trainable)
        _resume(model, repacking)
    _forget_compiled()


def refuse_other_root(model: nn.Module) -> None:
    """Paths and flags were recorded from the module that attach was given; another root would mix them up."""
    for path, module in model.named_modules():
        adapter = getattr(module, "adapter", None)
        if isinstance(adapter, LayerAdapter) and adapter.path != clean(path):
            raise ValueError(
                f"the layer {clean(path)!r} was adapted as {adapter.path!r}: "
                "call this on the model that attach was given"
            )


def merge(model: nn.Module, *, dequantize: bool = False) -> None:
    """Fold all adapters into the weights and remove them: plain layers with W' and b' afterwards.

    One-way. Computed in float32 at least and rounded once to the base's dtype, into new tensors. If it
    raises, nothing has changed.

    Args:
        dequantize: turn adapted layers that are stored in 8 or 4 bits, where W' has no place, into nn.Linear, in
            the dtype they compute in. Without it such a layer is refused.

    Raises:
        ValueError: no adapter is attached, the model is sharded, a weight to be changed is tied to another module or
            offloaded, a layer is quantised and `dequantize` is false, or a merged weight would not be finite in the
            base's dtype.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ValueError("the model has no adapter to merge")
    refuse_other_root(model)
    if reshard(model):
        raise ValueError(
            "a sharded model cannot be merged, for FSDP2 keeps the weights that it was given: save the adapter, load "
            "it into a model that is not sharded, and merge that"
        )
    for layer in layers:
        for module in (layer, layer.adapter):
            refuse_offloaded(
                module,
                layer.adapter.path,
                "save the adapter, load it into a model that is loaded whole, and merge that",
            )
    _refuse_tied(model, layers)
    kept, room = {}, KEPT_WHILE_MERGING
    for layer in layers:  # all are tried before any is changed; what there is no room for is made a second time
        if storage(layer) != "dense":
            _refuse_quantised(model, layer, dequantize)
        weight, bias = _merged(layer)
        if not (_is_finite(weight) and (bias is None or _is_finite(bias))):
            raise ValueError(f"the merged weight of {layer.adapter.path!r} is not finite in {merged_dtype(layer)}")
        if weight.nbytes <= room:
            kept[layer], room = (weight, bias), room - weight.nbytes
    plain = {}
    for layer in layers:
        weight, bias = kept.pop(layer, None) or _merged(layer)
        target = layer
        if storage(layer) != "dense":
            target = plain[layer] = nn.Linear(layer.in_features, layer.out_features, bias is not None, device="meta")
            target.train(layer.training)
        target.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            target.bias = nn.Parameter(bias, requires_grad=False)
    _remove(model, layers)
    for parent in model.modules() if plain else ():
        for name, child in parent._modules.items():
            if child in plain:
                parent._modules[name] = plain[child]


@torch.no_grad()
def _merged(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """W' and b' in the dtypes that they are stored in, in new tensors."""
    adapter, dtype = layer.adapter, merged_dtype(layer)
    with full_precision(layer.weight.device):
        factors = adapter.variant.low_rank(adapter, layer)
        if factors is not None:  # W + B A is one pass over W where the equation may take several
            W, b = dense_weight(layer), layer.bias
            A, B = (t.to(arithmetic_dtype(W.dtype, t.dtype)) for t in factors)
            return torch.addmm(W.to(B.dtype), B, A).to(dtype), None if b is None else b.detach().clone()
    W, b = effective_weight(layer)
    return W.to(dtype), None if b is None else b.to(layer.bias.dtype, copy=True)


def _is_finite(t: Tensor) -> bool:
    """In one pass: a NaN is both the least and the greatest, and an infinity one of them."""
    return all(bool(end.isfinite()) for end in t.aminmax()) if t.numel() else True


def _refuse_quantised(model: nn.Module, layer: nn.Module, dequantize: bool) -> None:
    path = layer.adapter.path
    if not dequantize:
        raise ValueError(
            f"{path!r} is quantised ({storage(layer)}): W' would be rounded to what it can hold. "
            "merge(model, dequantize=True) makes it an nn.Linear"
        )
    if layer is model:
        raise ValueError("a bare quantised layer cannot be replaced by an nn.Linear: put it into a module first")


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
