"""Lab 4: the centre of a U, three of them foretold, a search of three runs, rsLoRA's scale and what it moves."""

import math
from collections.abc import Callable, Mapping
from itertools import permutations

from ... import rates
from ...rates import is_rate
from ..verdict import Verdict, right, wrong
from .foretold import moves, scale
from .searched import search
from .us import (
    FAR,
    NEAR,
    SHAPES,
    anchor,
    distance,
    entries,
    outside,
    plain,
    points,
    recorded,
    step,
    tell,
    up_or_down,
)

FORETOLD = tuple(name for name in rates.SETTINGS if name != rates.ANCHOR and "rsLoRA" not in name)


# ---- centre -----------------------------------------------------------------------------------------


def centre(answer: Callable) -> Verdict:
    def seen(shape: str):
        lrs, losses = SHAPES[shape]()
        return plain(answer(list(lrs), list(losses)))

    def miss(shape: str) -> float:
        value = seen(shape)
        return abs(distance(value, rates.middle(*rates.plateau(*SHAPES[shape]())))) if is_rate(value) else math.inf

    misses = {shape: miss(shape) for shape in SHAPES}
    worst = max(misses, key=misses.get)
    if misses[worst] <= NEAR:
        return right(
            "on every U that I made, steep on one side, out of order, with losses that are not finite, in other units, "
            "it finds the plateau's middle on the logarithmic axis, where twice too high is as far as twice too low."
        )
    best = min(misses, key=misses.get)
    value, wanted = seen(worst), rates.middle(*rates.plateau(*SHAPES[worst]()))
    said = f"it returned {value:.2g}" if is_rate(value) else f"it returned {tell(value)}, which is no learning rate"
    experiment = (
        f"I gave it a U that is {best} as well, and it missed by {misses[best]:.1f} octaves there"
        if best != worst and math.isfinite(misses[best])
        else "I gave it the other Us as well, and they end no better"
    )
    return wrong(
        tried=f"a U that is {worst}: {len(SHAPES[worst]()[0])} rates and the loss at each.",
        saw=f"{said}.",
        expected=f"about {wanted:.2g}, the middle of the rates whose loss is at most {rates.WITHIN} times the lowest.",
        experiment=f"{experiment}.",
        question=_centre_question(value, worst),
        more=(
            "First the lowest loss, then the rates whose loss is close to it, then their first and last in order.",
            "The middle of two rates on a logarithmic axis is the root of their product, and close means a ratio.",
        ),
    )


def _centre_question(value, shape: str) -> str:
    if not is_rate(value) or value in SHAPES[shape]()[1]:
        return "Which number on the horizontal axis belongs to the bottom of the U?"
    lrs, losses = SHAPES[shape]()
    if lrs != sorted(lrs):
        return "A list of rates need not be sorted. Which of the good ones is the lowest, and which the highest?"
    low, high = rates.plateau(lrs, losses)
    if abs(distance(value, (low + high) / 2)) < 0.3:
        return "Twice too high and twice too low shall count alike. What lies half-way between 0.001 and 0.1, then?"
    if abs(distance(value, lrs[losses.index(min(losses))])) < 0.05:
        return "The lowest point may stand at one end of a long flat floor. How far does the floor reach the other way?"
    return "Which of the rates are good enough, and does the answer depend on their order or on the unit of the loss?"


# ---- predictions ------------------------------------------------------------------------------------


