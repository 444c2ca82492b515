"""The house's rows, read from their record."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from ... import Variant
from ..show import Table
from ..style import MARKS
from . import bootstrap
from .recipe import SETTINGS


@dataclass(frozen=True, eq=False)
class Row:
    """One variant within the budget, at its best rate.

    Attributes:
        name: of the variant.
        parameters: that it trained.
        lr: its rate, chosen on validation alone.
        seeds: of the runs that the row is the mean of.
        validation: (items,), float64, the share of the runs that answered each validation item right.
    """

    name: str
    parameters: int
    lr: float
    seeds: tuple[int, ...]
    validation: Tensor
    _sealed: Tensor  # (seeds, items), 0 or 1

    @property
    def variant(self) -> Variant:
        return SETTINGS[self.name]

    @property
    def label(self) -> str:
        return MARKS[self.name].label

    @property
    def score(self) -> float:
        """Share of the sealed split that its runs answered right."""
        return self._sealed.mean().item()

    @property
    def by_seed(self) -> list[float]:
        return self._sealed.mean(1).tolist()

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, over which items were asked."""
        return bootstrap.of_mean(self._sealed.mean(0))


@cache
def record() -> dict:
    """What `python -m adapterlab.kit.house` wrote."""
    return json.loads((resources.files("adapterlab.kit") / "data/house/sub_neg.json").read_text())


def rows() -> dict[str, Row]:
    """Name -> row, from the best on the sealed split to the worst."""
    found = [
        Row(
            row["variant"],
            row["parameters"],
            row["lr"],
            tuple(row["seeds"]),
            _bits(row["validation"]).mean(0),
            _bits(row["sealed"]),
        )
        for row in record()["rows"].values()
    ]
    return {row.name: row for row in sorted(found, key=lambda row: -row.score)}


def _bits(runs: list[str]) -> Tensor:
    return torch.tensor([[int(bit) for bit in bits] for bits in runs], dtype=torch.float64)


def on_validation(name: str, interval: Callable, decide: Callable) -> Table:
    """One row against all others on validation, by an interval and a decision of one's own.

    Args:
        interval: (mine, theirs) -> (low, high); decide: (low, high) -> a word.
    """
    mine, lines = rows()[name], []
    for theirs in rows().values():
        if theirs.name != name:
            difference = (mine.validation - theirs.validation).mean().item()
            found = interval(mine.validation.clone(), theirs.validation.clone())
            lines.append((theirs.label, f"{difference:+.2f}", *decided(found, decide)))
    return Table([f"{mine.label} against", "difference", "interval", "so it is"], lines)


def decided(found: Any, decide: Callable = bootstrap.decide) -> tuple[str, str]:
    """An interval in words, and what it decides; "none" where it is no pair of numbers."""
    try:
        low, high = (float(value) for value in found)
    except (TypeError, ValueError):  # a reader's own function, which may not be right yet
        return "none", ""
    return f"{low:+.2f} to {high:+.2f}", decide(low, high)
