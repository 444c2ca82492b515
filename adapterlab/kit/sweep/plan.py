"""Which runs are still to be made, given those that are: all that the protocol asks for follows from the rows."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from .settings import EXTRA, FOLLOWED, RATES, SEEDS, SETTINGS, TASKS, Setting, Trial, rate

Row = Mapping[str, Any]


def trial_of(row: Row) -> Trial:
    return Trial(row["setting"], row["task"], row["lr"], row["seed"])


def todo(rows: Iterable[Row]) -> list[Trial]:
    """The runs that can be made now: the grid, seed by seed; then what follows from its rates. Empty: all is made."""
    rows = list(rows)
    made = {trial_of(row) for row in rows}
    asked = {(s.name, task): rates(s, task, rows) for s in _swept() for task in TASKS}
    # Tasks take turns, so that the time that is left can be told from the time that a run took.
    grid = [Trial("none", task, 0.0, 0) for task in TASKS]
    for seed in SEEDS:
        for s in _swept():
            by_task = zip_longest(*(asked[s.name, task] for task in TASKS))
            grid += [Trial(s.name, task, lr, seed) for lrs in by_task for task, lr in zip(TASKS, lrs) if lr is not None]
    missing = [trial for trial in grid if trial not in made]
    if missing:
        return missing
    followed = [
        Trial(s.name, task, chosen(rows, s.base, task), seed)
        for seed in SEEDS
        for task in FOLLOWED
        for s in SETTINGS.values()
        if s.varies
    ]
    return [trial for trial in followed if trial not in made]


def total(rows: Iterable[Row]) -> int:
    """How many runs the protocol asks for, as far as can be said now."""
    rows = list(rows)
    grid = sum(len(rates(s, task, rows)) for task in TASKS for s in _swept()) * len(SEEDS) + len(TASKS)
    return grid + len(SEEDS) * len(FOLLOWED) * sum(bool(s.varies) for s in SETTINGS.values())


def _swept() -> list[Setting]:
    return [s for s in SETTINGS.values() if not s.varies and s.method != "none"]


def rates(setting: Setting, task: str, rows: Sequence[Row]) -> tuple[float, ...]:
    """Its RATES, and up to EXTRA more beyond an end at which the best one of finished rates stands."""
    half = RATES // 2
    low, high = -half, half
    by_rate = scores(rows, setting.name, task)
    while True:
        lrs = [rate(setting.centre, k) for k in range(low, high + 1)]
        if any(len(by_rate.get(lr, ())) < len(SEEDS) for lr in lrs):
            return tuple(lrs)
        best = lrs.index(_best(by_rate, lrs))
        if best == 0 and low > -half - EXTRA:
            low -= 1
        elif best == len(lrs) - 1 and high < half + EXTRA:
            high += 1
        else:
            return tuple(lrs)


def scores(rows: Iterable[Row], setting: str, task: str) -> dict[float, list[tuple[float, float]]]:
    """Rate -> of each seed (share right on validation, minus its loss); for prose the share is 0."""
    found: dict[float, list[tuple[float, float]]] = {}
    for row in rows:
        if row["setting"] == setting and row["task"] == task:
            value = (-1.0, float("-inf"))
            if not row["broken"]:
                right = row["validation"].count("1") / len(row["validation"]) if task != "kjv" else 0.0
                value = (right, -row["validation_loss"])
            found.setdefault(row["lr"], []).append(value)
    return found


def chosen(rows: Sequence[Row], setting: str, task: str) -> float:
    """The rate with the best mean on validation; where shares are equal, the one with the lower loss.

    Raises:
        ValueError: no row of the setting on that task.
    """
    by_rate = scores(rows, setting, task)
    if not by_rate:
        raise ValueError(f"no run of {setting!r} on {task!r} is recorded: there is no rate to choose")
    return _best(by_rate, sorted(by_rate))


def _best(by_rate: Mapping[float, Sequence[tuple[float, float]]], lrs: Sequence[float]) -> float:
    def mean(lr: float) -> tuple[float, float]:
        right, loss = zip(*by_rate[lr])
        return round(sum(right) / len(right), 9), sum(loss) / len(loss)

    return max(lrs, key=mean)
