"""Lab 2: DoRA's equation, a start left behind, a test that sees the bias, the fix."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..evidence import compared, describe, draw, figure, isolate, relative
from ..verdict import Verdict, right, wrong
from .bias_bug_tests import is_dora, leave_the_start

# ---- the equation ---------------------------------------------------------------------------------


def equation(W, b, A, B, s, m) -> tuple[Tensor, Tensor | None]:
    V = W + s * B @ A
    return (m / V.norm(dim=1))[:, None] * V, b


@dataclass(frozen=True)
class Numbers:
    """A layer of DoRA's, far from its start."""

    W: Tensor
    b: Tensor | None
    A: Tensor
    B: Tensor
    s: float
    m: Tensor

    def clones(self) -> tuple:
        return tuple(t.clone() if isinstance(t, Tensor) else t for t in vars(self).values())


def numbers(d_in=12, d_out=20, r=4, s=1.5, bias=True, start=False) -> Numbers:
    W, A = draw(1, d_out, d_in), draw(2, r, d_in)
    B = torch.zeros(d_out, r).double() if start else draw(3, d_out, r) / 2
    m = W.norm(dim=1) if start else W.norm(dim=1) * (1 + 0.3 * draw(4, d_out).abs())
    return Numbers(W, draw(5, d_out) if bias else None, A, B, s, m)


def pair_or_none(found: Any) -> tuple | None:
    return tuple(found) if isinstance(found, (tuple, list)) and len(found) == 2 else None


def effective(answer: Callable) -> Verdict:
    case = numbers()
    found = pair_or_none(answer(*case.clones()))
    if found is None or not isinstance(found[0], Tensor) or found[0].shape != case.W.shape:
        return wrong(
            tried="a layer of 12 inputs and 20 outputs, r = 4, s = 1.5, with a bias.",
            saw=f"it returned {describe(found[0]) if found else 'something that is no pair'}.",
            expected="a pair: the weight, of W's shape (20, 12), and the bias.",
            experiment=f"I asked once more with 16 inputs and 16 outputs, and got {_square(answer)}.",
            question="Which of the factors has d_out rows, and which has d_in columns?",
            more=(
                "The sizes m, one per row, multiply whole rows of V; the result is as large as W.",
                "Divide each row of V by its own length, then multiply it by its m; give the bias back beside it.",
            ),
        )

    def weight_miss(**change):
        plain = numbers(**change)
        found = answer(*plain.clones())[0]
        return relative(found, equation(*plain.clones())[0])

    def bias_miss(**change):
        plain = numbers(**change)
        return relative(answer(*plain.clones())[1], plain.b)

    if weight_miss() > 1e-9:
        return wrong(
            tried="a layer of 12 inputs and 20 outputs, r = 4, s = 1.5, all numbers random.",
            saw=f"a weight that misses the equation by {figure(weight_miss())} of its norm.",
            expected="the equation's weight, to rounding.",
            experiment=isolate(
                weight_miss, {"set s = 1": {"s": 1.0}, "set B = 0 and m to the row norms": {"start": True}}
            ),
            question=_weight_question(answer, weight_miss),
            more=(
                "Build V first and look at its shape. Then ask for the length of one row by hand and compare.",
                "Three things can go wrong: the scale that goes with the product, the axis of the norm, and which "
                "matrix's norm it is: W's or V's. Change one at a time.",
            ),
        )
    if bias_miss() > 1e-9:
        return wrong(
            tried="the same layer, and its bias.",
            saw=f"the weight is right, and the bias is off by {figure(bias_miss())} of its norm.",
            expected="the bias as it came.",
            experiment=isolate(bias_miss, {"set B = 0 and m to the row norms": {"start": True}}),
            question="Does the paper's equation speak of the layer's output, or of its weight?",
            more=(
                "Write the layer's output for one input, once with the bias inside the scaling and once outside.",
                "m and V describe the weight alone. The bias is none of their business, whatever c is.",
            ),
        )
    if (bias := answer(*numbers(bias=False).clones())[1]) is not None:
        return wrong(
            tried="a layer without a bias.",
            saw=f"{describe(bias)} where there was no bias.",
            expected="None in its place.",
            experiment=f"I gave it a bias again, and the bias came back with a miss of {figure(bias_miss())}.",
            question="What should come back where nothing came in?",
            more=("Look at what you do to b when it is None.", "The second of the pair is what came in, untouched."),
        )
    return right(
        "far from the start, with s other than 1, a bias and d_in other than d_out, it is equation 5 of the paper to "
        "rounding, and the bias comes back as it went in."
    )


def _square(answer: Callable) -> str:
    found = pair_or_none(answer(*numbers(d_in=16, d_out=16).clones()))
    return "no pair either" if found is None else f"{describe(found[0])} for the weight"


