"""Checks of places that random numbers never reach: where the update undoes the weight, and the start itself."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from .bases import EPS32, affine, relative
from .finding import Broken, Finding, Worst
from .maths import far
from .subject import NotApplicable, On, Ours, Subject
from .training import gradients_of

LEFT = 0.1, 0.01, 0.001  # of a row of W, after the update


def cancels(subject: Subject) -> Finding:
    """In float32, against the equation in float64 of the same numbers. Cancelling to a share costs that many digits in
    any way of computing it: the limit is 40 steps of float32 over the share."""
    worst = Worst()
    for left in LEFT:
        base, on = far(subject, dtype=torch.float32)
        if on.equation("proj") is None:
            raise NotApplicable("it says of no equation to compare with")
        k = _undo(on, base.proj.weight.detach(), left)
        wide = copy.deepcopy(on)
        wide.base.double()
        x = subject.inputs(base)
        y, expected = on(x) - base.proj.bias, F.linear(x.double(), wide.equation("proj")[0])
        worst.compare(y[:, :k], expected[:, :k], 40 * EPS32 / left, f"{left:.1%} of the row is left")
    return worst.finding(f"{k} rows")


@torch.no_grad()
def _undo(on: On, W: Tensor, left: float) -> int:
    """Put into A an orthonormal basis of W's first rows, and into B what takes all but a share of them away."""
    found = {name.rpartition(".")[2]: p for name, p in on.parameters().items() if ".proj." in f".{name}"}
    if not {"lora_A", "lora_B"} <= found.keys():
        raise NotApplicable("it adds no thin product lora_B lora_A to the weight")
    A, B, scale = found["lora_A"], found["lora_B"], getattr(getattr(on.base.proj, "adapter", None), "scale", 1.0)
    k = len(A)
    A.copy_(torch.linalg.qr(W[:k].double().T)[0].T)
    B[:k] = (-(1 - left) / scale * W[:k].double() @ A.double().T).to(B.dtype)
    return k


def start(subject: Subject) -> Finding:
    """Any factors of one product are one start, which is why W' is compared and not A and B."""
    reference = subject.reference
    if reference is None:
        raise NotApplicable("no reference was given whose start it should have")
    if reference.data == "required":
        raise NotApplicable("the start comes from data")
    if relative(_first_change(Ours(reference), seed=0), _first_change(Ours(reference), seed=1)) > 1e-3:
        raise NotApplicable(f"the start of {reference} is random")
    miss = relative(_first_change(subject, seed=0), _first_change(Ours(reference), seed=0))
    return Finding(miss, 1e-3, f"the first step of W' by gradient descent is {miss:.2g} off that of {reference}")


def _first_change(subject: Subject, seed: int) -> Tensor:
    base = subject.base(seed=1)
    x = subject.inputs(base)
    on = subject.put_on(base, seed=seed)

    def weight() -> Tensor:
        return affine(on, x.shape[-1], torch.float32)[0]

    before, found = weight(), gradients_of(on, x)
    with torch.no_grad():
        for name, p in on.parameters().items():
            p.sub_(1e-1 * found[name])
    change = weight() - before
    if not change.any():
        raise Broken("a step of gradient descent changes nothing")
    return change
