"""Is it x R^T, with its gradients, at the price of thin products? What is wrong with a function that is to turn x."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..evidence import compared, describe, draw, figure, isolate, relative
from ..verdict import Verdict, wrong
from .counting import bytes_kept, multiply_adds
from .mirrors import inputs, inverse_triangle, rotation, rows, through_the_matrix

EXACT = 1e-9  # of float64
N, D, R = 64, 256, 6  # the size at which is counted

# ---- values and gradients -------------------------------------------------------------------------


def turned(answer: Callable, turned_round: str, more: tuple[str, str]) -> Verdict | None:
    """What is wrong with the values or the gradients of an answer that is to give x R^T; None if nothing is.

    Args:
        turned_round: the question to an answer that gives x R.
    """

    def miss(transposed=False, **change):
        x, U = inputs(), rows(**change)
        return relative(answer(x.clone(), U.clone()), x @ (rotation(U) if transposed else rotation(U).t()))

    tried = "10 inputs of 24 features and 5 mirrors, the rows of U random and of several lengths, in float64."
    if miss() > EXACT:
        x, U = inputs(), rows()
        return wrong(
            tried=tried,
            saw=f"{compared(answer(x.clone(), U.clone()), through_the_matrix(x, U))}.",
            expected="x R^T, to rounding.",
            experiment=isolate(
                miss,
                {
                    "compared it with x R in place of x R^T": {"transposed": True},
                    "gave it one mirror alone": {"r": 1},
                    "set every row of U to length 1": {"unit": True},
                    "put one row of length 1 in U": {"r": 1, "unit": True},
                },
            )
            + _one_mirror(answer),
            question=turned_round if miss(transposed=True) < EXACT else _question(miss),
            more=more,
        )
    x, U = inputs(), rows()
    before = x.clone(), U.clone()
    answer(x, U)
    if not (torch.equal(x, before[0]) and torch.equal(U, before[1])):
        name = "U" if torch.equal(x, before[0]) else "x"
        return wrong(
            tried=f"{tried} Then I looked at the tensors that I had given.",
            saw=f"{name} is not what it was: your function wrote into it.",
            expected="x and U as they were: they are other people's tensors.",
            experiment=f"I called it once more with the same tensors: it was off by {figure(_again(answer))}.",
            question="Which of your lines changes a tensor in place?",
            more=("Operators such as -= write into the tensor on their left.", "Write x = x - ... instead."),
        )
    return _gradients(answer, tried)


def _one_mirror(answer: Callable) -> str:
    """What a single mirror does to its own u, and to what lies across it."""
    U = rows(r=1, unit=True)
    across = inputs() - inputs() @ U.t() * U
    along, rest = answer(U.clone(), U.clone()), answer(across.clone(), U.clone())
    if relative(along, -U) < EXACT and relative(rest, across) < EXACT:
        return ""
    if not isinstance(along, Tensor) or along.shape != U.shape:
        return f" I sent u itself through a single mirror, and got {describe(along)}."
    came = (along * U).sum().item()
    changed = "stayed" if relative(rest, across) < EXACT else "did not stay"
    return f" I sent u itself through a single mirror: it came back as {came:.1f} u, and what lies across u {changed}."


def _question(miss: Callable) -> str:
    if miss() == float("inf"):
        return "What does the function have to return, and of which shape?"
    if miss(r=1) < EXACT:
        return "One mirror is right, five are not. What does your second mirror get to see?"
    if miss(r=1, unit=True) < EXACT:
        return "The right mirror does not care how long u is. By what does it divide?"
    if miss(unit=True) < EXACT:
        return "With rows of length 1 it is right. Where does the length of u have to go?"
    return "What does a mirror do to u, and what to everything that lies across it?"


def _again(answer: Callable) -> float:
    x, U = inputs(), rows()
    expected = through_the_matrix(x, U)
    answer(x, U)
    return relative(answer(x, U), expected)


def gradients(turn: Callable, x: Tensor, U: Tensor) -> dict[str, Tensor | None]:
    """Of a fixed weighting of the output, for x and U; None where nothing arrives."""
    x, U = x.clone().requires_grad_(), U.clone().requires_grad_()
    y = turn(x, U)
    if not y.requires_grad:
        return {"x": None, "U": None}
    return dict(zip("xU", torch.autograd.grad((y * draw(33, *y.shape)).sum(), (x, U), allow_unused=True)))


def _gradients(answer: Callable, tried: str) -> Verdict | None:
    seen = gradients(answer, inputs(), rows())
    expected = gradients(through_the_matrix, inputs(), rows())
    off = {name: relative(seen[name], expected[name]) for name in seen}
    name = next((name for name, miss in off.items() if miss > EXACT), None)
    if name is None:
        return None
    return wrong(
        tried=f"{tried} I asked autograd for the gradients of x and U, and compared with the dense formula's.",
        saw=f"the values are right; the gradient for {name} "
        + ("does not arrive." if seen[name] is None else f"is off by {figure(off[name])} of its norm."),
        expected="the dense formula's gradients, to rounding: U is what is trained.",
        experiment=_held_fixed(answer, name, seen[name]),
        question="Which line takes a tensor out of autograd's sight?",
        more=(
            "detach(), .data, .item(), torch.tensor(...) and torch.no_grad() all do.",
            "Not only the direction of u is differentiated: the length that it is divided by depends on u as well.",
        ),
    )


def _held_fixed(answer: Callable, name: str, seen: Tensor | None) -> str:
    """Which part of the formula, when it is given no gradient, has the answer's gradient."""
    if seen is None:
        x, U = inputs(), rows()
        y = answer(x.requires_grad_(name == "x"), U.requires_grad_(name == "U"))
        return f"I let {name} alone require a gradient, and requires_grad of what you return is {y.requires_grad}."
    for part, held in {
        "the lengths of the rows": lambda x, U: x @ rotation(U, fixed_length=True).t(),
        "T": lambda x, U: x - (x @ U.t()) @ inverse_triangle(U.detach()).t() @ U,
    }.items():
        if relative(seen, gradients(held, inputs(), rows())[name]) < EXACT:
            return f"I held {part} fixed in the formula, and its gradient for {name} became yours."
    alone = [gradients(turn, inputs(), rows(r=1))[name] for turn in (answer, through_the_matrix)]
    return f"I gave it one mirror alone, and the gradient for {name} was off by {figure(relative(*alone))}."


