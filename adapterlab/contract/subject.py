"""What is judged: a variant of this library's kind, or any adapter that says how it is put on a model."""

import dataclasses
import math
import re
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .. import checkpoint, runtime
from .. import layer as layers
from ..ops import arithmetic_dtype
from ..variant import VARIANTS, Variant, register
from ..variants import IA3, IA3FF, DeLoRA
from ..weights import dense_weight
from .bases import Net, linear, move_far, paths, randn, renamed, reseed
from .finding import Finding


class NotApplicable(Exception):
    """A check has nothing to measure here; the message says why."""


class On(ABC):
    """An adapter on a model.

    Attributes:
        base: the model that it was put on.
        model: what is called: the base itself, or what wraps it.
    """

    base: nn.Module
    model: nn.Module
    one_way = False  # merging gives the layers new tensors, and there is no unmerge

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """What the adapter's file must hold, by name: by default what is trained."""
        return dict(self.parameters())

    def equation(self, path: str) -> tuple[Tensor, Tensor | None] | None:
        """(W', b') of one layer, differentiable in the parameters; None for an adapter without an equation."""
        return None

    def move_far(self, seed: int = 0) -> None:
        """Away from the start, where all formulas meet."""
        move_far(self.parameters(), seed)

    def disabled(self) -> AbstractContextManager:
        raise NotApplicable("it says of no way to switch it off")

    def remove(self) -> nn.Module:
        """-> the base, without the adapter."""
        raise NotApplicable("it says of no way to take it off")

    def merge(self) -> nn.Module:
        """-> a model with the adapter in its weights."""
        raise NotApplicable("it says of no way to merge")

    def cycle(self) -> None:
        """Merge and unmerge, in place."""
        raise NotApplicable("it says of no way to unmerge")

    def save(self, path: Path) -> None:
        raise NotApplicable("it says of no way to save")


