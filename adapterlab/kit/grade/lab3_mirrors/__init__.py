"""Lab 3: HRA mirror by mirror, a test that sees their order, the triangle, two thin products, factors."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..evidence import compared, describe, draw, figure, isolate, relative
from ..verdict import Verdict, right, wrong
from .counting import multiply_adds
from .mirror_order import agrees
from .mirrors import inverse_triangle, rotation, rows
from .turning import EXACT, D, R, kept, too_much_kept, too_much_work, turned, work

# ---- x R^T ----------------------------------------------------------------------------------------

ONE_BY_ONE = (
    "Try one mirror first: u must come back as -u, whatever its length, and what is orthogonal to u unchanged.",
    "With x as rows, H applied to all of them is x minus twice the part along u. The last row of U comes first.",
)
COMPACT = (
    "Write R = I - U^T T U, then transpose it: what happens to the order of the factors, and to T?",
    "T is not symmetric. R^T has its transpose in the middle, and x stands on the left.",
)


def one_by_one(answer: Callable) -> Verdict:
    return (
        turned(answer, "The input meets x H_(r-1) ... H_1 H_0. Which mirror does it meet first?", ONE_BY_ONE)
        or too_much_work(answer, 14)
        or right(
            "far from the start it is x R^T to rounding, with rows of any length and the last mirror first; autograd "
            f"finds the dense formula's gradients; and no matrix of d x d is formed: {work(answer):.0f} n d r."
        )
    )


def compact(answer: Callable) -> Verdict:
    problem = (
        turned(answer, "What becomes of T when I - U^T T U is transposed?", COMPACT)
        or too_much_work(answer, 9)
        or too_much_kept(answer)
    )
    if problem:
        return problem
    return right(
        "it is x R^T to rounding and so are its gradients; all products are thin, and x is kept once, however many "
        "mirrors there are.",
        score=f"{work(answer):.1f} n d r multiply-adds, {kept(answer):.1f} times the size of x kept.",
    )


# ---- the triangle ---------------------------------------------------------------------------------


def triangle(answer: Callable) -> Verdict:
    def miss(inverted=False, transposed=False, **change):
        U = rows(**change)
        seen = answer(U.clone())
        if not isinstance(seen, Tensor) or seen.shape != (len(U), len(U)):
            return float("inf")
        seen = torch.linalg.inv_ex(seen.detach())[0] if inverted else seen
        return relative(seen.t() if transposed else seen, inverse_triangle(U))

    if miss() > EXACT:
        U = rows()
        return wrong(
            tried="5 mirrors in 24 dimensions, the rows of U random and of several lengths.",
            saw=f"{compared(answer(U.clone()), inverse_triangle(U))}.",
            expected="the T, r x r, with which I - U^T T U is H_0 H_1 ... H_4.",
            experiment=isolate(
                miss,
                {
                    "inverted what you return": {"inverted": True},
                    "transposed what you return": {"transposed": True},
                    "gave it one mirror alone": {"r": 1},
                    "set every row of U to length 1": {"unit": True},
                },
            )
            + _of_one_mirror(answer),
            question=_triangle_question(miss),
            more=(
                "The formula gives the inverse of T. Its diagonal is half of U U^T's, and one side of it is zero.",
                "striu keeps what stands strictly above the diagonal. Multiply I - U^T T U out for r = 2 and compare.",
            ),
        )
    U = rows().requires_grad_()
    T = answer(U)
    gradient = None
    if T.requires_grad:
        (gradient,) = torch.autograd.grad((T * draw(34, *T.shape)).sum(), U, allow_unused=True)
    U_dense = rows().requires_grad_()
    expected = torch.autograd.grad((inverse_triangle(U_dense) * draw(34, *T.shape)).sum(), U_dense)[0]
    if relative(gradient, expected) > EXACT:
        return wrong(
            tried="the same U, and asked for its gradient through T.",
            saw="T is right, and " + ("no gradient arrives." if gradient is None else "its gradient is not."),
            expected="the gradient of the formula: T is computed anew in each step.",
            experiment="I asked for requires_grad of the T that you return: it is "
            f"{T.requires_grad}, where U's is {U.requires_grad}.",
            question="Which line takes a tensor out of autograd's sight?",
            more=(
                "detach(), .data, .item(), torch.tensor(...) and torch.no_grad() all do.",
                "Build the triangle from U with operations that autograd knows.",
            ),
        )
    return right(
        "I - U^T T U is the product of the mirrors to rounding, with rows of any length, and T passes gradients on. "
        "All that the mirrors know of each other is in it: r x r numbers."
    )


def _of_one_mirror(answer: Callable) -> str:
    U = rows(r=1)
    seen = answer(U.clone())
    if not isinstance(seen, Tensor) or seen.numel() != 1 or relative(seen.view(1, 1), inverse_triangle(U)) < EXACT:
        return ""
    times = (seen / inverse_triangle(U)).item()
    return f" Of one mirror, T is a single number: I gave it one, and yours is {times:.2g} times the right one."


def _triangle_question(miss: Callable) -> str:
    if miss() == float("inf"):
        return "T says what each mirror does to each other one. How many rows and columns has it?"
    if miss(inverted=True) < EXACT:
        return "Of which matrix does the formula speak: of T, or of another?"
    if miss(unit=True) < EXACT:
        return "In I - U^T T U the rows of U have any length. Where do these lengths enter T?"
    if miss(r=1) > EXACT:
        return "For a single mirror I - 2 u u^T / |u|^2: what is T, a matrix of 1 x 1, then?"
    return "A mirror meets only what the mirrors before it left. Which half of U U^T speaks of that?"


# ---- the stretch: the factors ---------------------------------------------------------------------


def factors(answer: Callable) -> Verdict:
    def parts(r=5, d=24, d_out=18, **change):
        W, U = draw(35, d_out, d), rows(r, d, **change)
        found = answer(W.clone(), U.clone())
        return W, U, found

    def fits(W, U, found):
        shapes = (len(U), W.shape[1]), (W.shape[0], len(U))
        return (
            isinstance(found, (tuple, list))
            and len(found) == 2
            and all(isinstance(t, Tensor) and t.shape == shape for t, shape in zip(found, shapes))
        )

    W, U, found = parts()
    if not fits(W, U, found):
        said = ", ".join(map(describe, found)) if isinstance(found, (tuple, list)) else describe(found)
        W2, U2, again = parts(d=18)
        return wrong(
            tried="a weight of 18 x 24 and 5 mirrors.",
            saw=f"it returned {said}.",
            expected="A of shape (5, 24) and B of shape (18, 5), in this order.",
            experiment=f"I tried 18 x 18 as well: the shapes {'fit' if fits(W2, U2, again) else 'do not fit either'}.",
            question="In W + B A, which of the two meets the input first?",
            more=("A has a row for each mirror.", "B has a row for each output, A a column for each input."),
        )

    def miss(sign=1, transposed=False, **change):
        W, U, (A, B) = parts(**change)
        return relative(W + sign * B @ A, W @ (rotation(U).t() if transposed else rotation(U)))

    if miss() > EXACT:
        return wrong(
            tried="a weight of 18 x 24 and 5 mirrors, and compared W + B A with W R.",
            saw=f"off by {figure(miss())} of the norm of W R.",
            expected="W R, to rounding.",
            experiment=isolate(
                miss,
                {
                    "took W - B A instead": {"sign": -1},
                    "compared with W R^T": {"transposed": True},
                    "gave it one mirror alone": {"r": 1},
                    "set every row of U to length 1": {"unit": True},
                },
            ),
            question="Multiply W (I - U^T T U) out. Which part is W, and how can the rest be cut in two?",
            more=(
                "The cut goes through the r in the middle: what is left of it is B, what is right of it is A.",
                "Here R itself stands behind W, not its transpose, and the sign belongs to one of the factors.",
            ),
        )
    W, U = draw(35, D, D, dtype=torch.float32), rows(R, D, dtype=torch.float32)
    count = multiply_adds(lambda W, U: sum(t.sum() for t in answer(W, U)), W, U)
    if count > 9 * D * D * R:
        wider = multiply_adds(lambda W, U: sum(t.sum() for t in answer(W, U)), W.repeat(1, 2), U.repeat(1, 2)) / count
        return wrong(
            tried=f"a weight of {D} x {D} and {R} mirrors, forward and backward, and counted multiply-adds.",
            saw=f"{count:,}, which is {count / (D * D * R):.0f} d d r. The factors are right.",
            expected="at most 9 d d r.",
            experiment=f"I doubled the inputs, and the count grew {wider:.1f}-fold.",
            question="Which d x d matrix do you form on the way?",
            more=("R need not be built.", "W meets U transposed, and what comes out is d_out x r."),
        )
    return right(
        "W + B A is W R to rounding, and no rotation was built for it. So a trained HRA is exactly a LoRA of rank r, "
        "scale 1, and whatever serves LoRA serves it."
    )


GRADERS = {
    "one_by_one": one_by_one,
    "agrees": agrees,
    "triangle": triangle,
    "compact": compact,
    "factors": factors,
}
