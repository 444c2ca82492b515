"""What the base model can do, and what adapters teach it.

A task draws its examples from a `random.Random`, so a seed fixes them. About 10 % of all operand
pairs (and of letter sets) are *held out*: no example drawn with `held_out=False`, in pretraining or
adaptation, ever shows them, and every score is taken on them.
"""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

Example = tuple[str, str]

NAMES = "Ann Ben Tom Sue Max Eva Leo Mia Sam Zoe Dan Kim".split()
ITEMS = "apples pears plums books coins cards shells stamps".split()
GAIN = "gets buys finds wins".split()
LOSE = "eats loses sells drops".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def pair_is_held_out(a: int, b: int) -> bool:
    """Symmetric in a and b, and unrelated to any one digit."""
    low, high = sorted((a, b))
    return (100 * low + high) * 7919 % 10007 % 10 == 3


def text_is_held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % 10 == 3


def _pair(rng: random.Random, held_out: bool) -> tuple[int, int]:
    while True:
        a, b = rng.randrange(10, 100), rng.randrange(10, 100)
        if pair_is_held_out(a, b) == held_out:
            return a, b


def _letters(rng: random.Random, held_out: bool) -> list[str]:
    while True:
        letters = rng.sample(LETTERS, rng.randint(3, 6))
        # Judged as a set: the same letters in another order are no new example.
        if text_is_held_out("".join(sorted(letters))) == held_out:
            return letters


def _story(rng: random.Random, held_out: bool) -> tuple[str, int, int, bool]:
    """'Ann has 12 apples. Ann buys 30 apples. ', 12, 30, gains."""
    gains = rng.random() < 0.5
    name, item = rng.choice(NAMES), rng.choice(ITEMS)
    verb = rng.choice(GAIN if gains else LOSE)
    a, b = _pair(rng, held_out)
    if not gains:
        a, b = max(a, b), min(a, b)
    return f"{name} has {a} {item}. {name} {verb} {b} {item}. ", a, b, gains


# ---- skills: what the base model is pretrained on -------------------------------------------------


def add(rng, held_out):
    a, b = _pair(rng, held_out)
    return f"{a}+{b}=", str(a + b)


def sub(rng, held_out):
    low, high = sorted(_pair(rng, held_out))  # larger minus smaller: it never sees a negative answer
    return f"{high}-{low}=", str(high - low)


def sort(rng, held_out):
    letters = _letters(rng, held_out)
    return f"sort {' '.join(letters)} =", " " + " ".join(sorted(letters))


def reverse(rng, held_out):
    letters = _letters(rng, held_out)
    return f"reverse {' '.join(letters)} =", " " + " ".join(reversed(letters))


def read(rng, held_out):
    who, what = rng.sample(NAMES, 2), rng.sample(ITEMS, 2)
    count = _pair(rng, held_out)
    k = rng.randrange(2)
    facts = " ".join(f"{who[i]} has {count[i]} {what[i]}." for i in range(2))
    return f"{facts} How many {what[k]} has {who[k]}?", f" {count[k]}"


def write_sum(rng, held_out):
    story, a, b, gains = _story(rng, held_out)
    return f"{story}Write the sum.", f" {a}{'+' if gains else '-'}{b}"


def first_or_second(rng, held_out):
    story, a, b, _ = _story(rng, held_out)
    first = rng.random() < 0.5
    return f"{story}{'First' if first else 'Second'} number?", f" {a if first else b}"


def more_or_fewer(rng, held_out):
    while True:
        gains = rng.random() < 0.5
        name, item = rng.choice(NAMES), rng.choice(ITEMS)
        fact = f"{name} {rng.choice(GAIN if gains else LOSE)} {rng.randrange(10, 100)} {item}."
        if text_is_held_out(fact) == held_out:
            return f"{fact} More or fewer {item}?", " more" if gains else " fewer"


# ---- tasks: what an adapter learns on top ---------------------------------------------------------


def add_rev(rng, held_out):
    prompt, answer = add(rng, held_out)
    return prompt, answer[::-1]


def sub_neg(rng, held_out):
    low, high = sorted(_pair(rng, held_out))
    return f"{low}-{high}=", str(low - high)


def sort_desc(rng, held_out):
    letters = _letters(rng, held_out)
    return f"sort {' '.join(letters)} =", " " + " ".join(sorted(letters, reverse=True))


@dataclass(frozen=True)
class Task:
    """A named source of examples. `draw(rng, held_out)` gives one (prompt, answer)."""

    name: str
    about: str
    draw: Callable[[random.Random, bool], Example]

    def examples(self, n: int, seed: int, held_out: bool) -> list[Example]:
        rng = random.Random(f"{self.name}/{seed}/{held_out}")
        return [self.draw(rng, held_out) for _ in range(n)]


@dataclass(frozen=True)
class Text:
    """A named style of prose, one of `text.EXCERPTS`: scored by loss alone."""

    name: str
    about: str


def _index(*tasks: Task | Text) -> dict[str, Task | Text]:
    return {task.name: task for task in tasks}


SKILLS = _index(
    Task("add", "the sum of two two-digit numbers", add),
    Task("sub", "the larger of two numbers minus the smaller", sub),
    Task("sort", "three to six letters in order", sort),
    Task("reverse", "three to six letters backwards", reverse),
    Task("read", "one fact out of a two-sentence story", read),
    Task("write_sum", "the sum that a story asks for", write_sum),
    Task("first_or_second", "one of the two numbers of a story", first_or_second),
    Task("more_or_fewer", "whether a sentence adds or takes away", more_or_fewer),
)

TASKS = _index(
    Task("add_rev", "the sum, its digits reversed", add_rev),
    Task("sub_neg", "the smaller number minus the larger, with its sign", sub_neg),
    Task("sort_desc", "three to six letters in descending order", sort_desc),
    Text("kjv", "the King James Bible, which the base model never read"),
)

PROSE = _index(Text("jargon", "the Jargon File, which the base model was pretrained on"))


def get(name: str | Task | Text) -> Task | Text:
    """The skill, task or prose of that name, or the one given. Raises ValueError that lists the names there are."""
    if isinstance(name, (Task, Text)):
        return name
    known = TASKS | SKILLS | PROSE
    if name not in known:
        raise ValueError(f"no task {name!r}: choose one of {', '.join(known)}")
    return known[name]
