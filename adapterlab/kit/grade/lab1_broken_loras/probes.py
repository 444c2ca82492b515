"""What may be wrong with a LoRA, and an experiment for each fault that tells it from the others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .... import runtime
from ....variants import LoRA
from ..evidence import NOTHING, draw, figure, relative

D_IN, D_OUT, R, ALPHA = 24, 16, 4, 6  # not square, and r is not alpha


def layer_of(bias: bool = True) -> nn.Linear:
    """In float64, the same on every machine; its bias is as large as its output."""
    layer = nn.Linear(D_IN, D_OUT, bias, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(draw(1, D_OUT, D_IN) / D_IN**0.5)
        if bias:
            layer.bias.copy_(draw(2, D_OUT))
    return layer


def put_on(
    variant: type[LoRA],
    r: int = R,
    alpha: float = ALPHA,
    rslora: bool = False,
    bias: bool = True,
    far: bool = True,
) -> nn.Linear:
    """A layer with the variant on it, all its numbers far from their start."""
    layer = layer_of(bias)
    torch.manual_seed(0)
    runtime.attach(layer, variant(r=r, alpha=alpha, rslora=rslora), dtype=torch.float64)
    if far:
        with torch.no_grad():
            layer.adapter.lora_A.copy_(draw(3, r, D_IN) / D_IN**0.5)
            layer.adapter.lora_B.copy_(draw(4, D_OUT, r))
    return layer


X = draw(5, 32, D_IN)


def added(variant: type[LoRA], bias: bool = True, **options: Any) -> Tensor:
    return put_on(variant, bias=bias, **options)(X) - layer_of(bias)(X)


def miss_of_equation(variant: type[LoRA], r: int = R, alpha: float = ALPHA) -> str:
    layer = put_on(variant, r=r, alpha=alpha)
    p = layer.adapter
    return figure(relative(layer(X), F.linear(X, layer.weight + alpha / r * p.lora_B @ p.lora_A, layer.bias)))


# ---- the experiments --------------------------------------------------------------------------------


def growth(variant: type[LoRA]) -> str:
    usual = added(variant).norm()
    alpha, rslora = added(variant, alpha=2 * ALPHA).norm() / usual, added(variant, rslora=True).norm() / usual
    return f"what it adds became {alpha.item():.2g} times as large, and {rslora.item():.2g} times"


def at_start(variant: type[LoRA]) -> str:
    miss = relative(put_on(variant, far=False)(X), layer_of()(X))
    return "the output was the base's" if miss < NOTHING else f"the output was off the base's by {figure(miss)}"


def gradients(variant: type[LoRA]) -> str:
    return f"{_who_has_one(variant, far=False)} at the start, {_who_has_one(variant, far=True)} far from it"


def _who_has_one(variant: type[LoRA], far: bool) -> str:
    layer = put_on(variant, far=far)
    y = layer(X)
    if y.requires_grad:
        y.square().sum().backward()
    found = {name: getattr(layer.adapter, f"lora_{name}").grad for name in "AB"}
    return " and ".join(name for name, grad in found.items() if grad is not None and grad.any()) or "neither"


def at_rank_one(variant: type[LoRA]) -> str:
    seen = [miss_of_equation(variant), miss_of_equation(variant, r=1), miss_of_equation(variant, alpha=R)]
    return f"the miss of W + s B A was {seen[0]}, at r = 1 {seen[1]}, at alpha = r {seen[2]}"


@torch.no_grad()
def after_an_edit(variant: type[LoRA]) -> str:
    layer = put_on(variant)
    first = layer(X)
    layer.adapter.lora_B.data.mul_(2)
    return "the second output was the first" if torch.equal(layer(X), first) else "the second output was another"


def without_bias(variant: type[LoRA]) -> str:
    moved = relative(added(variant, bias=False), added(variant))
    return "what it adds stayed the same" if moved < NOTHING else f"what it adds changed by {figure(moved)}"


def weight_after(variant: type[LoRA]) -> str:
    same = torch.equal(put_on(variant, far=False).weight, layer_of().weight)
    return "W had kept every bit" if same else "W had changed"


def on_other_dtypes(variant: type[LoRA]) -> str:
    said = []
    for dtype in (torch.float32, torch.bfloat16):
        layer = layer_of().to(dtype)
        runtime.attach(layer, variant(r=R, alpha=ALPHA))
        try:
            said.append(f"gave {str(layer(X.to(dtype)).dtype).removeprefix('torch.')}")
        except Exception as error:
            said.append(f"raised {type(error).__name__}")
    return f"it {said[0]}, and {said[1]}"


@dataclass(frozen=True)
class Fault:
    """Attributes:
    said: what is wrong, in a sentence.
    did: the experiment, after "I".
    seen: of a variant's class, what came out.
    would: what comes out where this fault is.
    """

    said: str
    did: str
    seen: Callable[[type[LoRA]], str]
    would: str

    def experiment(self, **variants: type[LoRA]) -> str:
        """In a sentence, with what each of them showed."""
        shown = "; ".join(f"{name}: {self.of(variant)}" for name, variant in variants.items())
        return f"I {self.did}. {shown}; a sound LoRA: {self.of(LoRA)}."

    def of(self, variant: type[LoRA]) -> str:
        try:
            return self.seen(variant)
        except Exception as error:
            said = str(error).splitlines()[0] if str(error) else "no message"
            return f"{type(error).__name__}, {said}"


FAULTS = {
    "no scale": Fault(
        "no line reads alpha and r: the scale is 1",
        "doubled alpha, and then switched rslora on",
        growth,
        "what it adds stays as large both times",
    ),
    "scale twice": Fault(
        "alpha / r multiplies twice",
        "doubled alpha, and then switched rslora on",
        growth,
        f"what it adds becomes 4 times as large, and {R} times",
    ),
    "random start": Fault(
        "A and B both start at random",
        "put it on, moved nothing, and looked at the output",
        at_start,
        "the output is not the base's before the first step",
    ),
    "frozen A": Fault(
        "A is not trained",
        "asked which of A and B have a gradient",
        gradients,
        "A has none, not even far from the start",
    ),
    "reshaped A": Fault(
        "A is reshaped where it should be transposed",
        "set r = 1, where to reshape and to transpose is the same, and then alpha = r, where the scale is 1",
        at_rank_one,
        "the miss is gone at r = 1, and stays at alpha = r",
    ),
    "stale": Fault(
        "a pass without gradients uses what the first such pass had computed",
        "ran it without gradients, changed B, and ran it again",
        after_an_edit,
        "the second output is the first, whatever B is now",
    ),
    "bias twice": Fault(
        "the layer's bias is added once more",
        "took the bias away",
        without_bias,
        "what it adds changes, by a bias",
    ),
    "writes to W": Fault(
        "the start is written into the base weight",
        "compared W before and after it was put on",
        weight_after,
        "W has changed",
    ),
}

LOW_PRECISION = Fault(  # no patient has it, and a repair may
    "it does not take a base in low precision",
    "ran it on a layer in float32, and on one in bfloat16",
    on_other_dtypes,
    "it raises in bfloat16, or gives another type than the layer's",
)
