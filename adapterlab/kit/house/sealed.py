"""The sealed split: three looks, and what each of them is told."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..base import load_base
from . import bootstrap
from .recipe import BUDGET
from .recorded import Row, rows
from .task import _SPLITS, answered

LOOKS = 3
WORDS = {"better": "beats", "tied": "tied", "worse": "below"}


@dataclass(frozen=True, eq=False)
class Result:
    """What the sealed split says of a submitted adapter.

    Attributes:
        parameters: that the adapter holds.
        validation: share of the validation split that it answers right.
        look: which of the three looks it took.
    """

    parameters: int
    validation: float
    look: int
    _right: Tensor  # (items,), 0 or 1

    @property
    def score(self) -> float:
        return self._right.mean().item()

    @property
    def interval(self) -> tuple[float, float]:
        return bootstrap.of_mean(self._right)

    def against(self, row: Row) -> tuple[float, float]:
        """The paired 95 % interval of its score less the row's."""
        return bootstrap.interval(self._right, row._sealed.mean(0))

    def grades(self) -> dict[str, str]:
        """Row -> "beats", "tied" or "below": whether it beats the row, is tied with it, or is below it."""
        return {name: WORDS[bootstrap.decide(*self.against(row))] for name, row in rows().items()}

    def tally(self) -> str:
        """The grades in one line."""
        found = list(self.grades().values())
        return f"beats {found.count('beats')}, tied with {found.count('tied')}, below {found.count('below')}"

    def _repr_markdown_(self) -> str:
        low, high = self.interval
        lines = [
            f"**{self.score:.3f}** of the sealed split, {low:.3f} to {high:.3f}, with {self.parameters:,} parameters. "
            f"Look {self.look} of {LOOKS}.",
            "",
            "| row | its score | yours less its | grade |",
            "| --- | --- | --- | --- |",
        ]
        for row, grade in zip(rows().values(), self.grades().values()):
            low, high = self.against(row)
            lines.append(f"| {row.label} | {row.score:.3f} | {low:+.3f} to {high:+.3f} | {grade} |")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Result({self.score:.3f}, look {self.look} of {LOOKS}: {self.tally()})"


@dataclass(frozen=True)
class Refusal:
    """A submission that was not scored, and why."""

    why: str

    def _repr_markdown_(self) -> str:
        return f"**Not scored.** {self.why}"

    def __repr__(self) -> str:
        return f"Not scored. {self.why}"


class Seal:
    """Scores adapters on the sealed split, three different ones at most in one session.

    The same adapter again gets the same result and costs no look. A Result shows no item and no answer.
    """

    _results: dict[str, Result] = {}  # of the whole session: another Seal has no looks of its own

    @property
    def left(self) -> int:
        """How many looks there are still."""
        return LOOKS - len(self._results)

    def submit(self, model, tokenizer) -> Result | Refusal:
        """Score the base model with a trained adapter attached, against every row of the house.

        A model without an adapter, one whose base is not the embedded one bit for bit, one above the budget, and a
        fourth one are refused; that costs no look.
        """
        adapters = {path: m.adapter for path, m in model.named_modules() if isinstance(_adapter(m), nn.Module)}
        if not adapters:
            return Refusal("The model has no adapter: attach one and train it.")
        parameters = sum(p.numel() for adapter in adapters.values() for p in adapter.parameters())
        if parameters > BUDGET:
            return Refusal(f"It has {parameters:,} parameters, {parameters - BUDGET:,} above the budget of {BUDGET:,}.")
        if not _is_base(model):
            return Refusal("Something beside the adapter has changed: start from a fresh `kit.load_base()`.")
        key = _digest(adapters)
        if key not in self._results:
            if not self.left:
                return Refusal(
                    f"All {LOOKS} looks are spent, and this would be one more. Choose on validation, which is free; "
                    "what you choose by looking at the sealed split is no longer measured by it."
                )
            validation = answered(model, tokenizer, _SPLITS["validation"]).double().mean().item()
            right = answered(model, tokenizer, _SPLITS["sealed"]).double()
            self._results[key] = Result(parameters, validation, len(self._results) + 1, right)
        return self._results[key]


def _adapter(module: nn.Module):
    return getattr(module, "adapter", None)


def _is_base(model: nn.Module) -> bool:
    theirs = model.state_dict()
    return all(
        name in theirs and theirs[name].shape == tensor.shape and torch.equal(theirs[name].cpu(), tensor)
        for name, tensor in load_base()[0].state_dict().items()
    )


def _digest(adapters: dict[str, nn.Module]) -> str:
    found = hashlib.sha256()
    for path, adapter in adapters.items():
        found.update(f"{path} {adapter.variant}".encode())
        for name, tensor in adapter.state_dict().items():
            found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
