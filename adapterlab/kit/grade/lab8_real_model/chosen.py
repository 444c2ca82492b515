"""A choice of variant, targets, rate and batch: does it fit the plan, and does it learn?"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import torch

import adapterlab as al

from ...real_model import sizes
from ..evidence import describe
from ..verdict import Verdict, right, wrong
from .planned import GIB, planned

PLANNED_FOR = "Qwen/Qwen3-0.6B"
BUDGET = 7.5 * GIB  # half of a T4
ROW = 45  # tokens of an example and its record
LEAST_ROWS = 8
STEPS = 24
LEFT = 0.14  # of the first loss


def choice(answer: Any) -> Verdict:
    problem = _malformed(answer)
    if problem:
        return problem
    size = sizes(PLANNED_FOR, answer["variant"], answer["targets"])
    bytes_needed = planned(size, answer["batch_size"] * ROW)
    if bytes_needed > BUDGET:
        half = planned(size, answer["batch_size"] * ROW // 2)
        thin = planned(size, 0)
        return wrong(
            tried=f"your choice on {PLANNED_FOR}'s shapes, {ROW} tokens a row, by the plan.",
            saw=f"{bytes_needed / GIB:.1f} GiB.",
            expected=f"at most {BUDGET / GIB:.1f} GiB.",
            experiment=f"I halved the batch: {half / GIB:.1f} GiB. With no tokens at all it is {thin / GIB:.1f} GiB.",
            question="Which of the four parts is the largest in yours, and which of your four choices moves it?",
            more=(
                "Trained numbers cost little here; what each token keeps, and its logits, costs most.",
                "Take fewer rows at a time. The plan says how many fit.",
            ),
        )
    tried = answer["variant"], answer["targets"], answer["lr"]
    first, last, healthy = _tried(*tried)
    if not healthy or last > LEFT * first:
        lower, higher = (_left(*_tried(*tried[:2], tried[2] * factor)) for factor in (0.1, 10))
        return wrong(
            tried=f"{STEPS} steps with it on the embedded base, in rows of 8.",
            saw=f"{_left(first, last, healthy)}.",
            expected="at most a seventh: what a record looks like is soon learnt.",
            experiment=f"I tried a tenth of the rate: {lower}. Then ten times the rate: {higher}.",
            question="Is a rate that leaves the loss where it is too high or too low? How would you tell?",
            more=(
                "Try a rate ten times higher and one ten times lower, and look at which of them falls faster. If "
                "neither does, more layers or a higher rank may be missing.",
                "The HRA and DoRA chapters train this base at rates of a few thousandths.",
            ),
        )
    return right(
        f"by the plan it needs {bytes_needed / GIB:.1f} of {BUDGET / GIB:.1f} GiB on {PLANNED_FOR}, and on the "
        f"embedded base the loss falls to less than a seventh in {STEPS} steps.",
        score=f"{size.trained:,} trained numbers, {size.trained / size.parameters:.2%} of the model.",
    )


def _left(first: float, last: float, healthy: bool) -> str:
    """In words: figures of a training differ between processors."""
    if not healthy:
        return "the loss is no number any more"
    share = last / first
    return (
        "nearly all of the loss is left"
        if share > 0.9
        else "a good part of the loss is left"
        if share > LEFT
        else "less than a seventh of the loss is left"
    )


@functools.lru_cache(maxsize=64)
def _tried(variant: al.Variant, targets: str, lr: float) -> tuple[float, float, bool]:
    from ... import records
    from ...base import load_base
    from ...training import train

    model, tokenizer = load_base()
    torch.manual_seed(0)
    al.attach(model, variant, targets=targets)
    try:
        run = train(
            model,
            tokenizer,
            records.RECORDS,
            steps=STEPS,
            batch_size=8,
            lr=lr,
            warmup=4,
            evaluate_every=STEPS,
            live=False,
        )
    except FloatingPointError:
        return 1.0, float("inf"), False
    return run.evaluations[0][2], run.evaluations[-1][2], True


def _malformed(answer: Any) -> Verdict | None:
    def told(saw: str, expected: str, experiment: str, question: str) -> Verdict:
        return wrong(
            tried="your choice as it stands, before anything is run.",
            saw=saw,
            expected=expected,
            experiment=experiment,
            question=question,
            more=(
                "A dictionary with four entries: variant, targets, lr, batch_size.",
                "A variant is one of the package's classes with its rank, targets is a pattern for module paths.",
            ),
        )

    keys = ["variant", "targets", "lr", "batch_size"]
    if not isinstance(answer, Mapping) or set(answer) != set(keys):
        has = list(answer) if isinstance(answer, Mapping) else []
        saw = f"a dictionary with {', '.join(map(str, has)) or 'nothing'}." if has else f"{describe(answer)}."
        return told(
            saw,
            f"a dictionary with {', '.join(keys)}.",
            f"I looked for the four: {sum(key in has for key in keys)} are there.",
            "Which entry is missing, or too much?",
        )
    variant, targets, lr, rows = (answer[key] for key in keys)
    if not isinstance(variant, al.Variant):
        return told(
            f"variant is {describe(variant)}.",
            "a variant with its rank, made from one of the package's classes.",
            f"I asked for its name: {getattr(variant, 'name', 'it has none')}.",
            "Did you name the method, or make one?",
        )
    blocks = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    try:
        hit = [name for name in blocks if isinstance(targets, str) and re.search(targets, f"model.layers.0.{name}")]
        head = isinstance(targets, str) and bool(re.search(targets, "lm_head"))
    except re.error as error:
        return told(
            f"targets is no pattern: {error}.",
            "a regular expression.",
            "I compiled it: it fails.",
            "Where does it stop making sense?",
        )
    if not hit or head:
        return told(
            f"targets = {describe(targets)} " + ("takes the head as well." if hit else "matches no layer."),
            "some or all of the seven linear layers of a block, and not the head.",
            f"I searched the seven paths: it matches {len(hit)} of them, and {'' if head else 'not '}lm_head.",
            "How are the layers of a block called, and what do their names have in common?",
        )
    number = isinstance(lr, (int, float)) and not isinstance(lr, bool) and math.isfinite(lr) and lr > 0
    whole = isinstance(rows, int) and not isinstance(rows, bool)
    if not number or not whole or rows < LEAST_ROWS:
        return told(
            f"lr = {describe(lr)}, batch_size = {describe(rows)}.",
            f"a rate above 0, and a whole number of rows, at least {LEAST_ROWS}: fewer make a ragged curve.",
            f"I compared: the rate is {'fine' if number else 'no rate'}, "
            f"the rows are {'no whole number' if not whole else 'too few' if rows < LEAST_ROWS else 'fine'}.",
            "Which of the two is it?",
        )
    return None
