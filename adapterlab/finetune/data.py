"""Examples as rows of tokens: from a JSON Lines file of prompts and completions, or from an embedded task."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

IGNORE = -100  # the label that no loss counts
SHOWN = 5  # bad lines that are named before the rest are counted
MOST = 2**15  # examples drawn from a task; a longer run sees them again


class DataError(ValueError):
    """What is wrong with the data, in a sentence or a few."""


@dataclass(frozen=True)
class Line:
    """An example and where it stands, counted from 1."""

    number: int
    prompt: str
    completion: str


def read_jsonl(path: Path) -> list[Line]:
    """The examples of a file with a JSON object on each line: {"prompt": "...", "completion": "..."}.

    Blank lines and other keys are passed over. A prompt may be empty, a completion may not.

    Raises:
        DataError: the file cannot be read or holds no example, or lines are not as above; each is named by number.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    lines, wrong = [], []
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            lines.append(Line(number, *_parse(raw)))
        except DataError as error:
            wrong.append((number, str(error)))
    refuse(path, wrong)
    if not lines:
        raise DataError(f"{path} holds no example: write one JSON object on each line, {_FORM}")
    return lines


_FORM = '{"prompt": "...", "completion": "..."}'


def _parse(raw: bytes) -> tuple[str, str]:
    try:
        found = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start + 1} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"no JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise DataError(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"a {_kind(found)}, where an object is wanted: {_FORM}")
    for key in ("prompt", "completion"):
        if key not in found:
            has = ", ".join(repr(k) for k in list(found)[:4]) or "nothing"
            raise DataError(f"no {key!r}; it has {has}")
        if not isinstance(found[key], str):
            raise DataError(f"its {key} is a {_kind(found[key])}, where text is wanted")
        try:
            found[key].encode()
        except UnicodeEncodeError:
            raise DataError(f"its {key} has half of a surrogate pair, which is no text") from None
    if not found["completion"].strip():
        raise DataError("its completion is empty: there is nothing to learn from it")
    return found["prompt"], found["completion"]


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def refuse(path: Path, wrong: list[tuple[int, str]]) -> None:
    """Raises DataError that names the first SHOWN of these lines and counts the rest."""
    if not wrong:
        return
    told = [f"  line {number}: {what}" for number, what in wrong[:SHOWN]]
    if len(wrong) > SHOWN:
        told.append(f"  and {len(wrong) - SHOWN} more, the last of them line {wrong[-1][0]}")
    one = len(wrong) == 1
    raise DataError("\n".join([f"{path} has {'a line' if one else f'{len(wrong)} lines'} that cannot be used:", *told]))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- rows -----------------------------------------------------------------------------------------


class Rows(torch.utils.data.Dataset):
    """Token ids and labels, each (t,), int64; a label is IGNORE where nothing is to be learnt."""

    def __init__(self, rows: list[tuple[list[int], list[int]]]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, list[int]]:
        ids, labels = self.rows[i]
        return {"input_ids": ids, "labels": labels}


def from_lines(lines: list[Line], tokenizer, longest: int, path: Path) -> Rows:
    """Each prompt and completion, closed by the end mark; the completion and the mark are labelled.

    Raises:
        DataError: rows are longer than the model takes.
    """
    rows, wrong = [], []
    prompts = tokenizer([line.prompt for line in lines]).input_ids
    completions = tokenizer([line.completion for line in lines], add_special_tokens=False).input_ids
    for line, prompt, completion in zip(lines, prompts, completions):
        answer = [*completion, tokenizer.eos_token_id]
        if len(prompt) + len(answer) > longest:
            wrong.append((line.number, f"{len(prompt) + len(answer)} tokens, and {longest} are the most"))
        elif not prompt:
            wrong.append((line.number, "its prompt has no token, and this tokenizer puts none before it"))
        rows.append(([*prompt, *answer], [IGNORE] * len(prompt) + answer))
    refuse(path, wrong)
    return Rows(rows)


def from_task(name: str, tokenizer, wanted: int, seed: int) -> Rows:
    """Examples of an embedded task, or rows of its prose, none of them held out.

    Raises:
        ValueError: there is no such task.
    """
    from ..kit import batches, tasks, text

    task, n = tasks.get(name), min(wanted, MOST)
    if isinstance(task, tasks.Task):
        examples = task.examples(n, seed, held_out=False)
        return from_lines([Line(0, *example) for example in examples], tokenizer, 2**62, Path(name))
    stream = batches.token_stream(tokenizer, text.excerpt(task.name, held_out=False))
    generator = torch.Generator().manual_seed(seed)
    rows = batches.text_rows(stream, n, batches.TEXT_WIDTH, generator)["input_ids"].tolist()
    return Rows([(row, row) for row in rows])


@dataclass(frozen=True)
class Pad:
    """Rows -> one right-padded batch: input_ids, attention_mask, labels, each (n, longest), int64."""

    token: int

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        width = max(len(row["input_ids"]) for row in rows)

        def padded(name: str, with_: int) -> Tensor:
            return torch.tensor([row[name] + [with_] * (width - len(row[name])) for row in rows])

        mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
        return {
            "input_ids": padded("input_ids", self.token),
            "attention_mask": torch.tensor(mask),
            "labels": padded("labels", IGNORE),
        }
