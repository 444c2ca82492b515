"""What a variant is: hyperparameters, the equation it stands for, and a fast path that agrees with it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

VARIANTS: dict[str, type["Variant"]] = {}


def register(name: str) -> Callable[[type["Variant"]], type["Variant"]]:
    """Class decorator that adds a variant to `VARIANTS` under `name`, where `load` looks it up.

    Raises:
        TypeError: the class is no frozen dataclass derived from `Variant`.
        ValueError: the name is taken.
    """

    def add(cls: type["Variant"]) -> type["Variant"]:
        if not (isinstance(cls, type) and issubclass(cls, Variant) and is_dataclass(cls)):
            raise TypeError(f"{cls!r} must be a dataclass derived from Variant: write @register above @dataclass")
        if not cls.__dataclass_params__.frozen:
            raise TypeError(f"{cls.__name__} must be frozen, as hyperparameters are: @dataclass(frozen=True)")
        taken = VARIANTS.get(name)
        # The same class again is a notebook cell run twice, and replaces itself.
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"the name {name!r} belongs to {taken.__module__}.{taken.__qualname__}: choose another")
        cls.name = name
        VARIANTS[name] = cls
        return cls

    return add


@dataclass(frozen=True)
class ParamSpec:
    """One tensor of an adapted layer: its shape, how it starts, and whether it is trained.

    Attributes:
        shape: of the tensor.
        init: fills a float32 tensor in place, as `torch.nn.init` functions do.
        as_buffer: frozen and saved, not trained.
        full_precision: never stored below float32, whatever dtype `attach` is asked for.
    """

    shape: tuple[int, ...]
    init: Callable[[Tensor], Any] = nn.init.zeros_
    as_buffer: bool = False
    full_precision: bool = False

    def make_tensor(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """The tensor at its start. Drawn in float32, so that a seed gives the same start in every dtype."""
        tensor = torch.empty(self.shape, dtype=torch.float32, device=device)
        with torch.no_grad():
            self.init(tensor)
        return tensor.to(self.storage_dtype(dtype))

    def storage_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return torch.promote_types(dtype, torch.float32) if self.full_precision else dtype


class Variant(ABC):
    """Base of all variants; subclasses are frozen dataclasses whose fields are their hyperparameters.

    A variant says everything about one layer's maths and owns no state. The state is the layer's child
    module `layer.adapter`, passed in as `p`: `p.lora_A` and so on are the tensors that `specs` names,
    `p.scale` is the layer's scale.

    Class attributes:
        name: the key in `VARIANTS`, set by `register`.
        side: "output" if the variant changes what the layer returns, "input" if what it is given.
        data: whether `attach` needs calibration data: "none", "optional" or "required".
        steerable: whether its strength can be set after training, through `adapter.coefficient`. `p` then has
            a tensor `coefficient` (), which is not saved and which the maths must honour.
    """

    name: ClassVar[str] = ""
    side: ClassVar[Literal["output", "input"]] = "output"
    data: ClassVar[Literal["none", "optional", "required"]] = "none"
    steerable: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if {"effective_weight", "prepare"} & vars(cls).keys() and "low_rank" not in vars(cls):
            cls.low_rank = Variant.low_rank  # the parent's factors belong to the parent's equation

    @abstractmethod
    def specs(self, d_in: int, d_out: int) -> dict[str, ParamSpec]:
        """The tensors of one layer, by name. Raises ValueError if the fields do not fit the layer."""

    @abstractmethod
    def effective_weight(self, p, W: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The equation: the dense (W', b') that the adapted layer stands for.

        Slow and obvious, differentiable, written to be read beside the paper. All tensors, those of `p`
        among them, come in one dtype of at least float32.

        Args:
            p: the layer's tensors and scale.
            W: (d_out, d_in), the frozen weight.
            b: (d_out,) or None.
        """

    @abstractmethod
    def prepare(self, p, layer: nn.Module) -> tuple:
        """What the fast path needs and what depends on theta alone, not on x.

        Called in each forward; inside `adapter.frozen()` once, on entry.
        """

    @abstractmethod
    def forward(self, prepared: tuple, x: Tensor, y: Tensor | None) -> Tensor:
        """The fast path. `side = "output"`: the new output, given the base layer's x and y.
        `side = "input"`: the new input, given x (y is None)."""

    def low_rank(self, p, layer: nn.Module) -> tuple[Tensor, Tensor] | None:
        """A (k, d_in) and B (d_out, k) with W' - W = B A, where the difference has low rank; None where it has not.

        Any LoRA runtime serves a variant through them, and `merge` uses them; the bias stays. A subclass that has
        an `effective_weight` or `prepare` of its own does not inherit them.
        """
        return None

    def layer_scale(self) -> float:
        """The scale stored with each layer when it is attached; 1 where the equation has none."""
        return 1.0

    def init(self, p, layer: nn.Module) -> None:
        """Fill what starts from the base weight, at attach. `load` never calls it."""

    def derive(self, p, layer: nn.Module) -> dict[str, Tensor]:
        """Tensors that follow from the base weight and are not saved; made again when the weight changes.

        `prepare` finds them in `p`. `effective_weight` does not: it is handed what is saved and nothing else.
        """
        return {}

    def group_init(self, layers: MutableMapping[str, nn.Module], batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Data-driven start, at attach; `load` never calls it.

        Args:
            layers: module path -> the layer's `p`, its tensors already at their plain start; here alone
                `p.base_weight()` gives W (d_out, d_in). A layer given another rank gets other tensors, and
                `p.variant` with that rank; a layer deleted from `layers` is left without an adapter.
            batches: for each calibration batch, module path -> that layer's inputs, (tokens, d_in). Layers that
                were called with one and the same tensor get one and the same tensor here.
        """


# ---- what the fields of several variants share ----------------------------------------------------


def check_rank(r: Any) -> None:
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise ValueError(f"r = {r!r}: a rank is a whole number of at least 1")


def check_fits(r: int, d_in: int, d_out: int) -> None:
    if r > min(d_in, d_out):
        raise ValueError(f"r = {r} is more than min(d_in, d_out) = {min(d_in, d_out)}: choose a smaller r")


def check_alpha(alpha: Any) -> None:
    number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if not number or not math.isfinite(alpha) or alpha == 0:
        raise ValueError(f"alpha = {alpha!r}: it must be a finite number other than 0")


def scaling(r: int, alpha: float, rslora: bool) -> float:
    """alpha / r, or rsLoRA's alpha / sqrt(r) (Kalajdzievski 2023, arXiv 2312.03732)."""
    return alpha / math.sqrt(r) if rslora else alpha / r


def kaiming(tensor: Tensor) -> None:
    """The start of A that Hu et al.'s code and PEFT use."""
    nn.init.kaiming_uniform_(tensor, a=math.sqrt(5))
