"""Judges of a paired bootstrap: the interval, what it decides, and how many items it takes."""

import math
from typing import Any

import torch
from torch import Tensor

from ..evidence import describe, draw
from ..verdict import Verdict, right, wrong

TAIL = 0.025


def exact(values: Tensor) -> tuple[float, float]:
    """The 95 % percentiles of the mean of n draws, with replacement, from n values among -1, 0 and 1.

    By convolution: what a bootstrap of endlessly many draws would find.
    """
    n = len(values)
    share = torch.stack([(values == v).double().mean() for v in (-1, 0, 1)])
    law = torch.ones(1, dtype=torch.float64)  # of the sum, from -k to k
    for _ in range(n):
        law = sum(torch.nn.functional.pad(law, (k, 2 - k)) * share[k] for k in range(3))
    below = law.cumsum(0)
    return tuple((int((below < tail).sum()) - n) / n for tail in (TAIL, 1 - TAIL))


def scores(better: int, worse: int, same: int) -> tuple[Tensor, Tensor]:
    """mine, theirs (n,): mine alone right in `better` items, theirs alone in `worse`, in `same` both or neither."""
    both = torch.arange(same) % 2
    mine = torch.cat([torch.ones(better), torch.zeros(worse), both]).double()
    theirs = torch.cat([torch.zeros(better), torch.ones(worse), both]).double()
    order = draw(1, len(mine)).argsort()
    return mine[order], theirs[order]


CASES = {(20, 0, 80): 0.011, (60, 20, 120): 0.011, (4, 12, 24): 0.026, (1, 0, 4): 1e-9}  # and how far off is close


def interval(answer) -> Verdict:
    mine, theirs = scores(60, 20, 120)
    found = answer(mine.clone(), theirs.clone())
    if (pair := _pair(found)) is None:
        return _no_pair(answer, found)
    kept = mine.clone(), theirs.clone()
    answer(*kept)
    if not (torch.equal(kept[0], mine) and torch.equal(kept[1], theirs)):
        return _said(
            "the scores of 200 items, twice.",
            "the second call found other scores than the first: yours has changed them.",
            "scores that are left as they came.",
            "I compared them before and after one call, and they differ.",
            "Which line writes into what it was given?",
            "Index into the scores, and do not shuffle or sort them in place.",
        )
    torch.manual_seed(1)
    if _pair(answer(mine.clone(), theirs.clone())) != pair:
        return _said(
            "the same scores and the same seed, twice.",
            "two different intervals.",
            "the same interval, so that others can check it.",
            "I moved torch's global seed between the two calls, and the interval moved with it.",
            "Where do your draws take their randomness from?",
            "Make a generator of your own from `seed`, and hand it to whatever draws.",
        )
    low, high = _pair(answer(mine.clone(), mine.clone())) or (math.nan, math.nan)
    if not (abs(low) < 1e-9 and abs(high) < 1e-9):
        return _said(
            "one model against itself: 200 items, the same scores twice.",
            _told((low, high)) + ".",
            "0 to 0: on every item the difference is none.",
            f"I gave it ones against ones, where all draws are alike, and got {_told(_ones(answer))}.",
            "When an item is drawn for the one, is it drawn for the other?",
            "Both answered the same items. Draw items, and look both models up at them.",
        )
    for case, close in CASES.items():
        mine, theirs = scores(*case)
        low, high = exact(mine - theirs)
        seen = _pair(answer(mine.clone(), theirs.clone())) or (math.nan, math.nan)
        if not (abs(seen[0] - low) <= close and abs(seen[1] - high) <= close):
            return _off(answer, case, seen, (low, high))
    return right(
        "it is 0 to 0 for a model against itself, agrees with percentiles that can be computed without any draws, on 5 "
        "items as on 200, and the same seed gives the same interval."
    )


def _ones(answer) -> tuple[float, float] | None:
    return _pair(answer(torch.ones(200).double(), torch.ones(200).double()))


def _off(answer, case, seen, known) -> Verdict:
    n, width = sum(case), known[1] - known[0]
    mine, theirs = scores(*case)
    turned = _pair(answer(theirs.clone(), mine.clone()))
    times = (seen[1] - seen[0]) / width
    long = scores(*(4 * k for k in case))
    longer = _pair(answer(*(s.clone() for s in long)))
    grown = (longer[1] - longer[0]) / (seen[1] - seen[0]) if longer and seen[1] > seen[0] else math.nan
    experiment = f"I took four times as many items of the same kind, and the width went to {grown:.2f} of what it was."
    if turned and max(abs(turned[0] - known[0]), abs(turned[1] - known[1])) < 0.03:
        question, hint = (
            "Which of the two is taken from which?",
            "It is mine less theirs: above 0 where mine is better.",
        )
        experiment = f"I swapped mine and theirs, and it was {_told(turned)}."
    elif seen[0] == seen[1]:
        question, hint = (
            "How many different items are there in one of your draws?",
            "A draw takes n items of n with replacement: some twice, some not at all. Without it, all draws are alike.",
        )
        experiment = f"I took four times as many items of the same kind, and it was {_told(longer)}: no width either."
    elif grown > 0.8:
        question, hint = (
            "Is this the spread of one item's difference, or that of the mean of n?",
            "Every draw gives one number, its mean; the percentiles are those of these means.",
        )
    elif times > 1.15 and n > 5:
        question, hint = (
            "How many items has one of your draws?",
            "A draw has as many items as there are scores: its mean must be as uncertain as theirs.",
        )
    elif times < 0.9 and n > 5:
        question, hint = (
            "How much of the draws lies outside your two ends, on each side?",
            "95 % inside leaves 2.5 % below the lower end, and as much above the upper one.",
        )
    else:
        question, hint = (
            "Are these percentiles of the draws, or something that supposes a symmetric bell?",
            "Sort the means of all draws and read two of them off. No standard deviation is needed, and no mirror.",
        )
    return _said(
        f"{n} items: mine alone is right on {case[0]}, theirs alone on {case[1]}.",
        f"{_told(seen)}, {times:.1f} times as wide as it should be.",
        f"{_told(known)}, which for so few values can be computed without any draws.",
        experiment,
        question,
        hint,
    )


