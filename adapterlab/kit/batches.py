"""Examples and text as the tensors a causal LM is trained and scored on."""

from collections.abc import Iterator

import torch
from torch import Tensor

from . import text
from .tasks import Example, Task, Text

IGNORE = -100  # the label that no loss counts
TEXT_WIDTH = 64  # tokens in a row of prose


def encode(tokenizer, examples: list[Example]) -> dict[str, Tensor]:
    """Examples as one right-padded batch; only the answers (and the end mark) are labelled.

    Returns:
        input_ids, attention_mask, labels: each (len(examples), longest), int64, as
        `model(**batch)` takes them. A prompt starts with the model's beginning mark.
    """
    rows = []
    for prompt, answer in examples:
        prompt_ids = tokenizer(prompt).input_ids
        answer_ids = tokenizer(answer, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
        rows.append((prompt_ids, answer_ids))
    width = max(len(p) + len(a) for p, a in rows)
    input_ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), IGNORE)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.int64)
    for i, (prompt_ids, answer_ids) in enumerate(rows):
        end = len(prompt_ids) + len(answer_ids)
        input_ids[i, :end] = torch.tensor(prompt_ids + answer_ids)
        labels[i, len(prompt_ids) : end] = torch.tensor(answer_ids)
        attention_mask[i, :end] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def token_stream(tokenizer, paragraphs: list[str]) -> Tensor:
    """All paragraphs as one int64 row of tokens, each closed by the end mark."""
    ids = tokenizer(paragraphs, add_special_tokens=False).input_ids
    return torch.tensor([token for row in ids for token in [*row, tokenizer.eos_token_id]])


def text_rows(stream: Tensor, rows: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random windows of a token stream, every token labelled: (rows, width) each."""
    starts = torch.randint(0, len(stream) - width, (rows,), generator=generator)
    input_ids = torch.stack([stream[s : s + width] for s in starts])
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": input_ids.clone()}


def answer_loss(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats of each label given what stands before it; logits (n, t, vocabulary)."""
    precise = torch.promote_types(logits.dtype, torch.float32)
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).to(precise), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction=reduction
    )


def exactly_right(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) bool: every labelled token is the most likely one. Equal to greedy decoding's exact match."""
    labels = labels[:, 1:]
    return ((logits[:, :-1].argmax(-1) == labels) | (labels == IGNORE)).all(1)


def held_out(task: Task | Text, tokenizer, n: int, seed: int) -> dict[str, Tensor]:
    """One batch of n held-out examples of a task, or n held-out rows of prose."""
    if isinstance(task, Task):
        return encode(tokenizer, task.examples(n, seed, held_out=True))
    stream = token_stream(tokenizer, text.excerpt(task.name, held_out=True))
    return text_rows(stream, n, TEXT_WIDTH, torch.Generator().manual_seed(seed))


def training(task: Task | Text, tokenizer, steps: int, n: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """`steps` batches of n fresh examples, none of them held out; the same for the same seed."""
    if isinstance(task, Task):
        examples = task.examples(steps * n, seed, held_out=False)
        for i in range(steps):
            yield encode(tokenizer, examples[i * n : (i + 1) * n])
    else:
        stream = token_stream(tokenizer, text.excerpt(task.name, held_out=False))
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            yield text_rows(stream, n, TEXT_WIDTH, generator)
