"""Is it a test of HRA? It is tried on turns that are right and on turns that are not."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..evidence import describe, figure, relative
from ..verdict import Verdict, right, wrong
from . import mirrors
from .mirrors import through_the_matrix


class Seen:
    """A turn that remembers what it was called with."""

    def __init__(self, turn: mirrors.Turn):
        self.turn, self.calls = turn, []

    def __call__(self, x: Tensor, U: Tensor) -> Tensor:
        self.calls.append((x.detach().clone(), U.detach().clone()))
        return self.turn(x, U)

    def gap(self) -> float:
        """The largest miss of this turn against x R^T on the numbers it was called with."""
        return max(relative(self.turn(x, U), through_the_matrix(x.double(), U.double())) for x, U in self.calls)


def verdict_of(answer: Callable, turn: Seen) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return answer(turn)


WHERE = {  # what sees it, asked
    "does nothing at all": "At which U does R leave everything where it is, and at which not?",
    "takes the mirrors in the other order": "At which U are R and its transpose the same, and at which not?",
    "divides by the length of u and not by its square": "How long are the rows of the U that you try?",
    "leaves one mirror out": "At which U does a mirror more or less make no difference?",
}


def agrees(answer: Callable) -> Verdict:
    for how, turn in {**mirrors.RIGHT, **mirrors.WRONG}.items():
        seen = Seen(turn)
        said = verdict_of(answer, seen)
        if isinstance(said, Tensor) and said.numel() == 1:
            said = said.item()
        if not isinstance(said, bool):
            return _no_bool(answer, how, said)
        if said != (how in mirrors.RIGHT):
            return _misjudged(answer, how, seen)
    return right(
        "it passes the three right ones, however they are computed, and none of the four wrong ones: it leaves the "
        "start, where R and its transpose are the same, and compares with the dense formula."
    )


def _no_bool(answer: Callable, how: str, said: Any) -> Verdict:
    other = verdict_of(answer, Seen(mirrors.nothing))
    return wrong(
        tried=f"your test on a turn that {how}.",
        saw=f"it returned {describe(said)}.",
        expected="True or False.",
        experiment=f"I gave it a turn that does nothing at all, and it returned {describe(other)}.",
        question="What should a test say of what it tests?",
        more=("Compare, and return the outcome.", "torch.allclose gives a bool; a comparison of tensors a tensor."),
    )


def _misjudged(answer: Callable, how: str, seen: Seen) -> Verdict:
    passed = how in mirrors.WRONG
    if not seen.calls:
        other = verdict_of(answer, Seen(mirrors.nothing))
        experiment = f"I counted its calls of the turn: none. Of a turn that does nothing it says {other} as well"
        question = "How can a test judge what it never calls?"
    elif passed:
        gap = seen.gap()
        experiment = "I compared the two on the very numbers that your test used, and they differ by " + (
            f"{figure(gap)}: there was nothing to see" if gap < 1e-5 else f"{figure(gap)}: it was there to be seen"
        )
        question = (
            WHERE[how]
            if gap < 1e-5
            else "What does your test compare, and with what? Which wrong turns share that property?"
        )
    else:
        swapped = verdict_of(answer, Seen(mirrors.other_order)) is True
        experiment = (
            f"On the numbers that your test used this turn is off by {figure(seen.gap())}. I gave your test one that "
            f"takes the mirrors in the other order, and it {'passes' if swapped else 'does not pass either'}"
        )
        question = (
            "Which of R and R^T stands behind x, if W' = W R and y = x W'^T?"
            if swapped
            else "How close do two right answers have to be, if they round differently?"
        )
    return wrong(
        tried=f"your test on a turn that {how}.",
        saw="it passes." if passed else "it does not pass.",
        expected="it passes." if not passed else "that it is turned away.",
        experiment=f"{experiment}.",
        question=question,
        more=(
            "Build R as a dense matrix, mirror by mirror, in float64, and compare y = x R^T W^T with F.linear(x, W R).",
            "The rows of U must be different from each other, not orthogonal to each other, and not all of length 1.",
        ),
    )
