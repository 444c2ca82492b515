"""Lab 7's graders on the base model: what a coefficient costs, one chosen under a bound, and a gentler training."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

import adapterlab as al

from ...base import evaluate, load_base
from ...tasks import SKILLS, TASKS
from ...training import train
from ..evidence import describe
from ..verdict import Verdict, right, wrong

TASK = "add_rev"
OTHERS = tuple(name for name in SKILLS if name != "add")  # the task answers add's prompts otherwise
KEEP = 0.95
SLACK = 0.01  # of what is kept: other examples were counted by the reader
ROOM = 0.1  # of a coefficient


# ---- the lab's adapter ----------------------------------------------------------------------------


@functools.cache
def _numbers() -> dict:
    """What the lab's first cell trains: the same numbers, on the same machine."""
    model, tokenizer = load_base()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = al.attach(model, al.AntiPaSTO(r=32, block_size=32))
        train(model, tokenizer, TASK, lr=1e-2, steps=100, evaluate_every=100, live=False)
    return {name: p.detach().clone() for name, p in adapter.named_parameters()}


def steered():
    """model, tokenizer, adapter, as the lab has them."""
    model, tokenizer = load_base()
    adapter, numbers = al.attach(model, al.AntiPaSTO(r=32, block_size=32)), _numbers()
    with torch.no_grad():
        for name, p in adapter.named_parameters():
            p.copy_(numbers[name])
    return model, tokenizer, adapter


def scores(model, tokenizer, names, n: int) -> dict[str, float]:
    return {name: evaluate(model, tokenizer, name, n)["exact_match"] for name in names}


@functools.cache
def bargain(c: float, n: int = 128) -> tuple[float, float]:
    """-> what is kept of the untouched skills, in parts of what the base knows; and the task's score."""
    model, tokenizer, adapter = steered()
    adapter.coefficient = c
    found = scores(model, tokenizer, (*OTHERS, TASK), n)
    return sum(found[name] for name in OTHERS) / _known(n), found[TASK]


@functools.cache
def _known(n: int) -> float:
    return sum(scores(*load_base(), OTHERS, n).values())


# ---- the price ------------------------------------------------------------------------------------


def price(answer: Callable) -> Verdict:
    model, tokenizer, adapter = steered()
    adapter.coefficient = 0.75
    seen = answer(model, tokenizer, adapter, 0.5, 16)
    left = adapter.coefficient
    adapter.coefficient = 0.5
    true = scores(model, tokenizer, SKILLS, 16)
    if not isinstance(seen, Mapping) or not set(seen) <= {*SKILLS, *TASKS}:
        saw, asked = f"it returned {describe(seen)}.", "What would you look up in the answer, and by which name?"
    elif more := sorted(set(seen) - set(OTHERS)):
        saw = f"{', '.join(more)} is among the skills."
        asked = "Can a model that writes sums backwards be right on the same prompts the other way round?"
    elif fewer := sorted(set(OTHERS) - set(seen)):
        saw, asked = (
            f"{', '.join(fewer)} is missing.",
            "Which skills have prompts that the task never answers otherwise?",
        )
    elif any(abs(seen[name] - true[name]) > 1e-6 for name in OTHERS):
        far = max(OTHERS, key=lambda name: abs(seen[name] - true[name]))
        saw = f"{far} is {seen[far]:.2f}, and I count {true[far]:.2f}."
        asked = "At which coefficient does the model stand while you count?"
    elif left != 0.75:
        saw, asked = f"the coefficient was 0.75, and is {left:g} afterwards.", "Who uses the adapter after you?"
    else:
        return right(
            f"the exact match of {len(OTHERS)} skills at the coefficient that was asked for, which is then as it "
            "was. add is none of them: its prompts are the task's own, and each has one answer only."
        )
    if isinstance(seen, Mapping) and set(seen) == set(OTHERS):
        adapter.coefficient = 0.75
        found = [answer(model, tokenizer, adapter, c, 16)["reverse"] for c in (0.0, 1.5)]
        experiment = (
            f"I asked for 0 and then for 1.5 and set nothing myself: reverse came back as {found[0]:.2f} and "
            f"{found[1]:.2f}, and then the coefficient stood at {adapter.coefficient:g}."
        )
    else:
        both = sum(prompt in _prompts(TASK) for prompt in _prompts("add"))
        none = sum(prompt in _prompts(TASK) for name in OTHERS for prompt in _prompts(name))
        experiment = (
            f"I drew prompts of each skill: {both} of {len(_prompts('add'))} of add's are prompts of {TASK} too, and "
            f"{none} of all the other skills'."
        )
    return wrong(
        tried="the adapter of this lab, standing at 0.75; I asked for c = 0.5 and 16 examples of each skill.",
        saw=saw,
        expected="skill to exact match, for each skill that the task leaves alone, and the coefficient as it was.",
        experiment=experiment,
        question=asked,
        more=(
            "kit.SKILLS names all that the base knows; one of them the task has taken over.",
            "Note the coefficient, set it to c, evaluate each skill, set it back, return the dict.",
        ),
    )


