"""What each variant costs: `adapterlab bench`, or `python -m adapterlab.bench`.

Time and memory of a training step, of inference and of decoding one token, of attach and of merge: of the bare
layer, of each variant, and of PEFT's where PEFT is installed. All that one row compares takes turns in one run, and a
ratio is the median over the rounds of the quotient within a round, so that a slow moment of the machine falls on both
sides alike.
"""

from .columns import table
from .costs import measure
from .setting import Setting

__all__ = ["Setting", "measure", "table"]
