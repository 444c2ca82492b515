"""What a run is: everything that decides its result, and nothing else."""

import json
import shlex
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..variant import VARIANTS, Variant

QUANTIZED = {"4bit": "nf4", "8bit": "int8"}
DTYPES = ("float32", "bfloat16", "float16")
SCHEDULES = ("linear", "cosine", "constant")
# Where lab 5's record and the sweep find the best rates, on the embedded base.
RATES = {"ia3": 0.1, "ia3_ff": 0.1, "antipasto": 0.05}
RATE = 5e-3
LARGER = 0.04  # of these on other models, as is usual: 2e-4 where it is 5e-3 here


@dataclass(frozen=True)
class Settings:
    """A run: two with equal settings, as many processes and the same versions give equal adapters.

    Attributes:
        model: hub name or folder; None is the embedded base.
        options: the variant's fields, those that are not its defaults.
        targets: patterns, as `attach` takes them; None means every linear layer.
        task, data: one of them; a name from the kit's tasks, or a JSON Lines file.
        lr: the peak rate; None is the variant's default.
        batch_size: rows for each process and forward; accumulate: forwards for each step.
        warmup: steps; None is a tenth of all, ten at most.
        max_length: tokens of a row; None is what the model takes.
    """

    model: str | None = None
    variant: str = "lora"
    options: dict[str, Any] = field(default_factory=dict)
    targets: list[str] | None = None
    task: str | None = None
    data: str | None = None
    quantize: str | None = None
    dtype: str | None = None
    steps: int = 100
    lr: float | None = None
    schedule: str = "linear"
    warmup: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    max_length: int | None = None
    checkpointing: bool = False
    seed: int = 0

    @property
    def rate(self) -> float:
        if self.lr is not None:
            return self.lr
        return RATES.get(self.variant, RATE) * (1.0 if self.model is None else LARGER)

    @property
    def warmup_steps(self) -> int:
        return min(10, self.steps // 10) if self.warmup is None else self.warmup

    def make_variant(self) -> Variant:
        """Raises ValueError: an option has a value that the variant does not take."""
        return VARIANTS[self.variant](**self.options)

    def check(self) -> None:
        """Raises ValueError, in a sentence, for values that no run can have."""
        if self.task is not None and self.data is not None:
            raise ValueError(f"--task {self.task} --data {self.data}: a run learns from one of them")
        if self.task is None and self.data is None:
            raise ValueError("there is nothing to learn from: name a --task of the embedded ones, or --data FILE.jsonl")
        for name, least in (("steps", 1), ("batch_size", 1), ("accumulate", 1), ("warmup", 0), ("max_length", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} {value}: it must be at least {least}")
        if not 0 < self.rate < float("inf"):
            raise ValueError(f"--lr {self.lr}: a learning rate is a number above 0")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed {self.seed}: a seed is a whole number from 0 to 2**32 - 1")
        self.make_variant()

    def command(self) -> str:
        """The command line that asks for this, without --out."""
        words = ["adapterlab", "train"]
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "options":
                for name, one in self.options.items():
                    words += [f"--{name.replace('_', '-')}", str(one).lower() if isinstance(one, bool) else str(one)]
            elif value != f.default:
                words.append(f"--{f.name.replace('_', '-')}")
                words += value if isinstance(value, list) else [] if value is True else [str(value)]
        return shlex.join(words)

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, values: Any) -> "Settings":
        """Raises ValueError: these are not the settings of a run."""
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or set(values) != known:
            odd = sorted(set(values) ^ known) if isinstance(values, dict) else [type(values).__name__]
            raise ValueError(f"its settings are of another version: {', '.join(odd)}")
        return cls(**values)