class Subject(ABC):
    """An adapter that can be put on models again and again.

    Attributes:
        label: what reports call it.
        by_design: check -> a sentence with its source: a deviation that the adapter's authors state.
        lr: the rate that it is trained at.
        trained: names (their last part) of what must be trained; None: what it says itself.
        unfit: check -> why it does not apply, whatever the adapter.
    """

    label: str = ""
    lr: float = 5e-3
    rank: int | None = None
    trained: frozenset[str] | None = None
    reference: Variant | None = None  # whose equation and start judge it
    wide: float = 5e-6  # on a float64 base: an adapter may compute in float32
    restores_flags = True  # whether taking it off gives the base's requires_grad flags back
    onto_offloaded = False  # whether it says that it can be put on a model that is offloaded already
    on_reload = ""  # to be said of saving and loading

    def __init__(self) -> None:
        self.by_design: dict[str, str] = {}
        self.unfit: dict[str, str] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """(d_in, d_out): unequal, with 8 in both, and room for twice the rank."""
        k = max(1, math.ceil(2 * (self.rank or 0) / 16))
        return 24 * k, 16 * k

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Wide and tall."""
        return [self.shape, self.shape[::-1]]

    @property
    def in_blocks(self) -> tuple[int, int]:
        """(d_in, d_out) of a layer to be quantised."""
        return 64 * (self.shape[1] // 16), 96 * (self.shape[1] // 16)

    def base(self, shape=None, *, bias=True, dtype=torch.float32, seed=0, deep=False) -> nn.Module:
        """A fresh base, the same for the same seed: one layer, or two where `deep`."""
        d_in, d_out = shape or self.shape
        made = [linear(d_in, d_out, bias=bias, dtype=dtype, seed=10 * seed + 1)]
        if deep:
            made.append(linear(d_out, d_in, bias=bias, dtype=dtype, seed=10 * seed + 5))
        return Net(*made).eval()

    def inputs(self, base: nn.Module, n: int = 64, seed: int = 3) -> Tensor:
        return randn(n, _width(base.proj), seed=seed, dtype=_computes_in(base.proj))

    def data(self, base: nn.Module) -> list[Tensor]:
        """Batches to start from. Small ones: the second layer sees little but the first one's bias, so that inputs
        spread otherwise in one than in the other."""
        return [0.1 * self.inputs(base, 16 * (self.rank or 4), seed=7)]

    def put_on(self, base: nn.Module, *, dtype: torch.dtype = torch.float32, data: bool = False, seed: int = 0) -> On:
        """On all layers of `base`, at its start; the same seed gives the same start.

        Args:
            dtype: of the adapter's parameters.
            data: start from data where the adapter can do without.
        """
        reseed(seed)
        return self._put_on(base, dtype, data)

    @abstractmethod
    def _put_on(self, base: nn.Module, dtype: torch.dtype, data: bool) -> On: ...

    takes_data = False  # may start from data, but need not

    def load(self, base: nn.Module, path: Path) -> On:
        raise NotApplicable("it says of no way to load")

    def file(self) -> Finding:
        """On the file that it was read from."""
        raise NotApplicable("it comes from no file")

    def with_rank(self, r: int) -> "Subject":
        """The same with another rank.

        Raises:
            NotApplicable: it has none.
            ValueError: it refuses this one.
        """
        raise NotApplicable("it has no rank")

    def alternatives(self) -> dict[str, list[Callable[[], "Subject"]]]:
        """For each hyperparameter the same with another value; a call raises where that value is refused."""
        raise NotApplicable("it declares no hyperparameters")


def _width(layer: nn.Module) -> int:
    """Of the inputs of a linear layer, of a transformers Conv1D, or of a normalisation; channels of a convolution."""
    for name in ("in_features", "nx", "in_channels"):
        if isinstance(width := getattr(layer, name, None), int):
            return width
    return layer.normalized_shape[-1]


def _computes_in(layer: nn.Module) -> torch.dtype:
    weight = layer.weight
    return weight.dtype if type(weight) is nn.Parameter and weight.is_floating_point() else torch.float32


# ---- variants -------------------------------------------------------------------------------------

# The rates that the chapters train at: gates move in factors, everything else in fractions of a weight.
RATES = {IA3: 2e-2, IA3FF: 2e-2}

PEFTS_START = (
    "start='zero' is PEFT's (github.com/huggingface/peft, tuners/delora): near B = 0 the direction of b is noise of "
    "length lambda, so the first step is as long at any rate. The paper (arXiv 2503.18225, section 2.2) starts from a "
    "copy instead: start='copy'"
)


class OnOurs(On):
    one_way = True

    def __init__(self, base: nn.Module, adapter: runtime.Adapter, reference: Variant | None):
        self.base = self.model = base
        self.adapter, self.reference = adapter, reference

    def parameters(self):
        return dict(self.adapter.named_parameters())

    def tensors(self):
        found = {}
        for layer in layers.adapted_layers(self.base):
            found |= {layers.full_name(layer.adapter.path, n): t for n, t in layer.adapter.tensors().items()}
        return found

    def equation(self, path):
        layer = self.base.get_submodule(path)
        if not isinstance(getattr(layer, "adapter", None), layers.LayerAdapter):  # EVA gave it rank 0
            return dense_weight(layer), layer.bias
        if self.reference is None:
            return layers.effective_weight(layer)
        return equation_of(self.reference, layer)

    def disabled(self):
        return self.adapter.disabled()

    def remove(self):
        self.adapter.detach()
        return self.base

    def merge(self):
        runtime.merge(self.base)
        return self.base

    def save(self, path):
        checkpoint.save(self.base, path / "adapter.safetensors")


def equation_of(reference: Variant, layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """(W', b') by another variant's equation and scale, of the tensors that the layer has.

    Raises:
        ValueError: they are not the tensors of that equation.
    """
    adapter, W, b = layer.adapter, dense_weight(layer), layer.bias
    held = adapter.tensors() | _frozen(reference, layer)
    wanted = {name: spec.shape for name, spec in reference.specs(layer.in_features, layer.out_features).items()}
    if unlike := sorted(n for n in wanted if n not in held or tuple(held[n].shape) != wanted[n]):
        name = unlike[0]
        have = f"has the shape {tuple(held[name].shape)}" if name in held else "is missing"
        raise ValueError(f"{name} {have}; the equation of {type(reference).__name__} takes {wanted[name]}")
    dtype = arithmetic_dtype(W.dtype, *(t.dtype for t in held.values()))
    p = SimpleNamespace(scale=reference.layer_scale(), **{name: t.to(dtype) for name, t in held.items()})
    if reference.steerable:
        p.coefficient = adapter.coefficient
    return reference.effective_weight(p, W.to(dtype), None if b is None else b.detach().to(dtype))


def _frozen(reference: Variant, layer: nn.Module) -> dict[str, Tensor]:
    """The reference's own frozen tensors, where the weight alone gives them: the layer's may be what is wrong."""
    if reference.data != "none":
        return {}
    specs = reference.specs(layer.in_features, layer.out_features)
    dtype, found = arithmetic_dtype(dense_weight(layer).dtype), []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            made = {name: spec.make_tensor(dtype, layer.weight.device) for name, spec in specs.items()}
            p = layers.LayerAdapter(reference, "", made, layers.buffers_of(specs), reference.layer_scale())
            p.derive(layer)
            reference.init(p, layer)
        found.append(p.tensors())
    one, two = found
    return {name: one[name] for name, spec in specs.items() if spec.as_buffer and torch.equal(one[name], two[name])}


class Ours(Subject):
    """A variant of this library's kind, shipped or a reader's."""

    wide = 1e-9
    onto_offloaded = True

    def __init__(self, variant: Variant, reference: Variant | None = None):
        super().__init__()
        self.variant, self.reference = variant, reference
        self.label = repr(variant)
        self.rank = getattr(variant, "r", None)
        self.lr = getattr(variant, "lr", next((lr for kind, lr in RATES.items() if isinstance(variant, kind)), self.lr))
        self.takes_data = variant.data == "optional"
        if VARIANTS.get(variant.name) is not type(variant):
            self.on_reload = "not registered: al.load finds it only after @al.register(name)"
        if type(variant) is DeLoRA and variant.start == "zero":
            self.by_design["first_step"] = PEFTS_START
        if reference is not None:
            specs = reference.specs(*self.shape)
            self.trained = frozenset(name for name, spec in specs.items() if not spec.as_buffer)

    def _put_on(self, base, dtype, data):
        self._register()
        starts_from_data = self.variant.data == "required" or data and self.takes_data
        found = self.data(base) if starts_from_data else None
        wanted = [rf"^{re.escape(path)}$" for path in paths(base)] or None
        adapter = runtime.attach(base, self.variant, targets=wanted, calibration_data=found, dtype=dtype)
        return OnOurs(base, adapter, self.reference)

    def _register(self) -> None:
        """For save and load, which know variants by name; `alone` takes it back."""
        cls = type(self.variant)
        if VARIANTS.get(cls.name) is cls:
            return
        if "name" in vars(cls) and cls.name not in VARIANTS:
            VARIANTS[cls.name] = cls
        else:
            renamed.append((cls, vars(cls).get("name")))
            register(f"{cls.__module__}.{cls.__qualname__}")(cls)

    def load(self, base, path):
        return OnOurs(base, checkpoint.load(base, path / "adapter.safetensors"), self.reference)

    def with_rank(self, r):
        if self.rank is None:
            raise NotApplicable("it has no rank")
        changes = {"r": r}
        if "alpha" in {f.name for f in dataclasses.fields(self.variant)}:
            changes["alpha"] = 1.5 * r + 1  # never r
        return self._like(dataclasses.replace(self.variant, **changes))

    def _like(self, variant: Variant) -> "Ours":
        reference = self.reference
        if reference is not None:
            shared = {f.name for f in dataclasses.fields(reference)}
            reference = dataclasses.replace(
                reference, **{f.name: getattr(variant, f.name) for f in dataclasses.fields(variant) if f.name in shared}
            )
        made = Ours(variant, reference)
        made.lr, made.trained, made.by_design = self.lr, self.trained, self.by_design
        return made

    def alternatives(self):
        found = {}
        for field in dataclasses.fields(self.variant):
            if not field.init:
                continue
            found[field.name] = [
                lambda name=field.name, value=value: self._like(dataclasses.replace(self.variant, **{name: value}))
                for value in other_values(self.variant, field)
            ]
        if not found:
            raise NotApplicable("it has no hyperparameter")
        return found


def other_values(variant: Variant, field: dataclasses.Field) -> list[Any]:
    """Values to try in place of a field's own: what its metadata lists under "other", what its type allows, or what
    the refusal of a senseless text names in quotes."""
    value = getattr(variant, field.name)
    if "other" in field.metadata:
        return list(field.metadata["other"])
    kind = typing.get_type_hints(type(variant)).get(field.name)
    if typing.get_origin(kind) is typing.Literal:
        return [v for v in typing.get_args(kind) if v != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value // 2, 2 * value, value + 1] if value else [1, 2]
    if isinstance(value, float):
        return [2 * value, value / 2, value + 0.5] if value else [0.1, 1.0]
    if value is None:
        return [3, 0.5, True]
    if isinstance(value, str):
        try:
            dataclasses.replace(variant, **{field.name: "no such value"})
        except Exception as error:
            named = re.findall(r"(?<!\w)'([^']+)'(?!\w)", str(error))
            return [v for v in dict.fromkeys(named) if v not in (value, "no such value")]
        return [value + "_", "no such value"]
    return []


# ---- any adapter ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Foreign:
    """Any adapter, by what it can do.

    Args:
        put_on: puts it on every layer of a model at its start, and returns what is to be called: that model, or a
            wrapper. The model is an nn.Module with layers `proj` and, at times, `last`.
        name: in the report.
        parameters: of what put_on returned, the trained ones by name; by default all that require a gradient.
        disabled: of what put_on returned, a context manager inside which it is the base model.
        remove: of what put_on returned, takes the adapter off and returns the base model.
        merge: of what put_on returned, folds the adapter into the weights and returns the plain model.
        cycle: of what put_on returned, merges and unmerges, in place.
        save: of what put_on returned and a folder, writes the adapter there.
        load: of a fresh model and the folder, what put_on would return with the saved adapter on.
        equation: of what put_on returned and a layer's path, (W', b').
        lr: the rate that it is trained at.
        rank: its rank, which makes the layers wide enough.
    """

    put_on: Callable[[nn.Module], nn.Module]
    name: str = "a foreign adapter"
    parameters: Callable[[nn.Module], dict[str, nn.Parameter]] | None = None
    disabled: Callable[[nn.Module], AbstractContextManager] | None = None
    remove: Callable[[nn.Module], nn.Module] | None = None
    merge: Callable[[nn.Module], nn.Module] | None = None
    cycle: Callable[[nn.Module], Any] | None = None
    save: Callable[[nn.Module, Path], Any] | None = None
    load: Callable[[nn.Module, Path], nn.Module] | None = None
    equation: Callable[[nn.Module, str], tuple[Tensor, Tensor | None]] | None = None
    lr: float = Subject.lr
    rank: int | None = None


class OnForeign(On):
    def __init__(self, base: nn.Module, model: nn.Module, foreign: Foreign):
        self.base, self.model, self.foreign = base, model, foreign

    def _can(self, what: str) -> Callable:
        function = getattr(self.foreign, what)
        if function is None:
            raise NotApplicable(f"it was given without `{what}`")
        return function

    def parameters(self):
        return super().parameters() if self.foreign.parameters is None else self.foreign.parameters(self.model)

    def equation(self, path):
        return None if self.foreign.equation is None else self.foreign.equation(self.model, path)

    def disabled(self):
        return self._can("disabled")(self.model)

    def remove(self):
        return self._can("remove")(self.model)

    def merge(self):
        return self._can("merge")(self.model)

    def cycle(self):
        self._can("cycle")(self.model)

    def save(self, path):
        self._can("save")(self.model, path)


class Wrapped(Subject):
    """A `Foreign` as a subject."""

    def __init__(self, foreign: Foreign):
        super().__init__()
        self.foreign, self.label, self.lr, self.rank = foreign, foreign.name, foreign.lr, foreign.rank

    def _put_on(self, base, dtype, data):
        on = OnForeign(base, self.foreign.put_on(base), self.foreign)
        if dtype == torch.float64:
            on.model.to(dtype)
        return on

    def load(self, base, path):
        if self.foreign.load is None:
            raise NotApplicable("it was given without `load`")
        return OnForeign(base, self.foreign.load(base, path), self.foreign)
