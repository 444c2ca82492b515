"""Lab 5: count parameters, fit a budget, an interval for a difference, a decision, and a submission."""

import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from .... import EVA, HRA, IA3, IA3FF, AntiPaSTO, DeLoRA, DoRA, LoRA, PiSSA, Variant
from ...base import load_base
from ...house import BUDGET, layer_shapes, record
from ..evidence import describe
from ..verdict import Verdict, right, wrong
from .differences import decide, enough, interval
from .submitted import submission

SHAPES = ((128, 128), (128, 64), (128, 384), (384, 128))  # (d_in, d_out)
COUNTED = (
    *(cls(r=r) for cls in (LoRA, PiSSA, EVA, DoRA, DeLoRA) for r in (1, 3)),
    IA3(),
    IA3FF(),
    *(HRA(r=r) for r in (2, 6)),
    *(AntiPaSTO(r=r, block_size=block) for r, block in ((24, 4), (24, 6), (8, 8))),
)
ABOUT = {  # a question, a hint
    "lora": ("Which two matrices are trained, and what is the shape of each?", "Draw A and B with their sides."),
    "dora": ("Which tensor has DoRA that LoRA has not?", "There is one size for each row of V; count W's rows."),
    "delora": ("What is trained beside A and B?", "The norms of W are frozen. The strength is one number."),
    "ia3": ("Does the gate stand before the layer or behind it?", "One gate for each output feature, no rank."),
    "ia3_ff": ("Does the gate stand before the layer or behind it?", "One gate for each input feature, no rank."),
    "hra": ("How long is the vector of one mirror?", "There is a single matrix, r vectors of the input space."),
    "antipasto": ("How many pairs of axes are there in one block?", "Count the entries above a block's diagonal."),
}
ABOUT["pissa"] = ABOUT["eva"] = ABOUT["lora"]
RANKED = {"lora": LoRA, "pissa": PiSSA, "eva": EVA, "dora": DoRA, "delora": DeLoRA, "hra": HRA, "antipasto": AntiPaSTO}


def count(variant: Variant, d_in: int, d_out: int) -> int:
    return sum(math.prod(spec.shape) for spec in variant.specs(d_in, d_out).values() if not spec.as_buffer)


# ---- counting -------------------------------------------------------------------------------------


def trained(answer) -> Verdict:
    for variant in COUNTED:
        for d_in, d_out in SHAPES:
            seen, expected = answer(variant, d_in, d_out), count(variant, d_in, d_out)
            if not (_is_number(seen) and seen == expected):
                return _miscounted(answer, variant, d_in, d_out, seen, expected)
    return right(
        f"for all nine, at several ranks and {len(SHAPES)} shapes, it is what `attach` puts on the layer. Five of them "
        "grow with r times both sides; a mirror and a gate know one side only, and AntiPaSTO neither."
    )


