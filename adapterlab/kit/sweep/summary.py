"""What came of the runs: at each setting's chosen rate, the score and how sure it is; who differs from whom."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from .plan import chosen
from .settings import SETTINGS, TASKS
from .statistics import Difference, difference, holm, interval

Row = Mapping[str, Any]
LEVEL = 0.05


def at_chosen_rate(rows: Iterable[Row], setting: str, task: str) -> list[Row]:
    """The runs of a setting on a task at the rate that validation chose, by seed; none where there are none."""
    found = [row for row in rows if row["setting"] == setting and row["task"] == task]
    if not found:
        return []
    lr = chosen(found, setting, task)
    return sorted((row for row in found if row["lr"] == lr), key=lambda row: row["seed"])


def scores(runs: Sequence[Row]) -> Tensor:
    """(seeds, items), float64: 1 or 0 for each test item; for prose the nats per token of each row, which are better
    the fewer they are. A broken run answers nothing right, and knows nothing of prose: its nats are infinite."""
    width = max((len(row["test"]) for row in runs if not row["broken"]), default=1)
    nothing = math.inf if runs[0]["task"] == "kjv" else 0.0
    return torch.tensor(
        [[nothing] * width if row["broken"] else [float(item) for item in row["test"]] for row in runs],
        dtype=torch.float64,
    )


def score(row: Row) -> float:
    return scores([row]).mean().item()


def differences(
    rows: Sequence[Row], names: Sequence[str], task: str
) -> dict[tuple[str, str], tuple[Difference, float]]:
    """(a, b) -> their difference at their chosen rates, over the seeds that both have, and its p as Holm corrects it
    for all pairs that can be compared: those with at least two seeds in common, and all of them finite."""
    runs = {name: {row["seed"]: row for row in at_chosen_rate(rows, name, task)} for name in names}
    found = {}
    for a, b in combinations(names, 2):
        seeds = sorted(runs[a].keys() & runs[b].keys())
        if len(seeds) < 2:
            continue
        pair = [scores([runs[name][seed] for seed in seeds]) for name in (a, b)]
        if all(values.isfinite().all() for values in pair):
            found[a, b] = difference(*pair)
    return {pair: (d, p) for (pair, d), p in zip(found.items(), holm([d.p for d in found.values()]))}


def table(rows: Sequence[Row]) -> str:
    """Lines of text: setting, task, rate, how many seeds, mean score and its 95% interval."""
    lines = [f"{'setting':24} {'task':10} {'rate':>8} {'seeds':>5}  test score, 95% of seeds and items"]
    for name in SETTINGS:
        for task in TASKS:
            if runs := at_chosen_rate(rows, name, task):
                values = scores(runs)
                shown = "broke"
                if values.isfinite().all():
                    shown = "{:.3f}  ({:.3f} to {:.3f})".format(values.mean().item(), *interval(values))
                lines.append(f"{name:24} {task:10} {runs[0]['lr']:>8g} {len(runs):>5}  {shown}")
    return "\n".join(lines + [told for task in TASKS if (told := tied(rows, task))])


def tied(rows: Sequence[Row], task: str) -> str:
    """Who is best at equal rank, and who cannot be told from the best; "" where fewer than two can be compared."""
    names = [s.name for s in SETTINGS.values() if not s.varies and s.name == s.method and s.method != "none"]
    compared = differences(rows, names, task)
    means = {
        name: scores(at_chosen_rate(rows, name, task)).mean().item() for name in {n for pair in compared for n in pair}
    }
    if not means:
        return ""
    best = (min if task == "kjv" else max)(sorted(means), key=means.get)
    ties = sorted((set(pair) - {best}).pop() for pair, (_, p) in compared.items() if best in pair and p >= LEVEL)
    return f"{task}: {best} is best, " + (f"tied with {', '.join(ties)}" if ties else "and tied with none")
