"""On what is trained, chosen and scored: three splits that share no operands, letters or paragraphs.

What the base model never saw (`held_out`) is parted by a hash of an example's numbers or letters, whatever their
order: a quarter is for choosing the rate, the rest for the score.
"""

import re
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .. import batches, tasks, text

SPLITS = ("validation", "test")
ITEMS = {"validation": 128, "test": 384}
ROWS = {"validation": 48, "test": 144}  # of prose
SKILL_ITEMS = 64


def split_of(prompt: str) -> str:
    """Of a held-out prompt, by its numbers, or by its letters where it has none."""
    parts = sorted(re.findall(r"\d+", prompt) or re.findall(r"\b[a-z]\b", prompt))
    return _split(",".join(parts))


def _split(key: str) -> str:
    return "validation" if zlib.crc32(f"split {key}".encode()) % 4 == 0 else "test"


@cache
def examples(name: str, split: str) -> tuple[tasks.Example, ...]:
    """The task's examples in a split, none twice; fewer than ITEMS where there are no more."""
    found: dict[tasks.Example, None] = {}
    for example in tasks.get(name).examples(40 * ITEMS["test"], 7, held_out=True):
        if split_of(example[0]) == split and len(found) < ITEMS[split]:
            found[example] = None
    return tuple(found)


@dataclass(frozen=True)
class Scored:
    """items: (n,) 1 or 0 for each answer, or each row's nats per token where it is prose; loss: nats per token."""

    items: Tensor
    loss: float


def batch(tokenizer, name: str, split: str) -> dict[str, Tensor]:
    if isinstance(tasks.get(name), tasks.Task):
        return batches.encode(tokenizer, list(examples(name, split)))
    paragraphs = [p for p in text.excerpt(name, held_out=True) if _split(p) == split]
    generator = torch.Generator().manual_seed(SPLITS.index(split))
    return batches.text_rows(batches.token_stream(tokenizer, paragraphs), ROWS[split], batches.TEXT_WIDTH, generator)


@torch.no_grad()
def score(model, asked: dict[str, Tensor], prose: bool) -> Scored:
    """What the model, in eval mode, makes of a batch."""
    training = model.training
    model.eval()
    labels = asked["labels"]
    logits = model(input_ids=asked["input_ids"], attention_mask=asked["attention_mask"]).logits
    model.train(training)
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2).float(), labels[:, 1:], ignore_index=batches.IGNORE, reduction="none"
    )  # (n, t - 1), 0 where there is no label
    counted = (labels[:, 1:] != batches.IGNORE).sum(1)
    items = losses.sum(1) / counted if prose else batches.exactly_right(logits, labels).double()
    return Scored(items, (losses.sum() / counted.sum()).item())


def skills(model, tokenizer) -> dict[str, Any]:
    """How much of what the base model could do is left: share right of each skill, and nats per token of its prose."""
    left: dict[str, Any] = {}
    for name, task in tasks.SKILLS.items():
        asked = batches.encode(tokenizer, task.examples(SKILL_ITEMS, 11, held_out=True))
        left[name] = round(score(model, asked, prose=False).items.mean().item(), 4)
    left["jargon"] = round(score(model, batch(tokenizer, "jargon", "test"), prose=True).loss, 4)
    return left
