"""Whether a search finds a U's centre with three runs: tried on the recorded Us."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from ... import rates
from ...rates import is_rate
from ..verdict import Verdict, right, wrong
from .us import NEAR, outside, plain, recorded, tell, up_or_down

OFF = (0.0, -1.5, -0.75, 0.75, 1.5)  # octaves that guesses are off by
MOVED = (1.0, 1 / 40, 6.0, 1 / 7, 30.0)  # times a recorded U's rates, so that no rate is good for all


def lowest_of_three(run: Callable[[float], float], guess: float) -> float:
    """A plain search, for a lab that goes on while the reader's own is not right yet."""
    return min((guess / 2, guess, 2 * guess), key=run)


@dataclass
class Case:
    """One recorded U, moved along the axis, and what a search made of it."""

    name: str
    moved: float
    off: float
    asked: dict[float, float] = field(default_factory=dict)  # rate -> loss
    calls: int = 0
    value: object = None

    def run(self, lr: float) -> float:
        lr = plain(lr)
        self.calls += 1
        measured = recorded(self.name)
        self.asked[lr] = loss_at(lr / self.moved, measured.rates, measured.mean)
        return self.asked[lr]

    @property
    def miss(self) -> float:
        return rates.octaves(self.value / self.moved, recorded(self.name).floor) if is_rate(self.value) else math.inf

    @property
    def astray(self) -> bool:
        return self.value in self.asked and self.asked[self.value] > min(self.asked.values())


def loss_at(lr: float, lrs: list[float], losses: list[float]) -> float:
    """Straight between the recorded points; flat before the first, and rising with the rate after the last."""
    if not lrs[0] < lr < lrs[-1]:
        return losses[0] if lr <= lrs[0] else losses[-1] * lr / lrs[-1]
    k = next(k for k, beyond in enumerate(lrs) if beyond >= lr)
    share = math.log(lr / lrs[k - 1]) / math.log(lrs[k] / lrs[k - 1])
    return losses[k - 1] + share * (losses[k] - losses[k - 1])


def search(answer: Callable) -> Verdict:
    cases = [Case(name, moved, off) for name, moved in zip(rates.SETTINGS, MOVED) for off in OFF]
    for case in cases:
        case.value = plain(answer(case.run, recorded(case.name).centre * case.moved * 2**case.off))
    worst = max(cases, key=lambda case: abs(case.miss))
    most = max(case.calls for case in cases)
    if abs(worst.miss) <= NEAR and most <= 3:
        return right(
            f"on the five recorded Us, moved along the axis, with guesses up to {OFF[-1]} octaves off, the worst end "
            f"is {outside(worst.miss)}, and it asks for at most {most} runs."
        )
    saw, experiment, question = _fault(cases, worst, most)
    return wrong(
        tried=f"the five recorded Us, moved along the axis: `run` looks the loss up, and guesses are 0 to {OFF[-1]} "
        "octaves off.",
        saw=f"{saw}.",
        expected=f"a rate at most {NEAR} octaves outside the plateau, from at most three runs.",
        experiment=f"{experiment}.",
        question=question,
        more=(
            "Three runs at rates in equal ratios around the guess, an octave or so apart, show which way is down.",
            "The lowest of three is enough if they are an octave or so apart; with wider steps, lay a parabola through "
            "the logarithms of rate and loss.",
        ),
    )


def _fault(cases: list[Case], worst: Case, most: int) -> tuple[str, str, str]:
    """What was seen, the experiment that isolates it, and the question that it leads to."""
    at_centre = [case for case in cases if case.off == 0]
    good = sum(abs(case.miss) <= NEAR for case in at_centre)
    told_centres = f"I gave it the true centres as guesses, and {good} of {len(at_centre)} ended well"
    if not is_rate(worst.value):
        return f"it returned {tell(worst.value)}, which is no learning rate", told_centres, QUESTIONS["no rate"]
    if all(case.value in case.asked.values() for case in cases):
        equal = f"I compared what it returned, {tell(worst.value)}, with the losses it was told: it is one of them"
        return f"it returned {tell(worst.value)}", equal, QUESTIONS["no rate"]
    if most > 3:
        return f"it asked for {most} runs", told_centres, QUESTIONS["runs"]
    saw = f"with a guess {abs(worst.off):g} octaves off for {worst.name}, it ended {abs(worst.miss):.1f} octaves "
    saw += f"{up_or_down(worst.miss)} the plateau, after {worst.calls} runs"
    if len({tuple(case.asked) for case in cases}) == 1 and most:
        same = "I moved the U along the axis and the guess with it, and it asked for the same rates"
        return saw, same, QUESTIONS["guess"]
    if any(case.astray for case in cases):
        count = sum(case.astray for case in cases)
        higher = "I compared the loss where it ended with the lowest that it had seen, and it was higher"
        return saw, f"{higher} in {count} of {len(cases)} cases", QUESTIONS["astray"]
    return saw, told_centres, QUESTIONS["reach"]


QUESTIONS = {
    "no rate": "`run` gives a loss. What does whoever called you want to know?",
    "runs": "The budget is twelve runs for four Us. How many has each?",
    "guess": "The guess is all that you know of where this U lies. Where does it enter?",
    "astray": "Of the rates that you tried, to which one would you go back?",
    "reach": "The guess may be wrong by 1.5 octaves either way. Which rates can you reach from it, and how finely?",
}
