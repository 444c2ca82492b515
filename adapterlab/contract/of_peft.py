"""PEFT's methods as subjects: `check("peft:hra")`, or of a configuration of the reader's own."""

import dataclasses
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..peft_methods import METHODS, Method
from .bases import Net, paths, randn
from .subject import NotApplicable, On, Subject

# Of a configuration, what says where and how it is stored and nothing about the equation.
PLUMBING = {
    "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern",
    "alpha_pattern", "lambda_pattern", "block_size_pattern", "n_frequency_pattern", "fan_in_fan_out", "bias",
    "layer_replication", "runtime_config", "megatron_config", "megatron_core", "trainable_token_indices",
    "target_parameters", "ensure_weight_tying", "save_projection", "save_indices", "save_precomputed_indices",
    "save_only_topk_weights", "use_qalora", "qalora_group_size", "progressbar", "runtime_offload_base_weight",
    "use_effective_conv2d",
}  # fmt: skip


class Sequences(nn.Module):
    """Rows as one sequence: where PEFT takes (batch, tokens, d) alone, the rest of the contract is judged so."""

    def __init__(self, wrapped: nn.Module):
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x):
        return self.wrapped(x[None])[0] if x.dim() == 2 else self.wrapped(x)


def do_not_repack(base: nn.Module) -> None:
    """What bitsandbytes does to 4-bit weights on some processors is not PEFT's doing, nor on every machine."""
    for layer in base.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


class OnPeft(On):
    def __init__(self, base: nn.Module, wrapped: nn.Module, method: Method):
        self.base, self.wrapped, self.method = base, wrapped, method
        self.model = Sequences(wrapped) if method.three else wrapped

    def parameters(self):
        """By names without PEFT's own wrappers."""
        found = self.wrapped.named_parameters()
        return {name.removeprefix("base_model.model."): p for name, p in found if p.requires_grad}

    def disabled(self):
        return self.wrapped.disable_adapter()

    def remove(self):
        return self.wrapped.unload()

    def merge(self):
        with _refusal("merge"):
            return self.wrapped.merge_and_unload()

    def cycle(self):
        with _refusal("unmerge"):
            self.wrapped.merge_adapter()
            self.wrapped.unmerge_adapter()

    def save(self, path: Path):
        self.wrapped.save_pretrained(path)


@contextmanager
def _refusal(what: str) -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:
        raise NotApplicable(f"PEFT does not {what} it{f': {error}' if str(error) else ''}") from error


