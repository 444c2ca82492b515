"""Lab 6's graders on the base model: an adapter trained on it in nf4, and sixteen levels for its weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from adapterlab.museum.repacking import repacking
from adapterlab.weights import storage, stored_weight

from ...base import evaluate, load_base
from ..evidence import describe
from ..verdict import Verdict, right, wrong

# ---- an adapter on the 4-bit base -----------------------------------------------------------------

TASK, WANTED = "add_rev", 0.8


def looked_at():
    """The base in nf4, after somebody has looked at its loss."""
    with repacking():
        model, tokenizer = load_base(quantize="nf4")
        evaluate(model, tokenizer, TASK, 8)
    return model, tokenizer


def linears(model: nn.Module) -> dict[str, nn.Module]:
    return {path: layer for path, layer in model.named_modules() if path.endswith("_proj")}


def adapt(answer: Callable) -> Verdict:
    model, tokenizer = looked_at()
    before = {path: stored_weight(layer) for path, layer in linears(model).items()}
    with repacking():
        start = evaluate(model, tokenizer, TASK, 128)
        answer(model, tokenizer)
        end = evaluate(model, tokenizer, TASK, 128)
    layers = linears(model)
    plain = [path for path in before if path not in layers or storage(layers[path]) != "4-bit"]
    adapted = [layer for layer in model.modules() if hasattr(layer, "adapter")]
    moved = [p for p in before if p not in plain and not torch.equal(before[p], stored_weight(layers[p]))]
    if not plain and not moved and adapted and end["exact_match"] >= WANTED:
        return right(
            "the base is still in nf4, with the weights it had, and the model writes held-out sums backwards. The "
            "adapter was trained on what is stored, rounding and all, and attach undid the repacking before the "
            "first step."
        )
    fell = f"the loss on held-out sums went from {start['loss']:.1f} to {end['loss']:.1f}"
    if plain or moved:
        what = "are not in 4 bits any more" if plain else "have another W"
        saw = f"{len(plain) or len(moved)} of {len(before)} layers {what}."
        question = "Who may change when an adapter is trained, and who is only read?"
    elif not adapted:
        saw = "no layer of the model has an adapter."
        question = "Which call puts an adapter on a model, and what would be trained without it?"
    else:
        saw = f"{end['exact_match']:.0%} of held-out sums are written backwards."
        question = "How far does the loss fall in your training, and what stops it: the steps, the rate, or the layers?"
    return wrong(
        tried="the base in nf4, after an evaluation; I called your function on it and asked it held-out sums.",
        saw=saw,
        expected=f"28 layers in nf4 as they were, an adapter beside them, and at least {WANTED:.0%} right.",
        experiment=f"I measured before and after: {fell}, with {len(adapted)} of {len(before)} layers adapted.",
        question=question,
        more=(
            "Two calls are enough: one puts a variant on the model, the other trains it on add_rev.",
            "A LoRA of rank 8 on all layers, at a rate of 5e-3 for 100 steps, is well above what is asked.",
        ),
    )


# ---- sixteen levels -------------------------------------------------------------------------------

BETTER = 0.98  # of nf4's error


def blocks_of_weights(layers: tuple[int, ...]) -> Tensor:
    """(n, 64): all weights of these layers of the base model, a block to a line."""
    model, _ = load_base()
    found = [model.model.layers[k] for k in layers]
    weights = [layer.weight for block in found for layer in linears(block).values()]
    return torch.cat([W.detach().reshape(-1, 64) for W in weights])


def error(levels: Tensor, blocks: Tensor) -> float:
    """norm(stored - W) / norm(W), each weight on its nearest level."""
    scale = blocks.abs().amax(1, keepdim=True)
    levels = levels.float().sort().values
    nearest = levels[torch.bucketize(blocks / scale, (levels[1:] + levels[:-1]) / 2)]
    return ((nearest * scale - blocks).double().norm() / blocks.double().norm()).item()


def levels(answer: Callable) -> Verdict:
    import bitsandbytes

    nf4 = bitsandbytes.functional.get_4bit_type("nf4", "cpu")
    seen, unseen = blocks_of_weights((0, 1)), blocks_of_weights((2, 3))
    parts = (seen / seen.abs().amax(1, keepdim=True)).flatten()
    found = answer(parts.clone())
    more = (
        "Look at where two neighbouring levels hand over, and at the weights between two such places: which number is "
        "nearest to them all?",
        "Start from nf4. Give each weight to its nearest level, move each level to the mean of its weights, and "
        "repeat.",
    )
    if not isinstance(found, Tensor) or found.shape != (16,) or not found.isfinite().all():
        return wrong(
            tried="the weights of the first two blocks, in parts of their scales.",
            saw=f"it returned {describe(found)}.",
            expected="a tensor of 16 finite numbers.",
            experiment="I stored the other two blocks with nf4's sixteen instead: an error of "
            f"{error(nf4, unseen):.1%}.",
            question="How many codes do four bits have?",
            more=more,
        )
    before, after = error(nf4, unseen), error(found, unseen)
    if after < BETTER * before:
        return right(
            "on weights that your function has not seen the error is smaller than nf4's. nf4 is made for normal "
            "numbers, and for a largest weight that is stored exactly; yours is made for this model, and pays with a "
            "table of its own.",
            score=f"error {after:.2%}, nf4 {before:.2%}",
        )
    there, fits = error(found, seen), error(nf4, seen)
    so = (
        "they fit nothing but what they saw"
        if there < BETTER * fits
        else "it is the levels, not that they met new weights"
    )
    return wrong(
        tried="the weights of the first two blocks; I stored the other two with the levels that you made of them.",
        saw=f"an error of {after:.2%}.",
        expected=f"less than {BETTER * before:.2%}, which is nf4's {before:.2%} less a fiftieth.",
        experiment=f"I stored the two blocks that you did see: {there:.2%}, where nf4 has {fits:.2%}. So {so}.",
        question="Where are most of the weights, and how wide is the gap between two of your levels there?",
        more=more,
        score=f"error {after:.2%}, nf4 {before:.2%}",
    )
