"""What came of the runs: at each setting's chosen rate, the mean score over its seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from .plan import chosen
from .settings import SETTINGS, TASKS

Row = Mapping[str, Any]


def at_chosen_rate(rows: Sequence[Row], setting: str, task: str) -> list[Row]:
    """The runs of a setting on a task at the rate that validation chose, by seed; none where there are none."""
    found = [row for row in rows if row["setting"] == setting and row["task"] == task]
    if not found:
        return []
    lr = chosen(found, setting, task)
    return sorted((row for row in found if row["lr"] == lr), key=lambda row: row["seed"])


def score(row: Row) -> float:
    """Share of the test items answered right; for prose nats per token. A broken run answers nothing."""
    if row["task"] == "kjv":
        return float("inf") if row["broken"] else sum(row["test"]) / len(row["test"])
    return 0.0 if row["broken"] else row["test"].count("1") / len(row["test"])


def table(rows: Sequence[Row]) -> str:
    """Lines of text: setting, task, rate, how many seeds, mean and range of their scores."""
    lines = [f"{'setting':24} {'task':10} {'rate':>8} {'seeds':>5}  test score: mean (lowest to highest)"]
    for name in SETTINGS:
        for task in TASKS:
            if runs := at_chosen_rate(rows, name, task):
                scores = [score(row) for row in runs]
                shown = f"{sum(scores) / len(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})"
                lines.append(f"{name:24} {task:10} {runs[0]['lr']:>8g} {len(runs):>5}  {shown}")
    return "\n".join(lines)
