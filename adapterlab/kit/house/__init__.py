"""Nine on one task within a budget of parameters: the rows to beat, how they were trained, and the sealed split.

Built for lab 5. `python -m adapterlab.kit.house --json FILE` trains the rows again.
"""

from .picture import draws, standings
from .recipe import BUDGET, SETTINGS, STEPS, adapt, layer_shapes
from .recorded import on_validation, record, rows
from .sealed import Refusal, Result, Seal
from .task import TASK, validation

__all__ = [
    "BUDGET",
    "SETTINGS",
    "STEPS",
    "TASK",
    "Refusal",
    "Result",
    "Seal",
    "adapt",
    "draws",
    "layer_shapes",
    "on_validation",
    "record",
    "rows",
    "standings",
    "validation",
]