@functools.cache
def _prompts(name: str) -> frozenset[str]:
    return frozenset(prompt for prompt, _ in (SKILLS | TASKS)[name].examples(2000, 0, held_out=True))


# ---- the choice -----------------------------------------------------------------------------------


def choice(answer: Any) -> Verdict:
    number = isinstance(answer, (int, float)) and not isinstance(answer, bool) and -4 <= answer <= 4
    c = round(float(answer), 3) if number else 0.5
    (kept, task), (kept_on, task_on) = bargain(c), bargain(round(c + ROOM, 3))
    held = kept >= KEEP - SLACK
    room = c < 0 or kept_on >= KEEP + SLACK
    if number and held and not room:
        return right(
            f"counted anew, it keeps {kept:.0%}, for {task:.0%} of the task, and a tenth more would be at the edge or "
            "past it. How little that buys is the finding: a coefficient turns everything at once, what you want and "
            "what you pay with.",
        )
    if not number:
        saw, asked = f"you chose {describe(answer)}.", "Of what type is a coefficient, and of what type is your answer?"
    elif not held:
        saw = f"{kept:.0%} of the untouched skills are kept, and the task is right in {task:.0%}."
        asked = "Where on the curve does what is kept first fall below the line?"
    else:
        saw = f"{kept:.0%} are kept, and the task is right in {task:.0%}: there is room."
        asked = "Does the task gain if you go on, and does the line still hold there?"
    where = f"At {round(c + ROOM, 3):g}" if number and held else f"At {round(c - ROOM, 3):g}"
    other = (kept_on, task_on) if number and held else bargain(round(c - ROOM, 3))
    return wrong(
        tried="the adapter of this lab, trained once more, at your coefficient, on 128 held-out examples of each "
        "skill.",
        saw=saw,
        expected=f"at least {KEEP:.0%} kept, and as much of the task as that allows, to a tenth of a coefficient.",
        experiment=f"{where} it is {other[0]:.0%} kept and {other[1]:.0%} of the task.",
        question=asked,
        more=(
            "Both curves are in the figure above. Read off the last coefficient at which the kept one is above the "
            "line.",
            "Among the coefficients that keep enough take the one with the best score of the task, in steps of 0.05.",
        ),
    )


# ---- a gentler training ---------------------------------------------------------------------------

GENTLE, LEARNT = 0.8, 0.5


def gentler(answer: Callable) -> Verdict:
    model, tokenizer = load_base()
    adapter = al.attach(model, al.AntiPaSTO(r=32, block_size=32))
    answer(model, tokenizer, adapter)
    found = scores(model, tokenizer, (*OTHERS, TASK), 128)
    kept, task = sum(found[name] for name in OTHERS) / _known(128), found[TASK]
    whole = [p for p in model.parameters() if p.requires_grad and not any(p is own for own in adapter.parameters())]
    score = f"{kept:.0%} kept, {task:.0%} of the task"
    if kept >= GENTLE and task >= LEARNT and not whole and adapter.coefficient == 1:
        return right(
            f"{score} at coefficient 1. The same axes, the same cap, another "
            "question: what the training asks for is what the turn keeps.",
        )
    worst = min(OTHERS, key=found.get)
    kept_plain, task_plain = bargain(1.0)
    if adapter.coefficient != 1:
        asked = "At which coefficient is the model asked, and where did you leave it?"
    elif task < LEARNT:
        asked = "What share of each batch is still about the task, and are there enough steps for it?"
    elif kept < GENTLE:
        asked = "What in your loss notices that a skill gets lost?"
    else:
        asked = "What else did you change, apart from the adapter's numbers?"
    return wrong(
        tried="your training on a fresh AntiPaSTO; then 128 held-out examples of each skill, at coefficient 1.",
        saw=f"{score}; the coefficient is {adapter.coefficient:g}, and {len(whole)} parameters of the base are "
        "trainable.",
        expected=f"at least {GENTLE:.0%} kept and {LEARNT:.0%} of the task, by the adapter alone, at coefficient 1.",
        experiment=f"Skill by skill: the worst is {worst} with {found[worst]:.0%}. Plain training of this lab gives "
        f"{kept_plain:.0%} kept and {task_plain:.0%} of the task.",
        question=asked,
        more=(
            "Let each batch hold examples of the skills beside those of the task, with the answers the base gives.",
            "Twenty of the task and twelve of the others, for a hundred steps at the lab's rate, is enough.",
        ),
    )
