"""Judge of how a LoRA starts: A, B and the scale."""

from typing import Any

import torch
from torch import Tensor

from ..evidence import describe, draw, figure, isolate, relative
from ..verdict import Verdict, right, wrong
from .built import misfit, not_a
from .probes import ALPHA, D_IN, D_OUT, R, X, layer_of

CALL = f"I called it with d_in = {D_IN}, d_out = {D_OUT}, r = {R}, alpha = {ALPHA}."
LARGE = 3.0  # of |A x| / |x|: every start in use is below 2 at this width


def start(answer: Any) -> Verdict:
    if not callable(answer):
        return not_a("start", "a function", answer)
    if bad := misfit("start", answer, 4):
        return bad
    given = answer(D_IN, D_OUT, R, ALPHA)
    shapes = {"A": (R, D_IN), "B": (D_OUT, R)}
    if not (isinstance(given, (tuple, list)) and len(given) == 3):
        return _odd_start(describe(given), "three things: A, B and s.", "Which three does the docstring ask for?")
    A, B, s = given
    for (name, shape), tensor in zip(shapes.items(), (A, B)):
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.shape == shape):
            return _odd_start(f"{name} is {describe(tensor)}", f"{name} of shape {shape}, of floats.")
        if not tensor.isfinite().all():
            return _odd_start(f"{name} is {describe(tensor)}", f"{name} with finite numbers.")
    if not isinstance(s, (int, float)) and not (isinstance(s, Tensor) and s.numel() == 1):
        return _odd_start(f"s is {describe(s)}", "s as one number.")
    A, B = A.detach().double(), B.detach().double()
    return (
        _scale(answer, float(s))
        or _zeros(A, B, float(s))
        or _numbers(answer, A)
        or right(
            "B A is zero, so the layer starts as it was; A is not, so B has a gradient in the first step; and s "
            "is halved when the rank doubles."
        )
    )


TURNED = "Which way round do A and B stand in W' = W + s B A, for a W of shape (d_out, d_in)?"


def _odd_start(saw: str, expected: str, question: str = TURNED) -> Verdict:
    return wrong(
        tried=CALL,
        saw=f"{saw}.",
        expected=expected,
        experiment="I called it once more with the same numbers, and it gave the same kind of thing.",
        question=question,
        more=(
            "x has d_in numbers and meets A first; what leaves B has d_out.",
            "A takes d_in numbers to r of them, B takes r to d_out. A weight's shape is (out, in).",
        ),
    )


def _scale(answer: Any, s: float) -> Verdict | None:
    if abs(s - ALPHA / R) < 1e-6:
        return None
    alpha, r = float(answer(D_IN, D_OUT, R, 2 * ALPHA)[2]), float(answer(D_IN, D_OUT, 2 * R, ALPHA)[2])
    return wrong(
        tried=CALL,
        saw=f"s = {s:.3g}.",
        expected=f"{ALPHA / R:.3g}.",
        experiment=f"I doubled alpha, and s went from {s:.3g} to {alpha:.3g}; I doubled r, and it went to {r:.3g}.",
        question="What should s do when alpha doubles, and what when r doubles?",
        more=("s grows with alpha and shrinks with r.", "It is alpha over r, both to the first power."),
    )


def _zeros(A: Tensor, B: Tensor, s: float) -> Verdict | None:
    rows = draw(6, 64, D_IN)

    def miss(B: Tensor = B) -> float:
        base = layer_of()(rows)
        return relative(base + s * rows @ A.T @ B.T, base)

    if B.any() and A.any():
        return wrong(
            tried=f"{CALL[:-1]}, and put the three on a layer.",
            saw=f"the layer's output moved by {figure(miss())} of its size, before any step.",
            expected="the base's output, bit for bit.",
            experiment=isolate(miss, {"set B = 0": {"B": torch.zeros_like(B)}}),
            question="What must B A be before the first step, and which of the two can see to that alone?",
            more=("A product is zero as soon as one of its factors is.", "A is random. The other one is not."),
        )
    if not A.any():
        alive = B.any()
        return wrong(
            tried=f"{CALL[:-1]}, put the three on a layer, and took the first step's gradients.",
            saw="A is zero." if alive else "A and B are both zero.",
            expected="A random and B zero.",
            experiment=_gradients(A, B, s),
            question=(
                "Which of the two do the other runtimes that read your file expect to have started at zero?"
                if alive
                else "The gradient of A carries a factor B, and that of B a factor A: what are they here?"
            ),
            more=(
                "The identity holds with either of the two at zero; the method says which."
                if alive
                else "Zero times zero has no way out: no step ever moves either of them.",
                "Swap the roles: B is the zero one." if alive else "One of the two must be random; here it is A.",
            ),
        )
    return None


def _gradients(A: Tensor, B: Tensor, s: float) -> str:
    A, B = A.clone().requires_grad_(), B.clone().requires_grad_()
    (layer_of()(X) + s * X @ A.T @ B.T).square().sum().backward()
    said = [f"{name}'s gradient is {'not zero' if t.grad.any() else 'zero'}" for name, t in (("A", A), ("B", B))]
    return f"I took the gradients at the start: {said[0]}, {said[1]}."


def _numbers(answer: Any, A: Tensor) -> Verdict | None:
    torch.manual_seed(1)
    other = answer(D_IN, D_OUT, R, ALPHA)[0].detach().double()
    size = {}
    for d_in in (32, 128):
        wide = answer(d_in, D_OUT, 8, ALPHA)[0].detach().double()
        rows = draw(7, 64, d_in)
        size[d_in] = ((rows @ wide.T).square().mean() / rows.square().mean()).sqrt().item()
    rank = int(torch.linalg.matrix_rank(A))
    if rank < R:
        saw, expected = f"the {R} rows of A span {rank} direction{'s' * (rank > 1)}.", f"{R} directions."
        done = f"I counted A's singular values above rounding: {rank}."
        question = "What can the rows learn that are the same at the start?"
    elif torch.equal(A, other):
        saw, expected = "the same A after another seed.", "another A, drawn at random."
        done = "I set another seed and called it again: every number of A was the same."
        question = "Where do the numbers of A come from?"
    elif not 1e-3 < size[128] < LARGE:
        saw = f"on 128 inputs A x is {size[128]:.2g} times as large as x."
        expected = f"about as large as x: more than a thousandth, less than {LARGE:.2g} times."
        done = f"I took 32 inputs in place of 128, and it was {size[32]:.2g} times as large."
        question = "How does the size of a sum of d_in random terms grow with d_in?"
    else:
        return None
    return wrong(
        tried=f"{CALL[:-1]}, and looked at A's numbers.",
        saw=saw,
        expected=expected,
        experiment=done,
        question=question,
        more=(
            "A is drawn at random, every number for itself, and small enough that A x is no larger than x.",
            "Numbers of about 1 / sqrt(d_in) keep A x as large as x; torch.nn.init has the usual ways.",
        ),
    )
