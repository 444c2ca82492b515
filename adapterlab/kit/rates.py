"""Small training runs by the dozen: loss against learning rate, and what was recorded of it.

The adapter sits on all linear layers of the base model's last block, so what the frozen blocks below make of a batch
never changes and is computed once. A run is then a quarter of a second.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch

from .. import LoRA, attach, effective_weight
from . import batches, tasks
from .base import HELD_OUT_SEED, load_base

TASK, STEPS, BATCH, WARMUP, HELD_OUT = "sub_neg", 24, 16, 4, 256
WITHIN = 1.15  # the plateau's losses are at most so many times the lowest

ANCHOR = "r = 8, alpha = 16"
SETTINGS = {
    ANCHOR: LoRA(r=8, alpha=16),
    "r = 8, alpha = 128": LoRA(r=8, alpha=128),
    "r = 1, alpha = 16": LoRA(r=1, alpha=16),
    "r = 64, alpha = 16": LoRA(r=64, alpha=16),
    "r = 64, alpha = 16, rsLoRA": LoRA(r=64, alpha=16, rslora=True),
}


class Trials:
    """Trains one adapter at a time on the base model's last block, always on the same batches for a seed."""

    def __init__(self):
        self.model, self.tokenizer = load_base()
        self.model.requires_grad_(False)
        self.last = len(self.model.model.layers) - 1
        self.kept: dict[int, list] = {}  # seed -> what the blocks below made of each batch
        self.held_out = self._below(batches.held_out(tasks.get(TASK), self.tokenizer, HELD_OUT, HELD_OUT_SEED))

    def loss(self, variant, lr: float, seed: int = 0) -> float:
        """Nats per held-out answer token after training; infinite if it stopped being finite on the way.

        AdamW without weight decay, linear warm-up and decay, gradients clipped to norm 1, as `kit.train`.
        """
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            with attach(self.model, variant, layers=[self.last]) as adapter:
                parameters = list(adapter.parameters())
                optimizer = torch.optim.AdamW(parameters, lr, weight_decay=0.0)
                schedule = torch.optim.lr_scheduler.LambdaLR(
                    optimizer, lambda step: min(1.0, (step + 1) / WARMUP) * (1 - step / STEPS)
                )
                for batch in self._batches(seed):
                    loss = self._loss(batch)
                    if not loss.isfinite():
                        return math.inf
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                with torch.no_grad():
                    loss = self._loss(self.held_out).item()
        return loss if math.isfinite(loss) else math.inf

    def first_step(self, variant, lr: float, optimizer: str = "adam", seed: int = 0) -> "Step":
        """How far one step at this rate moves the weights of the block, and what it moves in the answers."""
        if optimizer not in ("adam", "sgd"):
            raise ValueError(f"optimizer = {optimizer!r}: choose 'adam' or 'sgd'")
        batch = self._batches(seed)[0]
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            with attach(self.model, variant, layers=[self.last]) as adapter:
                before = self._logits(batch).detach()
                self._loss(batch).backward()
                cls = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
                cls(list(adapter.parameters()), lr).step()
                with torch.no_grad():
                    labelled = batch.labels[:, 1:] != batches.IGNORE
                    moved = (self._logits(batch) - before)[:, :-1][labelled]  # (answer tokens, vocabulary)
                    square = 0.0
                    for path in adapter.targets:
                        layer = self.model.get_submodule(path)
                        square += (effective_weight(layer)[0] - layer.weight).square().sum().item()
        return Step(math.sqrt(square), moved.square().mean().sqrt().item())

    # ---- the block and what is above it -----------------------------------------------------------

    def _batches(self, seed: int) -> list["Below"]:
        if seed not in self.kept:
            drawn = batches.training(tasks.get(TASK), self.tokenizer, STEPS, BATCH, seed)
            self.kept[seed] = [self._below(batch) for batch in drawn]
        return self.kept[seed]

    @torch.no_grad()
    def _below(self, batch: Mapping[str, torch.Tensor]) -> "Below":
        caught = []
        block = self.model.model.layers[self.last]
        handle = block.register_forward_pre_hook(
            lambda _, args, kwargs: caught.append((args, kwargs)), with_kwargs=True
        )
        try:
            self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        finally:
            handle.remove()
        return Below(*caught[0], batch["labels"])

    def _logits(self, batch: "Below") -> torch.Tensor:
        hidden = self.model.model.layers[self.last](*batch.args, **batch.kwargs)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return self.model.lm_head(self.model.model.norm(hidden))

    def _loss(self, batch: "Below") -> torch.Tensor:
        return batches.answer_loss(self._logits(batch), batch.labels)