def _weight_question(answer: Callable, weight_miss: Callable) -> str:
    if weight_miss(s=1.0) < 1e-9:
        return "Where does the scale alpha / r stand in the equation, and where in yours?"
    square = numbers(d_in=16, d_out=16)
    along_columns = square.W + square.s * square.B @ square.A
    along_columns = square.m / along_columns.norm(dim=0) * along_columns
    if relative(answer(*square.clones())[0], along_columns) < 1e-9:
        return "Each output feature has one m. Along which axis of W does one output feature lie?"
    return "m is to be the length of a row of the result. What length do the rows of yours have?"


# ---- the fix --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Output:
    """What the fix is given: t, the LoRA output with the bias in it; c; the bias."""

    t: Tensor
    c: Tensor
    b: Tensor | None


def outputs(bias=True, zeros=False, one=False, dtype=torch.float64) -> Output:
    b = draw(8, 20, dtype=dtype) * (not zeros) if bias else None
    c = torch.ones(20, dtype=torch.float64) if one else 1 + 0.5 * draw(9, 20).abs()
    return Output(draw(10, 6, 20, dtype=dtype), c.to(dtype), b)


def rescaled(case: Output) -> Tensor:
    b = 0 if case.b is None else case.b.double()
    return case.c.double() * (case.t.double() - b) + b


def rescale(answer: Callable) -> Verdict:
    def run(case: Output):
        return answer(case.t.clone(), case.c.clone(), None if case.b is None else case.b.clone())

    def miss(**change):
        return relative(run(outputs(**change)), rescaled(outputs(**change)))

    if miss() > 1e-9:
        return wrong(
            tried="6 inputs to a layer of 20 outputs with a bias, every c above 1.",
            saw=f"{compared(run(outputs()), rescaled(outputs()))}.",
            expected="c times what is not the bias, and the bias once, as it is.",
            experiment=isolate(miss, {"took the bias away": {"bias": False}, "set every c = 1": {"one": True}}),
            question="t holds the bias already. What has to happen to it before c may multiply?",
            more=(
                "Write t as a sum of two parts. Only one of them may be scaled.",
                "Take the bias out of t, scale the rest, and see that the bias is there once in the end.",
            ),
        )
    if miss(bias=False) > 1e-9:
        return wrong(
            tried="the same without a bias.",
            saw=f"off by {figure(miss(bias=False))} of its norm.",
            expected="c times t.",
            experiment=f"I put a bias of zeros in its place, and the miss was {figure(miss(zeros=True))}.",
            question="What is b where the layer has no bias?",
            more=("b may be None.", "Without a bias the whole of t may be scaled."),
        )
    changed = {}
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        case = outputs(one=True, dtype=dtype)
        changed[name] = (run(case) != case.t).double().mean().item()
    if max(changed.values()):
        return wrong(
            tried="every c exactly 1, as at the start.",
            saw=f"{max(changed.values()):.0%} of the outputs differ from t in their last bits.",
            expected="t, bit for bit: at the start an adapter changes nothing.",
            experiment="I took the bias away, and the outputs were t's again."
            if torch.equal(run(outputs(one=True, bias=False)), outputs(one=True).t)
            else "I took the bias away as well, and the outputs still differed.",
            question="Subtracting b and adding it again rounds twice. What could you add to t that is 0 when c is 1?",
            more=(
                "Start from t and add a correction, instead of taking t apart and putting it together.",
                "The correction is a multiple of t without its bias; the multiple is how far c is from 1.",
            ),
        )
    return right(
        "far from the start it scales all but the bias, it does without a bias, and where every c is 1 it gives t back "
        "bit for bit: nothing is taken out of it that would have to be put back."
    )


# ---- the stretch: serve what was trained wrong ----------------------------------------------------


def rescue(answer: Callable) -> Verdict:
    def trained(case: Numbers, x: Tensor) -> Tensor:
        V = case.W + case.s * case.B @ case.A
        return case.m / V.norm(dim=1) * F.linear(x, V, case.b)

    x = draw(11, 9, 12)

    def miss(**change):
        case = numbers(**change)
        found = pair_or_none(answer(*case.clones()))
        if found is None or not isinstance(found[0], Tensor) or found[0].shape != case.W.shape:
            return float("inf")
        return relative(F.linear(x, *found), trained(case, x))

    if miss() > 1e-9:
        return wrong(
            tried="a layer trained with its bias scaled, served as a plain linear layer with your weight and bias.",
            saw=f"outputs that are off by {figure(miss())} of their norm."
            if miss() < float("inf")
            else "no pair of a weight of W's shape and a bias.",
            expected="the outputs that it was trained to give.",
            experiment=isolate(miss, {"took the bias away": {"bias": False}, "put it at its start": {"start": True}}),
            question="The buggy layer's output is c (V x + b). Which part of that multiplies x, and which does not?",
            more=(
                "Multiply out c (V x + b). It is a linear layer all the same.",
                "The weight is the right DoRA's. Its bias is not b any more: it is what b became.",
            ),
        )
    return right(
        "a plain layer with that weight and bias does what was trained, bug and all: nothing has to be trained again, "
        "and any runtime can serve it."
    )


GRADERS = {
    "effective": effective,
    "leave_the_start": leave_the_start,
    "is_dora": is_dora,
    "rescale": rescale,
    "rescue": rescue,
}
