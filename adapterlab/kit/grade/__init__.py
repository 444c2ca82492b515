"""Graders for the labs: they look at what an answer does, and say what they saw.

```python
from adapterlab.kit import grade

lab = grade.Lab("lab2_bias_bug")

@lab.exercise
def output(x, W, b, A, B, s, m):
    ...                        # to be filled in

lab.grade("output")            # hint=2, hint=3 say more
```

The graders of a lab are in the package of its name beside this file.
"""

from importlib import resources

from .lab import Lab
from .verdict import Verdict, right, wrong

__all__ = ["Lab", "Verdict", "labs", "right", "wrong"]


def labs() -> list[str]:
    """The names of all labs: lab1_broken_loras, ..."""
    names = (folder.name for folder in resources.files(__name__).iterdir() if folder.is_dir())
    return sorted(name for name in names if name.startswith("lab"))
