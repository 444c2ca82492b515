"""Lab 2's graders of tests: one that leaves the start, and one that lets right DoRAs through and no wrong one."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import adapterlab as al
from adapterlab.museum.wrong_lines import ScalesBias

from ..evidence import describe, draw, figure, relative
from ..verdict import Verdict, right, wrong
from .dora_colleagues import DoubleBias, NoScale

# ---- far from the start ---------------------------------------------------------------------------

SHAPES = ((24, 16), (16, 24))


def adapted(variant: al.Variant, d_in: int, d_out: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(d_in, d_out, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(draw(6, d_out, d_in))
        if bias:
            layer.bias.copy_(draw(7, d_out))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # A starts at random
        al.attach(layer, variant, dtype=torch.float64)
    return layer


def lengths(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """c = m / |V|, and how far V is from W, row by row."""
    p = layer.adapter
    with torch.no_grad():
        V = layer.weight + p.scale * p.lora_B @ p.lora_A
        return p.lora_m / V.norm(dim=1), (V - layer.weight).norm(dim=1) / layer.weight.norm(dim=1)


def leave_the_start(answer: Callable) -> Verdict:
    layer = adapted(al.DoRA(r=4, alpha=6), *SHAPES[0])
    before, x = (layer.weight.clone(), layer.bias.clone()), draw(12, 5, SHAPES[0][0])
    answer(layer)
    if not (torch.equal(before[0], layer.weight) and torch.equal(before[1], layer.bias)):
        al.detach(layer)
        left = figure(relative(layer(x), torch.nn.functional.linear(x, *before)))
        return wrong(
            tried="an adapted layer of 24 inputs and 16 outputs.",
            saw="the frozen weight or bias of the layer has changed.",
            expected="only what is in layer.adapter to move.",
            experiment=f"I took the adapter off: the layer's outputs were still off by {left} of their norm.",
            question="Which parameters does an optimiser get to see, and which does it not?",
            more=(
                "Everything that may move is in layer.adapter.",
                "Go through layer.adapter.parameters() and leave layer.parameters() alone.",
            ),
        )
    c, moved = lengths(layer)
    turned, scaled = (moved > 0.05).double().mean().item(), ((c - 1).abs() > 0.05).double().mean().item()
    seen = (
        f"{turned:.0%} of the rows of V have left W by more than 5 %, and {scaled:.0%} of all c differ from 1 by more."
    )
    if not torch.isfinite(c).all() or min(turned, scaled) < 0.75:
        only = adapted(al.DoRA(r=4, alpha=6), *SHAPES[1])
        answer(only)
        elsewhere = (lengths(only)[1] > 0.05).double().mean().item()
        return wrong(
            tried="an adapted layer of 24 inputs and 16 outputs, and what became of c = m / |V|.",
            saw=seen,
            expected="most rows turned, and most c away from 1, by more than 5 %.",
            experiment=f"I gave it a layer of another shape: there {elsewhere:.0%} of the rows turned.",
            question=_what_is_missing(layer, turned),
            more=(
                "There are three trained tensors. Print each before and after.",
                "Standard normal numbers in B, and sizes m that are off by a third, are far enough.",
            ),
        )
    again = adapted(al.DoRA(r=4, alpha=6), *SHAPES[0])
    answer(again)
    if not all(torch.equal(a, b) for a, b in zip(layer.adapter.parameters(), again.adapter.parameters())):
        return wrong(
            tried="the same layer twice.",
            saw="it was moved to another place the second time.",
            expected="the same place: a test that fails on some days only is no test.",
            experiment="I set PyTorch's seed to the same number before both calls, and the places "
            + ("agreed." if _same_with_seed(answer) else "still differed."),
            question="Where do your random numbers come from, and who else draws from there?",
            more=(
                "A torch.Generator with a seed of its own draws the same numbers whoever drew before.",
                "Make the generator inside the function, seed it there, and hand it to every draw.",
            ),
        )
    return right(f"{seen[0].upper()}{seen[1:]} The base is untouched, and a second call goes to the same place.")


def _what_is_missing(layer: nn.Linear, turned: float) -> str:
    if turned >= 0.75:
        return "What must move besides A and B, so that c is not 1?"
    if not layer.adapter.lora_B.any():
        return "B starts at zero, A does not. What does a change of A alone do to the product?"
    return "How long are the rows of s B A beside those of W?"


def _same_with_seed(answer: Callable) -> bool:
    found = []
    for _ in range(2):
        layer = adapted(al.DoRA(r=4, alpha=6), *SHAPES[0])
        torch.manual_seed(0)
        answer(layer)
        found.append([p.detach().clone() for p in layer.adapter.parameters()])
    return all(map(torch.equal, *found))


# ---- the test that fails --------------------------------------------------------------------------

RIGHT_ONES = {
    "DoRA, r = 4, alpha = 6": al.DoRA(r=4, alpha=6),
    "DoRA, r = 2, alpha = 2": al.DoRA(r=2, alpha=2),
    "DoRA with rsLoRA's scale": al.DoRA(r=4, alpha=6, rslora=True),
}


def is_dora(answer: Callable) -> Verdict:
    said = {name: answer(variant) for name, variant in RIGHT_ONES.items()}
    odd = [name for name, value in said.items() if not isinstance(value, (bool, int)) or not value]
    if odd:
        got = said[odd[0]]
        experiment = (
            "I ran it with each of three right variants: "
            f"{sum(value is True for value in said.values())} of them passed."
        )
        return wrong(
            tried=f"a right variant: {odd[0]}.",
            saw=f"your test returned {describe(got)}.",
            expected="True: this one keeps the equation.",
            experiment=experiment,
            question="Where does your test take s from, and what do the three variants differ in?"
            if isinstance(got, bool)
            else "What does your function return when all is well?",
            more=(
                "Print the miss that your test computes for each of the three.",
                "The scale of a layer stands in layer.adapter.scale. Rounding in float64 leaves a miss of 1e-15 or so.",
            ),
        )
    colleague = answer(ScalesBias(r=4, alpha=6))
    if colleague:
        caught = {
            "whose bias is doubled at every step, the first among them": answer(DoubleBias(r=4, alpha=6)),
            "that forgets the scale s": answer(NoScale(r=4, alpha=6)),
        }
        seen = "; ".join(f"one {name}: {'passed' if value else 'caught'}" for name, value in caught.items())
        at_start, away = (not value for value in caught.values())
        question = {
            (True, False): "Your test sees the bias at t=0. What is c there?",
            (False, True): "Your test is far from the start. Does its layer have a bias?",
            (False, False): "What does your test compare with what, and where in parameter space is it then?",
            (True, True): "Your test sees a bias, and it sees the far side. Does it ever see both at once?",
        }[at_start, away]
        return wrong(
            tried="the colleague's DoRA, which scales the bias too.",
            saw="your test let it through.",
            expected="False: its output is c (V x + b), and DoRA's is c V x + b.",
            experiment=f"I gave your test two cruder bugs: {seen}.",
            question=question,
            more=(
                "Three conditions must meet: a layer with a bias, parameters that have left the start, and a "
                "comparison with the written-out equation.",
                "Attach the variant to a small float64 layer that has a bias, leave the start, and compare the layer's "
                "output with the one that your dense weight and bias give.",
            ),
        )
    if answer(NoScale(r=4, alpha=6)):
        harmless = "lets through" if answer(NoScale(r=4, alpha=4)) else "catches"
        return wrong(
            tried="a DoRA that forgets the scale s.",
            saw="your test let it through, although it catches the colleague's.",
            expected="False.",
            experiment=f"I set alpha = r for it, where s = 1 and nothing is wrong: that one your test {harmless}.",
            question="Is s other than 1 in the layer that your test makes?",
            more=(
                "Look at which r and alpha your layer gets.",
                "Take r and alpha from the variant, and s from the layer.",
            ),
        )
    return right(
        "three right variants pass, and the colleague's is caught, as is one that forgets s. It needs all three: a "
        "bias, a place far from the start, and the equation on the other side."
    )