class OfPeft(Subject):
    """One of PEFT's methods.

    Args:
        changes: fields of its configuration to set otherwise.
    """

    def __init__(self, method: Method, r: int = 4, changes: dict[str, Any] | None = None):
        super().__init__()
        self.method, self.r, self.changes = method, r, changes or {}
        self.rank = r if method.ranked else None
        self.label, self.lr = f"peft:{method.name}", method.lr
        self.by_design = {
            check: f'its source says: "{quote.words}" ({quote.link})' for check, quote in method.by_design.items()
        }
        self.unfit = dict(method.unfit)
        if method.missing:
            from .checks import CHECKS

            self.unfit = dict.fromkeys(CHECKS, f"it needs the package {' and '.join(method.missing)}")

    @property
    def lent_at_once(self):
        """PEFT keeps its numbers in containers, of which accelerate calls none."""
        wrapped = self.put_on(self.base()).wrapped
        return sorted({type(m).__name__ for m in wrapped.modules() if hasattr(m, "base_layer")})

    restores_flags = False  # PEFT freezes the base, and leaves it so

    def base(self, shape=None, *, bias=True, dtype=torch.float32, seed=0, deep=False):
        """Wide ones hold float32's numbers: several of PEFT's starts take no float64."""
        if dtype == torch.float64:
            return self.base(shape, bias=bias, seed=seed, deep=deep).double()
        if self.method.layer == "linear":
            return super().base(shape, bias=bias or self.method.biased, dtype=dtype, seed=seed, deep=deep)
        d, _ = shape or self.shape
        norms = [nn.LayerNorm(d, dtype=dtype) for _ in range(1 + deep)]
        with torch.no_grad():
            for i, norm in enumerate(norms):
                norm.weight.copy_(1 + 0.3 * randn(d, seed=10 * seed + i))
                norm.bias.copy_(randn(d, seed=10 * seed + 5 + i))
        return Net(*norms).eval()

    def inputs(self, base, n=64, seed=3):
        """Also of a base whose layers PEFT has wrapped."""
        layer = getattr(base.proj, "base_layer", base.proj)
        weight = layer.weight
        dtype = weight.dtype if weight.is_floating_point() else torch.float32
        if isinstance(layer, nn.Conv2d):
            return randn(n, layer.in_channels, 4, 3, seed=seed, dtype=dtype)
        width = getattr(layer, "in_features", None) or len(weight)  # transformers' Conv1D is (in, out)
        return randn(n, width, seed=seed, dtype=dtype)

    def _put_on(self, base, dtype, data):
        do_not_repack(base)
        wide = next(base.parameters()).dtype == torch.float64 and self.method.widens
        if wide:
            base.float()
        x = self.inputs(base, 16 * self.r, seed=7)
        batches = [x, x.flip(-1)]
        wrapped = self.method.wrap(
            base, paths(base), self.r, batches, changes=self.changes, upcast=dtype == torch.float32
        )
        return self._on(base, wrapped, wide)

    def _on(self, base, wrapped, wide=False):
        return OnPeft(base, (wrapped.double() if wide else wrapped).eval(), self.method)

    def load(self, base, path):
        return self._on(base, self.method.load(base, path))

    def with_rank(self, r):
        if not self.method.ranked:
            raise NotApplicable("it has no rank")
        return OfPeft(self.method, r, self.changes)

    def _with(self, name: str, value: Any) -> "OfPeft":
        if name == "r":
            return OfPeft(self.method, value, self.changes)
        return OfPeft(self.method, self.r, {**self.changes, name: value})

    def alternatives(self) -> dict[str, list[Callable[[], Subject]]]:
        config = self.method.config(["proj"], self.r)
        own = {field.name for field in dataclasses.fields(type(config))} - _shared() - PLUMBING
        found = {}
        for name in sorted(own - set(self.method.idle)):
            others = _others(getattr(config, name), typing.get_type_hints(type(config)).get(name))
            if others:
                found[name] = [lambda n=name, v=v: self._with(n, v) for v in others]
        return found


def _shared() -> set[str]:
    import peft

    return {field.name for field in dataclasses.fields(peft.PeftConfig)}


def _others(value: Any, kind: Any) -> list[Any]:
    """Other values of a hyperparameter; none for what is no number, switch or word."""
    choices = [
        v for k in (kind, *typing.get_args(kind)) for v in typing.get_args(k) if typing.get_origin(k) is typing.Literal
    ]
    if choices:
        return [v for v in choices if v != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [2 * value, value // 2, value + 1] if value else [1, 2]
    if isinstance(value, float):
        return [value / 2, 2 * value] if value else [0.5]
    return []


def of_peft(name: str) -> OfPeft:
    """Raises:
    ValueError: PEFT has no such method.
    """
    if name not in METHODS:
        raise ValueError(f"there is no method {name!r} of PEFT; there are {', '.join(METHODS)}")
    return OfPeft(METHODS[name])


def of_config(config: Any) -> OfPeft:
    """A configuration of the reader's own, put on the contract's layers in place of its targets.

    Raises:
        ValueError: it is of a kind that changes no layer.
    """
    kind = type(config).__name__
    like = [method for method in METHODS.values() if method.kind == kind]
    if not like:
        raise ValueError(
            f"a {kind} is not judged; there are {', '.join(dict.fromkeys(m.kind for m in METHODS.values()))}"
        )
    same_start = [m for m in like if _start(m.config(["proj"])) == _start(config)]
    ranked = hasattr(config, "r")
    left = {field.name for field in dataclasses.fields(config) if not field.init} | {"target_modules", "peft_type"}
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name not in left}

    def fields(r, targets):
        return {**values, **({"r": r} if ranked else {})}

    template = (same_start or like)[0]
    own = dataclasses.replace(template, name=f"{kind} of your own", fields=fields, ranked=ranked)
    return OfPeft(own, config.r if ranked else 4)


def _start(config: Any) -> Any:
    return getattr(config, "init_lora_weights", None)
