"""PEFT's methods under the contract: `python -m adapterlab.scoreboard --json FILE`.

What fails comes with a few lines that show it with PEFT alone. A reproducer is kept only if it has just shown what it
is there to show; a failure for which none does is an error here: it would be this library's word against PEFT's.
"""

from .candidates import Unshown, reproducer
from .lines import Reproducer
from .record import main, row

__all__ = ["Reproducer", "Unshown", "main", "reproducer", "row"]