def _no_pair(answer, found) -> Verdict:
    again = answer(torch.ones(4).double(), torch.zeros(4).double())
    return _said(
        "the scores of 200 items.",
        f"{_shown(found)}.",
        "two finite numbers: low, and high that is not below it.",
        f"I tried four items, mine all right and theirs all wrong, and got {_shown(again)}.",
        "What does the last line give back?",
        "Two percentiles of the draws' means, the lower one first.",
    )


def _pair(found: Any) -> tuple[float, float] | None:
    try:
        low, high = (float(value) for value in found)
    except (TypeError, ValueError, RuntimeError):
        return None
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low <= high else None


def _shown(found: Any) -> str:
    return ", then ".join(map(describe, found)) if isinstance(found, (tuple, list)) else describe(found)


def _told(pair) -> str:
    return "no interval" if pair is None else f"{pair[0]:+.2f} to {pair[1]:+.2f}".replace("-0.00", "+0.00")


def _said(tried: str, saw: str, expected: str, experiment: str, question: str, hint: str) -> Verdict:
    last = "In order: draw items with replacement, average the differences on them, repeat, take two percentiles."
    return wrong(tried=tried, saw=saw, expected=expected, experiment=experiment, question=question, more=(hint, last))


# ---- what it decides ------------------------------------------------------------------------------


def word(low: float, high: float) -> str:
    return "better" if low > 0 else "worse" if high < 0 else "tied"


INTERVALS = ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1), (-0.01, 0.3), (-0.3, 0.01), (0.0, 0.2), (-0.2, 0.0), (0.0, 0.0))


def decide(answer) -> Verdict:
    for low, high in INTERVALS:
        seen = answer(low, high)
        if not (isinstance(seen, str) and seen == word(low, high)):
            decided = word(low, high) != "tied"
            other = (-high, -low) if decided else (low + 0.02, high + 0.02)
            did = "mirrored it about 0" if decided else "moved both ends up by 0.02"
            return wrong(
                tried=f"the interval {low:+g} to {high:+g} of mine less theirs.",
                saw=f"{describe(seen)}.",
                expected=f"{word(low, high)!r}.",
                experiment=f"I {did}, to {other[0]:+g} to {other[1]:+g}, and got {describe(answer(*other))}.",
                question=_asked(seen, 0.0 in (low, high)),
                more=(
                    "Only an interval that lies wholly on one side of 0 decides anything, and its ends belong to it.",
                    "Where 0 is inside, no word about the middle of the interval is warranted: it is a tie.",
                ),
            )
    return right("it speaks up only where the whole interval lies on one side of 0, and calls everything else a tie.")


def _asked(seen: Any, edge: bool) -> str:
    if seen not in ("better", "worse", "tied"):
        return "Which three words does the docstring ask for?"
    return "Is a difference of exactly 0 in the interval?" if edge else "Which differences does it leave possible?"


# ---- how many items it takes ----------------------------------------------------------------------

Z = 1.959964


def items(gap: float, differ: float) -> float:
    """n at which 1.96 standard errors of the mean difference are as large as the gap."""
    return Z**2 * (differ - gap**2) / gap**2


QUESTIONS = ((0.02, 0.1), (0.05, 0.1), (0.05, 0.3), (0.1, 0.15), (0.2, 0.3))


def enough(answer) -> Verdict:
    for gap, differ in QUESTIONS:
        seen, needed = answer(gap, differ), items(gap, differ)
        number = isinstance(seen, (int, float)) and not isinstance(seen, bool) and math.isfinite(seen)
        if not (number and abs(seen - needed) <= 0.02 * needed + 1):
            half = answer(gap / 2, differ)
            grown = f"{half / seen:.2g}" if number and seen and isinstance(half, (int, float)) else "no number of"
            return wrong(
                tried=f"a gap of {gap:g} between two models that differ on {differ:.0%} of the items.",
                saw=f"{seen:.4g} items." if number else f"{describe(seen)}.",
                expected=f"about {needed:.0f}, where half the interval's width is as large as the gap.",
                experiment=f"I halved the gap: your answer grew {grown} times, and should by "
                f"{items(gap / 2, differ) / needed:.2g}.",
                question=_why_not(seen if number else math.nan, gap, differ),
                more=(
                    "A difference is +1, -1 or 0. Its mean is the gap, and that of its square the share that differ.",
                    "Write the variance of one difference, the standard error of the mean of n, and ask when 1.96 of "
                    "those are the gap.",
                ),
            )
    return right(
        "half the gap takes four times the items, and a little more. A tie is what too few items look like: it does "
        "not say that two methods are equal."
    )


def _why_not(seen: float, gap: float, differ: float) -> str:
    if math.isnan(seen):
        return "What does the last line give back?"
    if abs(seen - items(gap, differ) / Z**2) < 0.05 * seen + 1:
        return "How many standard errors does a 95 % interval reach to either side?"
    if abs(seen - Z**2 * differ / gap**2) < 0.01 * seen + 1:
        return "Is the mean of the squares a variance, where the mean is not 0?"
    return "With which power of n does the width of the interval fall?"
