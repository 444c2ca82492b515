"""Lab 6: nf4 by hand, its bytes, the pass that ends gradients, the switch, an adapter on 4 bits, better levels."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from adapterlab.museum.repacking import repacking

from ..evidence import describe, draw
from ..verdict import Verdict, right, wrong
from . import four_bit_layers as bits
from .four_bit_model import adapt, levels
from .four_bit_storage import stored_bytes, to_nf4

# ---- does a gradient get through? -----------------------------------------------------------------


def gradient_survives(answer: Callable) -> Verdict:
    with repacking():
        return _gradient_survives(answer)


def _gradient_survives(answer: Callable) -> Verdict:
    cured = bits.layer()
    cured.support_avx512bf16_for_cpu = False
    patients = {
        "a new layer": (bits.layer(), True),
        "a layer in eval mode that no input has met yet": (bits.layer().eval(), True),
        "a layer after an eval pass": (bits.eval_pass(bits.layer()), False),
        "a layer after an eval pass with the repacking switched off": (bits.eval_pass(cured), True),
        "a large layer after an eval pass, in eval mode": (bits.eval_pass(bits.layer(256, 64)).eval(), False),
    }
    for name, (layer, alive) in patients.items():
        before, mode = bits.stored(layer), layer.training
        said = answer(layer)
        touched = layer.training != mode or not torch.equal(before, bits.stored(layer))
        if not touched and isinstance(said, (bool, Tensor)) and bool(said) == alive:
            continue
        if touched:
            what = "its bytes are others now" if layer.training == mode else "it was left in another mode"
            saw, expected = f"after your look {what}.", "a look that leaves the layer as it was."
            question = "In which mode does your own forward pass run, and does its input require a gradient?"
        else:
            saw, expected = f"you say {describe(said)}.", f"{alive}."
            question = "What does PyTorch leave in x.grad when no gradient has come back to x?"
        alone = bits.survives(layer)
        return wrong(
            tried=f"{name}.",
            saw=saw,
            expected=expected,
            experiment="I sent an input of my own through the same layer and called backward on the sum of its output: "
            f"x.grad is {'there' if alone else 'None, though the output says that it requires a gradient'}.",
            question=question,
            more=(
                "An output can carry a graph whose other end is cut. Only going backwards shows it.",
                "Make an input that requires a gradient, send it through, go backwards from the sum, look at the "
                "input's gradient.",
            ),
        )
    return right(
        "five layers, each seen as it is and left as it was. You went backwards and looked at what arrived; the "
        "output's requires_grad would have said yes each time."
    )


# ---- which pass it is -----------------------------------------------------------------------------


def cause(answer: Any) -> Verdict:
    names = list(bits.PASSES)
    ok = isinstance(answer, Mapping) and set(answer) == set(names)
    with repacking():
        truth, changed = {}, {}
        for name, do in bits.PASSES.items():
            layer = bits.layer()
            before = bits.stored(layer)
            do(layer)
            changed[name] = not torch.equal(before, bits.stored(layer))
            truth[name] = bits.survives(layer)
    off = [name for name in names if ok and (not isinstance(answer[name], bool) or answer[name] != truth[name])]
    if ok and not off:
        return right(
            "it takes all three at once: eval mode, a forward pass, and an input that needs no gradient. That is what "
            "every evaluation does, and what no training step does."
        )
    name = off[0] if off else names[-1]
    bytes_ = "other bytes than before" if changed[name] else "the same bytes as before"
    return wrong(
        tried="each of the four on a new layer, and then sent an input through it that requires a gradient.",
        saw=f"for {name!r} you say {describe(answer[name])}." if off else "your answer is no dict of these four.",
        expected="True where a gradient still comes back afterwards, False where none does, for each of the four.",
        experiment=f"I did {name!r} on a new layer and looked at what it stores: {bytes_}.",
        question="When nobody will ask for a gradient, what may a library do to be faster, and how would it know?",
        more=(
            "Do it yourself: a new layer, then this one thing, then your gradient_survives on it.",
            f"{len(off)} of the four are not as I found them. Only one of the four ends gradients."
            if off
            else "Keep the four keys as they stand, and put True or False behind each.",
        ),
    )


# ---- the switch -----------------------------------------------------------------------------------


def keep_gradients(answer: Callable) -> Verdict:
    with repacking():
        return _keep_gradients(answer)


def _treated(answer: Callable, nested: bool = True, passes: int = 1) -> tuple[int, int, bool]:
    """4-bit layers that still pass gradients on after eval passes, 4-bit layers in all, and whether all kept W."""
    model = bits.Deep(nested)
    before = [bits.stored(layer) for layer in model.four_bit()]
    answer(model)
    kept = [bits.stored(layer) for layer in model.four_bit()]
    same = len(kept) == len(before) and all(map(torch.equal, before, kept))
    for _ in range(passes):
        with torch.no_grad():
            model.eval()(draw(5, 4, 128, dtype=torch.float32))
        model.train()
    return sum(map(bits.survives, model.four_bit())), len(before), same


def _keep_gradients(answer: Callable) -> Verdict:
    alive, of, same = _treated(answer, passes=2)
    if same and alive == of:
        return right(
            f"all {of} layers in nf4, at every depth, with a bias and without, still pass gradients on "
            "after two evaluations, and no byte of them has changed."
        )
    flat, _, _ = _treated(answer, nested=False)
    none, _, _ = _treated(answer, passes=0)
    return wrong(
        tried="a model with four layers in nf4, two of them inside a Sequential; then two evaluations.",
        saw=f"{alive} of {of} still pass a gradient on."
        if same
        else "what the 4-bit layers store has changed already.",
        expected=f"all {of}, with their bytes as they were.",
        experiment=f"Without an evaluation {none} of {of} pass one on. With the same layers side by side instead of "
        f"nested, after one evaluation, it is {flat} of {of}.",
        question="Which object reads the switch when a layer runs, and have you reached every one of them?"
        if same
        else "What has to change: what a layer stores, or what it is told to do with it?",
        more=(
            "The switch is an attribute of the layer itself, and the layer reads it at each forward pass.",
            "Go through all modules, not only the children, and set the switch to False wherever it exists.",
        ),
    )


GRADERS = {
    "to_nf4": to_nf4,
    "stored_bytes": stored_bytes,
    "gradient_survives": gradient_survives,
    "cause": cause,
    "keep_gradients": keep_gradients,
    "adapt": adapt,
    "levels": levels,
}
