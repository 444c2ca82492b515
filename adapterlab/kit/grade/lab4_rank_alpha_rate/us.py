"""Us to try an answer on: made ones of several shapes, and the recorded ones."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch

from ... import rates
from ..evidence import describe

NEAR = 0.5  # octaves outside a plateau that a search or a rule may miss by
FAR = 1.0  # the same for a prediction
POINTS, PER_OCTAVE = 10, 5  # for each prediction; what an octave outside the plateau costs


@cache
def recorded(name: str) -> rates.Measured:
    return rates.measured()[name]


def anchor() -> float:
    return recorded(rates.ANCHOR).centre


@cache
def trials() -> rates.Trials:
    return rates.Trials()


@cache
def step(name: str, lr: float) -> rates.Step:
    return trials().first_step(rates.SETTINGS[name], lr)


def points(off: Iterable[float]) -> str:
    """The score for what was foretold, by how many octaves each is off."""
    found = [max(0.0, POINTS - PER_OCTAVE * abs(value)) for value in off]
    return f"{sum(found):.0f} of {POINTS * len(found)} points."


# ---- answers ----------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A tensor of one number as that number; anything else as it is."""
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def entries(answer: Any, keys: Iterable[str], fits: Callable[[Any], bool]) -> str:
    """What is there for the keys that have no fitting value."""
    if not isinstance(answer, Mapping):
        return f"{tell(answer)}, where a dictionary belongs"
    bad = [key for key in keys if not fits(answer.get(key))]
    return "; ".join(f"{key}: {tell(answer[key]) if key in answer else 'nothing'}" for key in bad)


def distance(rate: float, other: float) -> float:
    """Octaves from `other` up to `rate`."""
    return math.log2(rate / other)


def tell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else describe(value)


def outside(miss: float) -> str:
    """A miss in octaves, as `rates.octaves` counts them."""
    return "no rate" if math.isinf(miss) else "on the plateau" if not miss else f"{abs(miss):.1f} octaves outside"


def up_or_down(off: float) -> str:
    return "above" if off > 0 else "below"


# ---- made Us ----------------------------------------------------------------------------------------


def made(left: float, flat: float, right: float, lowest: float = 0.5, tilt: float = 0.0) -> tuple[list, list]:
    """A U around 0.004: rates and losses, a quarter of an octave apart.

    Args:
        left, right: what the loss rises by in an octave on either side, in times `lowest`.
        flat: octaves of floor between them.
        tilt: what the floor rises by from its left end to its right one, in times `lowest`.
    """
    lrs, losses = [], []
    for k in range(-24, 25):
        x = k / 4
        beyond = max(0.0, abs(x) - flat / 2) * (left if x < 0 else right)
        slope = tilt * (x + flat / 2) / flat if flat and abs(x) <= flat / 2 else tilt * (x > 0)
        lrs.append(0.004 * 2**x)
        losses.append(lowest * (1 + beyond + slope))
    return lrs, losses


def symmetric():
    return made(1, 1.5, 1)


def leaning():
    return made(1, 5, 3, tilt=0.08)


def steep():
    return made(0.1, 0, 8)


def turned_round():
    lrs, losses = leaning()
    return lrs[17:] + lrs[:17], losses[17:] + losses[:17]


def broken():
    lrs, losses = made(1, 3, 1, tilt=0.08)
    return lrs, [math.inf if k > 36 else loss for k, loss in enumerate(losses)]


def tall():
    return made(1, 4, 1, lowest=50.0, tilt=0.08)


SHAPES = {
    "the same on both sides": symmetric,
    "flat for five octaves, its lowest point at one end": leaning,
    "slow on the left and steep on the right": steep,
    "flat for five octaves, its rates not in order": turned_round,
    "infinite at the highest rates": broken,
    "a hundred times as high": tall,
}
