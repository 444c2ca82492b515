"""How much memory a GPU needs to train an adapter: `plan` for Python, `adapterlab plan` for the command line.

`models` has the configurations, `shapes` runs a model of tensors without numbers and counts what it holds and keeps,
`shards` says what FSDP2 leaves on each process, `estimate` adds up, `command` prints.
"""

from .estimate import Plan, Setup, plan

__all__ = ["Plan", "Setup", "plan"]