@dataclass(frozen=True)
class Below:
    """What the last block is called with for a batch, and the labels of the batch."""

    args: tuple
    kwargs: dict
    labels: torch.Tensor


@dataclass(frozen=True)
class Step:
    """One optimiser step: the norm of all dW of the block together, and the change of the logits (root mean square)."""

    weights: float
    outputs: float


def is_rate(value: Any) -> bool:
    """Whether it can be a learning rate: a positive number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


# ---- the U ------------------------------------------------------------------------------------------


def plateau(rates: Sequence[float], losses: Sequence[float], within: float = WITHIN) -> tuple[float, float]:
    """The lowest and the highest rate of the U's floor: around the lowest loss, as far as losses are within `within`
    times it. Between two points the loss is taken to run straight, over the logarithm of the rate."""
    points = sorted(zip(rates, losses))
    best = min(range(len(points)), key=lambda i: points[i][1])
    limit = within * points[best][1]

    def edge(step: int) -> float:
        i = best
        while 0 <= i + step < len(points) and points[i + step][1] <= limit:
            i += step
        if not 0 <= i + step < len(points):
            return points[i][0]
        (rate, loss), (beyond, above) = points[i], points[i + step]
        share = (limit - loss) / (above - loss) if math.isfinite(above) else 0.0
        return rate * (beyond / rate) ** share

    return edge(-1), edge(+1)


def middle(low: float, high: float) -> float:
    """The centre of a plateau: its middle on a logarithmic axis."""
    return math.sqrt(low * high)


def octaves(rate: float, floor: tuple[float, float]) -> float:
    """How many doublings a rate is above a plateau (or below: negative); 0 inside."""
    low, high = floor
    return math.log2(rate / high) if rate > high else min(0.0, math.log2(rate / low))


@dataclass(frozen=True)
class Measured:
    """A recorded U: losses[seed][i] at rates[i]."""

    rates: list[float]
    losses: list[list[float]]

    @property
    def mean(self) -> list[float]:
        return [sum(column) / len(column) for column in zip(*self.losses)]

    @property
    def floor(self) -> tuple[float, float]:
        return plateau(self.rates, self.mean)

    @property
    def centre(self) -> float:
        return middle(*self.floor)


def record() -> dict:
    """The recorded file, as `python -m adapterlab.kit.rates_record` writes it."""
    return json.loads((resources.files(__package__) / "data/rates.json").read_text())


def measured() -> dict[str, Measured]:
    """Setting -> its recorded U."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for row in record()["rows"]:
        loss = math.inf if row["loss"] is None else row["loss"]
        found.setdefault(row["setting"], {}).setdefault(row["seed"], []).append((row["lr"], loss))
    return {
        name: Measured([lr for lr, _ in seeds[0]], [[loss for _, loss in points] for points in seeds.values()])
        for name, seeds in found.items()
    }


# ---- the budget -------------------------------------------------------------------------------------


class BudgetSpent(RuntimeError):
    """There is no run left."""


class Budget:
    """A number of training runs, counted down as they are spent.

    Args:
        train: (variant, lr) -> loss; default: `Trials().loss`.

    Attributes:
        spent: (variant, lr, loss) of each run, in order.
    """

    def __init__(self, runs: int = 12, train: Callable[..., float] | None = None):
        self.runs, self.train, self.spent = runs, train or Trials().loss, []

    @property
    def left(self) -> int:
        return self.runs - len(self.spent)

    def run(self, variant, lr: float) -> float:
        """Train once and return the held-out loss.

        Raises:
            ValueError: lr is no positive number; no run is spent.
            BudgetSpent: all runs are spent.
        """
        lr = lr.item() if isinstance(lr, torch.Tensor) and lr.numel() == 1 else lr
        if not is_rate(lr):
            raise ValueError(f"lr = {lr!r}: a learning rate is a positive number; no run was spent")
        if self.left < 1:
            raise BudgetSpent(
                f"all {self.runs} runs are spent, so {variant!r} is not trained at {lr:g}: "
                "go by the losses in `budget.spent`, or start over with a new Budget"
            )
        loss = self.train(variant, lr)
        self.spent.append((variant, lr, loss))
        return loss

    def __repr__(self) -> str:
        return f"Budget({self.left} of {self.runs} runs left)"
