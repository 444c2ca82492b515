"""Lab 7: the rotation and its cap, the core, the mirror, the price of a coefficient, and a choice under it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import adapterlab as al

from ..evidence import NOTHING, compared, describe, draw, figure, isolate, relative
from ..verdict import Verdict, right, wrong
from .steering_price import choice, gentler, price

# ---- the rotation ---------------------------------------------------------------------------------


def cayley(T: Tensor, c: float, cap: float) -> Tensor:
    limit, eye = 2 * math.tan(cap / 2), torch.eye(len(T), dtype=T.dtype)
    A = limit * torch.tanh(c * T / limit)
    return torch.linalg.inv(eye - A / 2) @ (eye + A / 2)


def skew(b: int, size: float = 1.0) -> Tensor:
    T = draw(b, b, b) * size
    return (T - T.T) / 2


CAP, C, B = 0.5, 0.7, 4


def rotation(answer: Callable) -> Verdict:
    seen = answer(skew(B), C, CAP)
    if not isinstance(seen, Tensor) or seen.shape != (B, B):
        again = answer(skew(2), C, CAP)
        return wrong(
            tried=f"a skew T of {B} x {B}, c = {C}, cap = {CAP}.",
            saw=f"it returned {describe(seen)}.",
            expected=f"a rotation of {B} axes, {B} x {B}.",
            experiment=f"I gave it a T of 2 x 2: it returned {describe(again)}.",
            question="What does the identity look like that has as many axes as T?",
            more=(
                "Everything here is as large as T: A, the identity, both factors.",
                "The second factor is applied to the inverse of the first; solve the one against the other.",
            ),
        )

    def miss(T=None, c=C, cap=CAP, way=1.0) -> float:
        T = skew(B) if T is None else T
        return relative(answer(T.clone(), c, cap), cayley(T, way * c, cap))

    if miss() < 1e-9 and miss(c=2.0) < 1e-9 and miss(T=skew(6, 50.0)) < 1e-9 and miss(c=0.0) < 1e-12:
        return right(
            "it is a rotation for every T and every c; -c takes back what c does; and no entry alone turns its two "
            "axes by more than the cap, however far the coefficient is turned."
        )
    eye = torch.eye(B, dtype=torch.float64)
    off = relative(seen @ seen.T, eye)
    back = relative(seen @ answer(skew(B), -C, CAP), eye)
    alone = answer(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double() * 1e6, 2.0, CAP)
    angle = _angle(alone)
    if off > NOTHING:
        saw = f"R R^T is off from the identity by {figure(off)} of its norm: lengths change."
        question = "Which of the two factors has to be inverted, and on which side does it stand?"
    elif miss(way=-1.0) < 1e-9:
        saw = f"R misses the formula's by {figure(miss())}, though R R^T and R(c) R(-c) are the identity."
        question = "Which of I - A/2 and I + A/2 is inverted: what does the other choice turn?"
    else:
        saw = f"R misses the formula's by {figure(miss())}. R R^T is I; R(c) R(-c) misses it by {figure(back)}."
        if miss(c=1.0) < 1e-9:
            question = "Does c multiply T before the cap or A after it, and which of the two can turn beyond the cap?"
        else:
            question = "What stands inside the tanh, what outside, and which angle belongs to its largest value?"
    if angle is None:
        turned = "is nothing that I can read an angle off"
    else:
        turned = f"turns its two axes by {angle:.3f} rad at c = 2, with a cap of {CAP}"
    return wrong(
        tried=f"a random skew T of {B} x {B}, c = {C}, cap = {CAP}, in float64.",
        saw=saw,
        expected="the Cayley map of A = L tanh(c T / L) with L = 2 tan(cap / 2).",
        experiment=isolate(
            miss,
            {
                "turned the other way, c to -c, in the formula alone": {"way": -1.0},
                "set c = 1": {"c": 1.0},
                "took T so small that no cap bites": {"T": skew(B, 1e-3)},
            },
        )
        + f" A single entry of a million {turned}.",
        question=question,
        more=(
            "Try b = 2: with A = [[0, a], [-a, 0]] the angle is twice the arc tangent of a / 2, so a = L gives the "
            "cap.",
            "The coefficient multiplies T first, then comes the cap, then the map: solve I - A/2 against I + A/2.",
        ),
    )


def _angle(R: Any) -> float | None:
    if not isinstance(R, Tensor) or R.shape != (2, 2) or not R.isfinite().all():
        return None
    return abs(math.atan2(R[0, 1].item(), R[0, 0].item()))


# ---- the core -------------------------------------------------------------------------------------


def core(answer: Callable) -> Verdict:
    S, delta = draw(7, 6).abs().sort(descending=True).values + 0.5, draw(8, 6) / 3

    def truth(delta, R, c):
        return torch.diag(S + c * delta) @ R - torch.diag(S)

    turned = cayley(skew(6), C, CAP)

    def miss(delta=delta, R=turned, c=C, whole=0.0) -> float:
        return relative(answer(S.clone(), delta.clone(), R.clone(), c), truth(delta, R, c) + whole * torch.diag(S))

    plain = answer(S.clone(), delta.clone(), turned.clone(), C)
    start = answer(S.clone(), delta.clone(), torch.eye(6).double(), 0.0)
    at_zero = isinstance(start, Tensor) and bool((start == 0).all())
    if miss() < 1e-9 and miss(c=-2.0) < 1e-9 and at_zero:
        return right(
            "rows are stretched after the turn, each by its own S + c delta, and what W has already is taken off. At "
            "c = 0 it is zero to the last bit, and with it the base is the base."
        )
    eye = torch.eye(6, dtype=torch.float64)
    if not at_zero:
        question = "What is left of each of your terms when nothing is turned and c is 0?"
    elif miss(R=eye) < 1e-9:
        question = "Which axis does S belong to: the one that goes in, or the one that comes out?"
    elif miss(c=1.0) < 1e-9:
        question = "Where does c stand in the formula, and where is it already, inside R?"
    else:
        question = "What does R turn: S alone, or all of S + c delta?"
    return wrong(
        tried=f"six axes, random S, delta and R, c = {C}; and then c = 0 with R = I.",
        saw=f"{compared(plain, truth(delta, turned, C))}. At c = 0 it is {'zero' if at_zero else 'not zero'}.",
        expected="the formula's C to rounding, and zeros at c = 0.",
        experiment=isolate(
            miss,
            {
                "left in the formula what W has already": {"whole": 1.0},
                "set delta = 0": {"delta": torch.zeros_like(delta)},
                "set c = 1": {"c": 1.0},
                "set R = I": {"R": eye},
            },
        ),
        question=question,
        more=(
            "diag(s) R multiplies the rows of R, R diag(s) its columns. Only one of them is in the formula.",
            "Written as a sum: S times R - I, and c delta times R, both row by row.",
        ),
    )


# ---- the mirror -----------------------------------------------------------------------------------


def steerable(size: float = 1.0) -> tuple[nn.Linear, al.runtime.Adapter]:
    layer = nn.Linear(24, 16, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(draw(21, 16, 24))
    adapter = al.attach(layer, al.AntiPaSTO(r=8, block_size=4, max_angle=1.0), dtype=torch.float64)
    with torch.no_grad():
        layer.adapter.lora_rot_T.copy_(size * draw(22, 2, 6))
        layer.adapter.lora_delta_s.copy_(size * draw(23, 8) / 5)
    return layer, adapter


def _cosine(a: Tensor, b: Tensor) -> float:
    return torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def _weights(layer, adapter, c: float) -> tuple[Tensor, Tensor]:
    found = []
    for way in (c, -c):
        adapter.coefficient = way
        found.append(al.effective_weight(layer)[0].detach())
    return found[0], found[1]


def mirror(answer: Callable) -> Verdict:
    layer, adapter = steerable()
    W = layer.weight.detach().clone()
    plus, minus = _weights(layer, adapter, 1.5)
    true, whole = _cosine(plus - W, minus - W), _cosine(plus, minus)
    adapter.coefficient = 0.25
    seen = answer(layer, adapter, 1.5)
    left = adapter.coefficient
    number = isinstance(seen, (int, float, Tensor)) and not isinstance(seen, bool)
    number = number and torch.as_tensor(seen).numel() == 1
    value = torch.as_tensor(seen).item() if number else math.nan
    if abs(value - true) < 1e-6 and left == 0.25:
        return right(
            "it compares the two differences, not the two weights, over all entries at once, and leaves the "
            "coefficient where it was."
        )
    small_layer, small = steerable(1e-3)
    tiny = answer(small_layer, small, 1.0)
    told = f"{torch.as_tensor(tiny).item():.4f}" if number else describe(tiny)
    if not number:
        saw = f"it returned {describe(seen)}."
        question = "How many cosines do two differences have, taken as one long row of numbers each?"
    elif abs(value - true) < 1e-6:
        saw = f"the cosine is right, and the coefficient, which was 0.25, is {left:g} afterwards."
        question = "Who else uses this adapter after you have measured?"
    elif abs(value - whole) < 1e-6:
        saw = f"it returned {value:.3f}, which is the cosine of the two weights W'."
        question = "What do both W' have in common, and how much of their cosine is that?"
    else:
        saw = f"it returned {value:.3f}."
        question = "Which two matrices do you compare, and at which coefficients were they made?"
    return wrong(
        tried="a layer of 24 inputs and 16 outputs, far from its start, with its coefficient at 0.25; I asked for c "
        "= 1.5.",
        saw=saw,
        expected=f"{true:.3f}, and the coefficient as it was.",
        experiment="I made all trained numbers a thousand times smaller, where the two differences are opposite to "
        f"rounding: it returned {told}.",
        question=question,
        more=(
            "A difference is the effective weight less the weight of the layer, at one coefficient.",
            "Note the coefficient, take both differences, set it back, and compare them flattened.",
        ),
    )


GRADERS = {
    "rotation": rotation,
    "core": core,
    "mirror": mirror,
    "price": price,
    "choice": choice,
    "gentler": gentler,
}
