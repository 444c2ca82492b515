"""Whether evidence tells one adapter from all others: it is taken of healthy ones and of the other mysteries too."""

import functools
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ... import triage
from ...mystery import CASES
from ...triage import Case
from ..evidence import describe
from .ailments import AILMENTS, REPAIRS, gap, repaired

NEAR = 0.5  # of the way from the middle of the healthy ones up to the mystery: nothing else may come so far


@functools.cache
def mysteries() -> Mapping[str, Case]:
    return {case.name: case for case in triage.cases()}


@functools.cache
def sound() -> Mapping[str, Case]:
    """Healthy ones: those that the reader has, and mysteries with their bug taken out."""
    found = {f"the healthy {case.name}": case for case in triage.healthy()}
    for name, recipe in CASES.items():
        if recipe.bug in REPAIRS:
            found[f"{name} with its bug taken out"] = repaired(mysteries()[name], recipe.bug)
    return found


@functools.cache
def measured(bug: str, name: str) -> float:
    """What the measurement for `bug` is of the adapter of that name."""
    return AILMENTS[bug].measure({**mysteries(), **sound()}[name])


@functools.cache
def lost_by_serving(name: str) -> float:
    return gap({**mysteries(), **sound()}[name])


def number(value: Any) -> float | None:
    """A number, or a tensor of one, as a finite float; None for all else."""
    if isinstance(value, (bool, str)) or value is None:
        return float(value) if isinstance(value, bool) else None
    try:
        value = float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return value if math.isfinite(value) else None


class NoNumber(Exception):
    """Of which adapter there was none, and what there was instead."""


def reading(evidence: Callable, name: str, case: Case) -> float:
    try:
        found = evidence(replace(case, name="an adapter"))  # it shall look at the adapter, not at its label
    except Exception as error:
        raise NoNumber(name, f"it raised {type(error).__name__}: {error}") from error
    value = number(found)
    if value is None:
        raise NoNumber(name, f"it returned {describe(found)}")
    return value


@dataclass(frozen=True)
class Readings:
    """What the evidence was: of the mystery, of healthy adapters, of the other mysteries."""

    mystery: float
    healthy: Mapping[str, float]
    others: Mapping[str, float]

    @classmethod
    def take(cls, evidence: Callable, name: str) -> "Readings":
        """Raises NoNumber."""
        others = {other: reading(evidence, other, case) for other, case in mysteries().items() if other != name}
        healthy = {other: reading(evidence, other, case) for other, case in sound().items()}
        return cls(reading(evidence, name, mysteries()[name]), healthy, others)

    def turned(self) -> "Readings":
        return Readings(-self.mystery, *({k: -v for k, v in d.items()} for d in (self.healthy, self.others)))

    def way(self, value: float) -> float:
        """How far it is from the middle of the healthy ones, 0, up to the mystery, 1; infinite where that is not up."""
        middle = statistics.median(self.healthy.values())
        return (value - middle) / (self.mystery - middle) if self.mystery > middle else math.inf

    def nearest(self, of: Mapping[str, float]) -> str:
        return max(of, key=of.get)

    @property
    def separate(self) -> bool:
        return all(self.way(value) <= NEAR for value in [*self.healthy.values(), *self.others.values()])
