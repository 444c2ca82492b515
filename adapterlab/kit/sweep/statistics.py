"""How sure one can be of a score, and of a difference, with few seeds and many items.

Every seed answers every item, so a mean varies for three reasons: the seed, the item, and both together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DRAWS = 2000
POINTS = 20_001  # of the integral under Student's curve


def interval(scores: Tensor, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap over seeds and items: where the mean falls in `level` of the draws.

    A draw from n seeds varies (n - 1) / n times as much as n new ones would, so its distance is widened by as much.

    Args:
        scores: (seeds, items); the seeds may be one, and then only items are drawn.
    """
    n, items = scores.shape
    generator = torch.Generator().manual_seed(seed)
    scores = scores.double()
    by_item = scores - scores.mean(1, keepdim=True)
    drawn_items = torch.randint(items, (DRAWS, items), generator=generator)
    drawn_seeds = torch.randint(n, (DRAWS, n), generator=generator)
    weights = torch.zeros(DRAWS, n, dtype=torch.float64).scatter_add_(
        1, drawn_seeds, torch.ones(DRAWS, n, dtype=torch.float64)
    )
    weights = weights / n  # (draws, seeds)
    within = torch.stack([by_item[:, some].mean(1) for some in drawn_items])  # (draws, seeds)
    widened = math.sqrt(n / (n - 1)) if n > 1 else 0.0
    between = (weights * (scores.mean(1) - scores.mean())).sum(1) * widened
    means = scores.mean() + between + (weights * within).sum(1)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = means.quantile(ends).tolist()
    return low, high


@dataclass(frozen=True)
class Difference:
    """The mean difference of two settings, its standard error, the error's degrees of freedom, and the two-sided p."""

    mean: float
    error: float
    df: float
    p: float


def difference(a: Tensor, b: Tensor) -> Difference:
    """Of two settings that saw the same seeds and items, each (seeds, items) with at least two of both.

    Seeds and items are both drawn from many (two-way random effects); Satterthwaite's degrees of freedom. With five
    seeds all on one side is no proof: that happens by chance once in sixteen.
    """
    if a.shape != b.shape or min(a.shape) < 2:
        raise ValueError(
            f"scores of shapes {tuple(a.shape)} and {tuple(b.shape)}: the same two seeds or more are needed"
        )
    d = a.double() - b.double()
    n, items = d.shape
    mean = d.mean()
    rows, columns = d.mean(1) - mean, d.mean(0) - mean
    rest = d - mean - rows[:, None] - columns
    by_seed = items * rows.square().sum() / (n - 1)
    by_item = n * columns.square().sum() / (items - 1)
    by_both = rest.square().sum() / ((n - 1) * (items - 1))
    # Of three mean squares; where the last is larger than one of the others, that one counts as nothing but it.
    square = (torch.maximum(by_seed, by_both) + torch.maximum(by_item, by_both) - by_both).item() / (n * items)
    if square == 0:
        return Difference(mean.item(), 0.0, math.inf, 1.0 if mean == 0 else 0.0)
    parts = [(by_seed, n - 1), (by_item, items - 1), (by_both, (n - 1) * (items - 1))]
    df = (square * n * items) ** 2 / sum(part.item() ** 2 / free for part, free in parts)
    df = max(df, n - 1)  # what the seeds alone would give
    t = abs(mean.item()) / math.sqrt(square)
    return Difference(mean.item(), math.sqrt(square), df, two_sided(t, df))


def two_sided(t: float, df: float) -> float:
    """The chance that Student's t with `df` degrees of freedom is at least so far from 0, by Simpson's rule.

    With t = sqrt(df) tan(x) what lies within t is the integral of cos(x)^(df - 1) from 0 to arctan(t / sqrt(df)).
    """
    x = torch.linspace(math.atan(t / math.sqrt(df)), math.pi / 2, POINTS, dtype=torch.float64)
    log_constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(math.pi) / 2
    y = torch.exp((df - 1) * torch.log(torch.cos(x).clamp(min=1e-300)) + log_constant)
    weights = torch.full((POINTS,), 2.0, dtype=torch.float64)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    return min(1.0, 2 * (weights * y).sum().item() * (x[1] - x[0]).item() / 3)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction for so many comparisons: each p as it must be judged against the level, in the order given."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = least
    return corrected
