"""What graders measure with, and how they say it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

NOTHING = 1e-5  # a miss below this is rounding, in float32 and above


def relative(seen: Any, right: Tensor) -> float:
    """norm(seen - right) / norm(right) in float64; infinite where shapes differ or a value is not finite."""
    if not isinstance(seen, Tensor) or seen.shape != right.shape or not seen.isfinite().all():
        return float("inf")
    right = right.detach().double()
    return ((seen.detach().double() - right).norm() / right.norm().clamp(min=1e-300)).item()


def figure(miss: float) -> str:
    """A miss in two digits; what is left to rounding differs between processors and is not told."""
    if miss != miss or miss == float("inf"):
        return "beyond measure"
    return "rounding" if miss < NOTHING else f"{miss:.2g}"


def describe(value: Any) -> str:
    """A value in a few words."""
    if not isinstance(value, Tensor):
        return f"{value!r}" if isinstance(value, (bool, int, float, str, type(None))) else f"a {type(value).__name__}"
    bad = "" if value.isfinite().all() else ", not all of it finite"
    if value.numel() == 1 and not bad:
        return f"{value.item():.3g}"
    return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}{bad}"


def compared(seen: Any, right: Tensor) -> str:
    """What was seen beside what is right, in a few words: its miss, or why the two cannot be compared."""
    if isinstance(seen, Tensor) and seen.shape == right.shape and seen.isfinite().all():
        return f"{describe(seen)}, off by {figure(relative(seen, right))} of its norm"
    return f"{describe(seen)}, where {describe(right)} belongs"


def isolate(miss: Callable[..., float], changes: Mapping[str, Mapping[str, Any]]) -> str:
    """The experiment that isolates the fault, in a sentence.

    Args:
        miss: the miss of the answer; takes what a change changes as keyword arguments, and none for the plain case.
        changes: what was done ("set b = 0") -> the keyword arguments that do it. The first that makes the miss vanish
            is told; where none does, the one that moved it most.
    """
    plain = miss()
    found = {name: miss(**keywords) for name, keywords in changes.items()}
    cured = next((name for name, value in found.items() if value < NOTHING <= plain), None)
    if cured is not None:
        return f"I {cured}, and the miss fell from {figure(plain)} to {figure(found[cured])}."
    name = min(found, key=found.get)
    if found[name] == plain == float("inf"):
        return f"I {name}, and there was still nothing to compare."
    return f"I {name}, and the miss went from {figure(plain)} to {figure(found[name])}: it is not that alone."


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal, the same on every machine."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
