"""The museum of bugs: those that shipped, or would have, each as the smallest change of what is right.

    exhibit = museum.EXHIBITS["dora-bias"]
    print(exhibit.code())               # the lines
    print(exhibit.check())              # what the contract says of it
    print(exhibit.check(broken=False))  # and of the healthy one
    with exhibit.open() as subject:     # inside, the bug exists
        ...

One module per room, in the order of `ROOMS`.
"""

from . import bases_and_files, digits, elsewhere, nothing_moves, starts, wrong_lines
from .exhibit import Excerpt, Exhibit

_MODULES = (wrong_lines, nothing_moves, starts, bases_and_files, digits, elsewhere)

ROOMS = tuple(module.ROOM for module in _MODULES)
EXHIBITS: dict[str, Exhibit] = {exhibit.name: exhibit for module in _MODULES for exhibit in module.EXHIBITS}
SYMPTOMS = tuple(dict.fromkeys(exhibit.symptom for exhibit in EXHIBITS.values()))

__all__ = ["EXHIBITS", "ROOMS", "SYMPTOMS", "Excerpt", "Exhibit"]
