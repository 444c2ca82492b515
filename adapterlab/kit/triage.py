"""Adapter files with the record of their training: what the triage lab looks at. `mystery.py` makes them."""

import copy
import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

import adapterlab as al

from . import batches, style
from .base import answer, evaluate, load_base
from .pictures import Line, Panel, picture
from .show import Picture, Table
from .tasks import Example
from .training import Run

FOLDER = Path(str(resources.files("adapterlab.kit") / "data" / "mystery"))
RECORD = FOLDER / "record.json"


@dataclass(frozen=True)
class Case:
    """One adapter file, and what its training wrote down.

    Attributes:
        name: "case 1" and so on; the healthy ones are called after their variant.
        path: of the file, for `al.load`.
        curve: losses and scores as the training code saw them. It was told to score on examples that it did not
            train on.
        trained: 64 of the examples (prompt, answer) that it was trained on.
    """

    name: str
    path: Path
    curve: Run
    trained: tuple[Example, ...]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What the file holds: full name -> tensor, read anew each time."""
        with safe_open(self.path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}

    @property
    def header(self) -> dict:
        """What the file says of itself: variant, fields and scale of each layer, the base's fingerprint."""
        with safe_open(self.path, "pt") as file:
            return json.loads(file.metadata()["adapterlab"])

    @property
    def variants(self) -> str:
        """As in "LoRA(r=4, alpha=16, rslora=False)"."""
        return ", ".join(
            f"{al.VARIANTS[entry['variant']].__name__}({', '.join(f'{k}={v}' for k, v in entry['fields'].items())})"
            for entry in self.header["passes"]
        )

    def named(self, kind: str) -> list[Tensor]:
        """The file's tensors of one kind, such as "lora_A", layer by layer; none where it has no such kind."""
        return [tensor for name, tensor in self.tensors.items() if name.endswith(f".{kind}")]

    def serve(self) -> nn.Module:
        """The base model with this adapter on it, as `al.load` puts it there; another copy each time."""
        model = base()
        al.load(model, self.path)
        return model

    def layers(self, model: nn.Module) -> list[nn.Module]:
        """The layers of a served model that have an adapter, as `layer.adapter`."""
        return [layer for layer in model.modules() if hasattr(layer, "adapter")]

    @torch.no_grad()
    def score(self, model: nn.Module, examples: tuple[Example, ...] | None = None) -> float:
        """Exact match of a model: on these examples, or on 256 held-out ones of the case's task."""
        if examples is None:
            return evaluate(model, _base()[1], self.curve.task)["exact_match"]
        batch = batches.encode(_base()[1], list(examples))
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return batches.exactly_right(logits, batch["labels"]).float().mean().item()


@functools.cache
def _base():
    return load_base()


def base() -> nn.Module:
    """A fresh copy of the embedded base model."""
    return copy.deepcopy(_base()[0])


def cases() -> list[Case]:
    """The six mysteries."""
    return _read("case")


def healthy() -> list[Case]:
    """Adapters of the same kinds with nothing wrong, trained with other seeds."""
    return _read("healthy")


def _read(kind: str) -> list[Case]:
    found = []
    for row in json.loads(RECORD.read_text())["rows"]:
        if row["kind"] == kind:
            curve = Run(row["task"], row["label"], row["steps"], row["lr"], row["seed"], row["losses"])
            curve.evaluations += map(tuple, row["evaluations"])
            found.append(Case(row["name"], FOLDER / row["file"], curve, tuple(map(tuple, row["trained"]))))
    return found


# ---- to look at -----------------------------------------------------------------------------------


def curves(of: list[Case]) -> Picture:
    """Loss and own score of each, as its training code wrote them down."""

    def means(losses: list[float]) -> list[tuple[int, float]]:
        return [(k + 10, sum(losses[k : k + 10]) / 10) for k in range(0, len(losses), 10)]

    def panel(title: str, points) -> Panel:
        return Panel(title, "step", "", [Line(case.name, case.curve.label, points(case.curve)) for case in of])

    return picture(
        panel("loss, means of 10 steps", lambda run: means(run.losses)),
        panel("its own score", lambda run: [(step, score) for step, score, _ in run.evaluations]),
        alt="Losses that fall and scores that rise.",
        caption="As written down in training. The colour is that of the variant which the file names.",
    )


def overview(of: list[Case]) -> Table:
    """What each file says it is, and how its training went by its own record."""
    rows = [
        (
            case.name,
            case.variants,
            f"{case.curve.losses[0]:.1f}",
            f"{sum(case.curve.losses[-10:]) / 10:.2f}",
            f"{case.curve.exact_match:.2f}",
        )
        for case in of
    ]
    return Table(["", "the file says", "first loss", "last losses", "own score"], rows)


def answers(of: list[Case], prompts: Mapping[str, str]) -> Table:
    """What each says when it is served: prompt -> the answer that it should give."""
    rows = [("should be", *prompts.values())]
    for case in of:
        model = case.serve()
        rows.append((case.name, *(answer(model, _base()[1], prompt) for prompt in prompts)))
    return Table(["", *prompts], rows)


Seen = dict[str, dict[str, float]]  # whose evidence -> of which adapter -> the number


def reading(evidence: Any, case: Case) -> float:
    """The number that the evidence is; NaN where it gives none."""
    try:
        return float(evidence(case))
    except Exception:  # whatever an unfinished answer does: its grader says what
        return math.nan


def readings(answers: Any, of: list[Case]) -> Seen:
    """The evidence of an answer {"case 1": (bug, evidence), ...} on every adapter."""
    pairs = answers if isinstance(answers, Mapping) else {}
    return {
        name: {
            case.name: reading(pair[1] if isinstance(pair, (tuple, list)) and pair[1:] else None, case) for case in of
        }
        for name, pair in pairs.items()
    }


def stand_out(seen: Seen) -> Picture:
    """One panel per piece of evidence, one dot per adapter; the one that it is about is filled."""
    fig, axes = style.figure(columns=max(1, len(seen)), height=3.2, width=7.2)
    told = []
    for ax, (about, values) in zip([axes] if len(seen) < 2 else axes, seen.items()):
        for y, (name, value) in enumerate(values.items()):
            filled = {"fillstyle": "full" if name == about else "none", "markersize": 8 if name == about else 6}
            ax.plot(value, y, "o", color=style.MARKS["hra" if name == about else "full"].line, **filled)
        ax.set(title=f"evidence for {about}", yticks=range(len(values)), yticklabels=list(values))
        ax.invert_yaxis()
        rest = [value for name, value in values.items() if name != about]
        told.append(f"{about}: {values.get(about, math.nan):.2g} there, {min(rest):.2g} to {max(rest):.2g} elsewhere.")
    return Picture(fig, f"Each piece of evidence on every adapter. {' '.join(told)}", "Filled: the one it is about.")


def matrix(*seen: Seen) -> Table:
    """Every piece of evidence on every adapter; that of the adapter itself is bold."""
    columns = {about: values for part in seen for about, values in part.items()}
    names = list(dict.fromkeys(name for values in columns.values() for name in values))

    def cell(about: str, name: str) -> str:
        text = f"{columns[about].get(name, math.nan):.2f}"
        return f"**{text}**" if about == name else text

    rows = [(name, *(cell(about, name) for about in columns)) for name in names]
    return Table(["evidence for", *columns], rows)