def _miscounted(answer, variant, d_in, d_out, seen, expected) -> Verdict:
    fields = ", ".join(f"{name} = {getattr(variant, name)}" for name in ("r", "block_size") if hasattr(variant, name))
    label = type(variant).__name__ + (f" with {fields}" if fields else "")
    if not _is_number(seen):
        experiment = f"I asked for 2 inputs more, and got {describe(answer(variant, d_in + 2, d_out))}."
    else:
        told = []
        for what, (more_in, more_out) in {"2 inputs": (2, 0), "2 outputs": (0, 2)}.items():
            theirs = answer(variant, d_in + more_in, d_out + more_out)
            grown = theirs - seen if _is_number(theirs) else theirs
            told.append(
                f"{what} more changed your count by {grown:g} and the layer's by "
                f"{count(variant, d_in + more_in, d_out + more_out) - expected}"
            )
        experiment = f"{'; '.join(told)}."
    question, hint = ABOUT[variant.name]
    return wrong(
        tried=f"{label} on a layer of {d_in} inputs and {d_out} outputs.",
        saw=f"{describe(seen)}.",
        expected=f"{expected}, which is what `attach` puts on such a layer.",
        experiment=experiment,
        question=question,
        more=(
            hint,
            "Attach it to a bare nn.Linear of that shape and print the shapes of `adapter.named_parameters()`.",
        ),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# ---- a budget -------------------------------------------------------------------------------------


@cache
def _shapes() -> dict[str, tuple[int, int]]:
    return layer_shapes(load_base()[0])


def matched(targets: str | Iterable[str] | None) -> list[tuple[int, int]]:
    """The shapes of the layers that `attach` would adapt."""
    patterns = (targets,) if isinstance(targets, str) else targets
    return [shape for path, shape in _shapes().items() if patterns is None or any(re.search(p, path) for p in patterns)]


def total(variant: Variant, targets: str | Iterable[str] | None = None) -> int:
    return sum(count(variant, *shape) for shape in matched(targets))


def of_rank(name: str, r: int) -> Variant:
    return AntiPaSTO(r=r, block_size=16) if name == "antipasto" else RANKED[name](r=r)


def fits(name: str, r: int) -> bool:
    try:
        return total(of_rank(name, r)) <= BUDGET
    except ValueError:
        return False


def ranks(answer) -> Verdict:
    if not isinstance(answer, Mapping) or set(RANKED) - set(answer):
        missing = sorted(set(RANKED) - set(answer)) if isinstance(answer, Mapping) else list(RANKED)
        return _no_ranks(describe(answer), f"a rank for each of the seven; {', '.join(missing)} has none.")
    for name in RANKED:
        r, label = answer[name], RANKED[name].__name__
        try:
            seen = total(of_rank(name, r))
        except (ValueError, TypeError) as error:
            experiment = f"I tried {label} on {_first_refusal(name, r)}."
            return _unfit(label, r, f"{error}.", experiment, "What does its rank count, and which numbers can that be?")
        if seen > BUDGET:
            smaller = max((k for k in range(1, r) if fits(name, k)), default=None)
            return _unfit(
                label,
                r,
                f"{seen:,} parameters, {seen - BUDGET:,} above the budget.",
                f"I went down from r = {r}, and {r - smaller} lower it fits." if smaller else "No rank below fits.",
            )
        if any(fits(name, k) for k in range(r + 1, 4 * r + 33)):
            return _unfit(
                label,
                r,
                f"{seen:,} parameters, which leaves {BUDGET - seen:,} of the budget.",
                f"I went up from r = {r}, and came to a larger one that fits too.",
            )
    return right(
        f"each fits within {BUDGET:,}, and the next rank that it can have does not, or there is none: AntiPaSTO has "
        "reached the narrowest layers. A budget is never used up to the last: ranks are whole numbers."
    )


def _no_ranks(saw: str, expected: str) -> Verdict:
    return wrong(
        tried="reading a rank for each method that has one.",
        saw=f"{saw}.",
        expected=expected,
        experiment="I looked for each name in turn, and stopped at the first that was not there.",
        question="Which names stood in the cell before you changed it?",
        more=("Keep the dictionary as it is and put numbers where the dots are.", "One whole number per name."),
    )


def _first_refusal(name: str, r: Any) -> str:
    for path, shape in _shapes().items():
        try:
            of_rank(name, r).specs(*shape)
        except (ValueError, TypeError):
            return f"each layer in turn, and {path} is the first that it does not fit"
    return "each layer in turn, and all took it"


def _unfit(
    label: str, r: Any, saw: str, experiment: str, question: str = "What does one rank more add on all layers together?"
) -> Verdict:
    return wrong(
        tried=f"{label} with r = {describe(r)} on the {len(_shapes())} linear layers of the base model.",
        saw=saw,
        expected=f"the largest rank that it can have within {BUDGET:,} parameters.",
        experiment=experiment,
        question=question,
        more=(
            "Sum your count over the layers for rank 1, 2, 3 and so on, and stop before the budget is passed.",
            "Not every whole number is a rank: mirrors come in pairs, blocks are full, and no rank passes the "
            "narrower side of the narrowest layer.",
        ),
    )


# ---- a plan --------------------------------------------------------------------------------------


def plan(answer) -> Verdict:
    if not isinstance(answer, Mapping) or {"variant", "lr"} - set(answer):
        return _no_plan(
            "a variant alone" if isinstance(answer, Variant) else describe(answer),
            "a dictionary with a variant and its rate",
            "looked for `variant` and `lr`, and did not find both",
            "Which names stood in the cell before you changed it?",
        )
    variant, lr, targets = answer["variant"], answer["lr"], answer.get("targets")
    if not isinstance(variant, Variant):
        is_class = isinstance(variant, type) and issubclass(variant, Variant)
        saw = f"the class {variant.__name__}, without a rank" if is_class else describe(variant)
        return _no_plan(
            saw,
            "a variant with its settings, such as the house's own",
            "asked it for its parameters on a layer, and it has no answer",
            "Which rank should it have?" if is_class else "What does `attach` take?",
        )
    if not _is_number(lr) or not 0 < lr <= 2:
        tried = [tried["lr"] for row in record()["rows"].values() for tried in row["sweep"]]
        return _no_plan(
            f"lr = {describe(lr)}",
            "a number above 0 and at most 2",
            f"looked up what the house tried, which is {min(tried):g} to {max(tried):g}",
            "How far shall one step of training go?",
        )
    try:
        layers = len(matched(targets))
        seen = total(variant, targets)
    except (ValueError, TypeError, re.error) as error:
        return _no_plan(
            str(error),
            "a variant that fits the layers",
            "put it on each layer in turn, and one refused it",
            "Which is the narrowest layer that it would go on?",
        )
    if not layers:
        return _no_plan(
            f"targets = {targets!r}, which is in no layer's path",
            "at least one layer",
            f"searched all {len(_shapes())} paths, from {min(_shapes())} on",
            "What are the layers called?",
        )
    if seen > BUDGET:
        return _no_plan(
            f"{seen:,} parameters on {layers} layers",
            f"at most {BUDGET:,}",
            f"counted layer by layer, and the budget is passed at number {_passed_at(variant, targets)} of {layers}",
            "What does one rank less save, or a layer that is left out?",
        )
    return right(f"{layers} layers, {seen:,} parameters: within {BUDGET:,}. Train it, and let validation say the rest.")


def _passed_at(variant: Variant, targets: str | Iterable[str] | None) -> int:
    found = matched(targets)
    return next(k for k in range(len(found) + 1) if sum(count(variant, *shape) for shape in found[:k]) > BUDGET)


def _no_plan(saw: str, expected: str, did: str, question: str) -> Verdict:
    return wrong(
        tried="reading your plan, before anything is trained.",
        saw=f"{saw.rstrip('.')}.",
        expected=f"{expected}.",
        experiment=f"I {did}.",
        question=question,
        more=(
            "The house's settings stand in `house.SETTINGS`, and each row has its rate: start from one of them.",
            "Count your plan with `trained` from step 1, over the layers that it adapts.",
        ),
    )


GRADERS = {
    "trained": trained,
    "ranks": ranks,
    "interval": interval,
    "decide": decide,
    "plan": plan,
    "submission": submission,
    "enough": enough,
}