def predictions(answer) -> Verdict:
    if not isinstance(answer, Mapping) or not all(is_rate(answer.get(name)) for name in FORETOLD):
        return wrong(
            tried="to read a learning rate for each of the three settings.",
            saw=f"{entries(answer, FORETOLD, is_rate)}.",
            expected="a positive number for each: the rate itself, neither its logarithm nor a number of octaves.",
            experiment=f"I read the recorded centre of {rates.ANCHOR} the same way: {anchor():.2g}.",
            question="Is the centre that you foretell higher or lower than that, and how often twice?",
            more=("Start from the anchor's centre and multiply.", "A number such as 0.004 for each of the three keys."),
        )
    off = {name: rates.octaves(answer[name], recorded(name).floor) for name in FORETOLD}
    score = points(off.values())
    worst = max(FORETOLD, key=lambda name: abs(off[name]))
    if abs(off[worst]) <= FAR:
        inside = sum(value == 0 for value in off.values())
        return right(
            f"{inside} of {len(FORETOLD)} lie on the plateau"
            + (f", and the worst is {outside(off[worst])}. " if off[worst] else ". ")
            + "The rank alone hardly moves this U: with Adam a layer's first outputs move by about s r lr, and "
            "alpha / r divides by what r multiplies. Alpha does move it.",
            score=score,
        )
    here, there = step(worst, float(answer[worst])), step(rates.ANCHOR, anchor())
    return wrong(
        tried="each rate against the plateau of its recorded U.",
        saw=f"{worst}: your {answer[worst]:.2g} is {abs(off[worst]):.2f} octaves {up_or_down(off[worst])} the plateau.",
        expected=f"every rate at most {FAR:.0f} octave outside its plateau; inside is full marks.",
        experiment=(
            f"I took one Adam step there at your rate, and one at the anchor's centre: the answers' logits moved "
            f"{here.outputs / there.outputs:.2g} times as far as the anchor's."
        ),
        question=(
            "Adam gives each number in B a step of about lr, whatever the scale. Through which factors do alpha and r "
            "then reach the output?"
        ),
        more=(
            "An output moves by s times a sum of r terms. Compare s r of this setting with the anchor's.",
            "If B alone moved, the best rate would go as 1 / (s r). At the centre A moves about as far, and the rate "
            "counts twice: what does it go as then?",
        ),
        score=score,
    )


# ---- the stretch ------------------------------------------------------------------------------------

KNOBS = {
    "Alpha": (rates.ANCHOR, "r = 8, alpha = 128"),
    "r": ("r = 1, alpha = 16", "r = 64, alpha = 16"),
    "rsLoRA": ("r = 64, alpha = 16", "r = 64, alpha = 16, rsLoRA"),
}


def transfer(answer: Callable) -> Verdict:
    misses = {}
    for old, new in permutations(rates.SETTINGS, 2):
        value = plain(answer(recorded(old).centre, rates.SETTINGS[old], rates.SETTINGS[new]))
        misses[old, new] = rates.octaves(value, recorded(new).floor) if is_rate(value) else math.inf
    worst = max(misses, key=lambda pair: abs(misses[pair]))
    if abs(misses[worst]) <= NEAR:
        return right(
            f"the worst of all {len(misses)} ordered pairs of the five settings lands {outside(misses[worst])}: one "
            "sweep is enough for all of them."
        )
    old, new = worst
    value = plain(answer(recorded(old).centre, rates.SETTINGS[old], rates.SETTINGS[new]))
    knobs = "; ".join(f"{knob} alone: {outside(misses[pair])}" for knob, pair in KNOBS.items())
    return wrong(
        tried=f"the {len(misses)} ordered pairs of the five recorded settings, each from the centre of the first.",
        saw=f"from {old} to {new} it gave {tell(value)}"
        + (f", {abs(misses[worst]):.1f} octaves {up_or_down(misses[worst])} the plateau." if is_rate(value) else "."),
        expected=f"a rate at most {NEAR} octaves outside the plateau, for each pair.",
        experiment=f"I changed one knob at a time. {knobs}.",
        question="What of s and r is the same in the settings whose centres agree, and how fast does the centre fall "
        "as it grows?",
        more=(
            "The centre falls as a power of s r, of one exponent for all pairs.",
            "Read the power off two recorded centres: the octaves between them, over the octaves of s r.",
        ),
    )


GRADERS = {
    "centre": centre,
    "predictions": predictions,
    "search": search,
    "scale": scale,
    "moves": moves,
    "transfer": transfer,
}
