"""All nine under one protocol, with seeds: `python -m adapterlab.kit.sweep --json FILE`.

`settings` says what is trained, `splits` on what it is chosen and scored, `trial` trains and measures one run,
`plan` says which runs are still to be made, `store` keeps them, `command` makes them on two processes.
"""

from .plan import chosen, todo
from .settings import SETTINGS, TASKS, Setting, Trial
from .store import load, recorded

__all__ = ["SETTINGS", "TASKS", "Setting", "Trial", "chosen", "load", "recorded", "todo"]
