"""Which layers of a model an adapter goes on: pure functions that change nothing."""

import difflib
import re
from collections.abc import Iterable, Iterator

from torch import nn

from .weights import is_linear_like

# Path components that wrappers add (torch.compile, FSDP, activation checkpointing), and DDP's at the front.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

Patterns = str | Iterable[str]


def clean(path: str) -> str:
    """A module or parameter path without what wrappers put into it."""
    parts = [part for part in path.split(".") if part not in _WRAPPERS]
    if parts and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def named_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every linear-like layer with its clean path, in model order; a bare layer has the path "".

    Without those whose hooks would silently never run.
    """
    bypassed = bypassed_layers(model)
    for path, module in model.named_modules():
        if is_linear_like(module) and clean(path) not in bypassed:
            yield clean(path), module


def bypassed_layers(model: nn.Module) -> list[str]:
    """Clean paths of the out_proj that nn.MultiheadAttention multiplies by without calling it."""
    return [
        clean(f"{path}.out_proj" if path else "out_proj")
        for path, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        and (type(module).forward is nn.MultiheadAttention.forward or not is_linear_like(module.out_proj))
    ]


def select(
    model: nn.Module, targets: Patterns | None, exclude: Patterns, layers: Iterable[int] | None
) -> dict[str, nn.Module]:
    """The layers that `attach` adapts, by clean path in model order.

    Raises:
        ValueError: a pattern is no regular expression, nothing matches (the nearest names are given), or `targets`
            names a layer that its model never calls.
    """
    wanted, unwanted = _compile(targets), _compile(exclude) or []
    blocks = None if layers is None else set(layers)

    def is_chosen(path: str) -> bool:
        if wanted is None:
            matches = not any(pattern.search(path) for pattern in unwanted)
        else:
            matches = any(pattern.search(path) for pattern in wanted)
        return matches and (blocks is None or block_index(path) in blocks)

    if wanted is not None and (named := list(filter(is_chosen, bypassed_layers(model)))):
        raise ValueError(
            f"targets={targets!r} names {', '.join(map(repr, named))}, where an adapter would never run: "
            "nn.MultiheadAttention multiplies by that weight and never calls the layer. Leave it out of `targets`"
        )
    chosen = {path: layer for path, layer in named_layers(model) if is_chosen(path)}
    if not chosen:
        raise ValueError(_nothing_matches(model, targets, blocks))
    return chosen


def block_index(path: str) -> int | None:
    """The first whole number among the parts of a path: 7 in 'model.layers.7.mlp.up_proj'."""
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


def _compile(patterns: Patterns | None) -> list[re.Pattern] | None:
    if patterns is None:
        return None
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(f"{pattern!r} is no regular expression for module paths: {error}") from None
    return [re.compile(pattern) for pattern in patterns]


def _nothing_matches(model: nn.Module, targets: Patterns | None, blocks: set[int] | None) -> str:
    paths = [path for path, _ in named_layers(model)]
    if not paths:
        return f"{type(model).__name__} has no linear-like layer to adapt"
    where = "" if blocks is None else f" in blocks {sorted(blocks)}"
    if targets is None:
        found = sorted({index for path in paths if (index := block_index(path)) is not None})
        return f"no layer is left{where} after `exclude`; the model has blocks {found} and layers like {paths[0]!r}"
    asked = [targets] if isinstance(targets, str) else list(targets)
    names = sorted({path.rsplit(".", 1)[-1] for path in paths})
    near = [hit for pattern in asked for hit in difflib.get_close_matches(re.sub(r"\W", "", pattern), names, n=3)]
    suggestion = near or names[:8]
    return f"no layer{where} matches targets={targets!r}: the nearest names are {', '.join(dict.fromkeys(suggestion))}"
