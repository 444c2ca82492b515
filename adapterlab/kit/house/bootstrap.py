"""Is a difference in scores more than the luck of which items were asked?"""

import torch
from torch import Tensor

DRAWS, LEVEL = 4000, 0.95


def interval(mine: Tensor, theirs: Tensor, seed: int = 0) -> tuple[float, float]:
    """The paired bootstrap's 95 % interval of mean(mine) - mean(theirs), by percentiles.

    Args:
        mine, theirs: (n,), what each got for the same n items: 0 or 1, or a mean over seeds.
        seed: of the draws.

    Raises:
        ValueError: they are not of one length, or are empty.
    """
    if mine.shape != theirs.shape or mine.ndim != 1 or not len(mine):
        raise ValueError(f"{tuple(mine.shape)} against {tuple(theirs.shape)}: pass the scores of the same items")
    return of_mean(mine.double() - theirs.double(), seed)


def of_mean(values: Tensor, seed: int = 0) -> tuple[float, float]:
    """The bootstrap's 95 % interval of the mean of values (n,), by percentiles."""
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = means(values, seed).quantile(tails).tolist()
    return low, high


def means(values: Tensor, seed: int = 0) -> Tensor:
    """(draws,), float64: the mean of n draws with replacement from values (n,), drawn again and again."""
    items = torch.randint(len(values), (DRAWS, len(values)), generator=torch.Generator().manual_seed(seed))
    return values.double()[items].mean(1)


def decide(low: float, high: float) -> str:
    """ "better", "worse", or "tied" where 0 is in the interval, its ends included."""
    return "better" if low > 0 else "worse" if high < 0 else "tied"
