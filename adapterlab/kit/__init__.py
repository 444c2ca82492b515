"""What the notebooks share: the embedded base model and its tasks, the training loop, the pictures.

Built on adapterlab's public API alone; needs the `kit` extra: pip install "adapterlab[kit]".
"""

from .base import answer, evaluate, load_base
from .curve import plot
from .equation import Equation
from .notebook import start
from .show import Picture, Source, Table
from .tasks import PROSE, SKILLS, TASKS
from .training import Run, train

__all__ = [
    "PROSE",
    "SKILLS",
    "TASKS",
    "Equation",
    "Picture",
    "Run",
    "Source",
    "Table",
    "answer",
    "evaluate",
    "load_base",
    "plot",
    "start",
    "train",
]