# ---- cost -----------------------------------------------------------------------------------------


def small(r: int = R, d: int = D) -> tuple[Tensor, Tensor]:
    return inputs(N, d, dtype=torch.float32), rows(r, d, dtype=torch.float32)


def too_much_work(answer: Callable, bound: float) -> Verdict | None:
    """Where a step needs more multiply-adds than bound * n d r."""
    count, thin = multiply_adds(answer, *small()), N * D * R
    if count <= bound * thin:
        return None
    wider = multiply_adds(answer, *small(d=2 * D)) / count
    return wrong(
        tried=f"{N} inputs of {D} features and {R} mirrors, forward and backward, and counted multiply-adds.",
        saw=f"{count:,}, which is {count / thin:.0f} n d r. The values are right.",
        expected=f"at most {bound:.0f} n d r, that is {bound * thin:,.0f}.",
        experiment=f"I doubled the features, and the count grew {wider:.1f}-fold; a form that only multiplies thin "
        "things by x grows 2-fold.",
        question="What is the largest matrix that you form, and does it have to be there?",
        more=(
            "Look for a product whose result is d x d. Matrix products can be bracketed in another way.",
            "Start from x, and keep every intermediate result at n x d, n x r, r x d or r x r.",
        ),
    )


def too_much_kept(answer: Callable) -> Verdict | None:
    """Where more than x, a few n x r and a few r x d is kept for backward."""
    bound = 4 * (N * D + 3 * N * R + 6 * R * D + 8 * R * R)
    kept, x_size = bytes_kept(answer, *small()), 4 * N * D
    if kept <= bound:
        return None
    more_mirrors = bytes_kept(answer, *small(r=2 * R)) / x_size
    return wrong(
        tried=f"{N} inputs of {D} features and {R} mirrors, and looked at what is kept for the backward pass.",
        saw=f"{kept / x_size:.1f} times the size of x. The values are right.",
        expected=f"at most {bound / x_size:.1f} times: x once, and what is thin.",
        experiment=f"I doubled the mirrors, and {more_mirrors:.1f} times the size of x was kept.",
        question="Which results as large as x does autograd have to remember between your first line and your last?",
        more=(
            "Each product of two tensors that both need a gradient keeps both. Count how often x, turned a little "
            "further, is one of them.",
            "All that the mirrors do to each other is in T, r x r. So x itself has to meet U once on the way in, and "
            "the result meets U once on the way out.",
        ),
    )


def work(answer: Callable) -> float:
    """Multiply-adds of a step, in n d r."""
    return multiply_adds(answer, *small()) / (N * D * R)


def kept(answer: Callable) -> float:
    """What is kept for backward, in sizes of x."""
    return bytes_kept(answer, *small()) / (4 * N * D)
