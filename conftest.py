"""Tests and notebooks run in the environment in which the notebooks were executed."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "book" / "_tools"))

from execute import ENVIRONMENT

# Before anything imports torch or transformers; the notebooks' kernels inherit it.
os.environ.update(ENVIRONMENT)
