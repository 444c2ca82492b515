"""What a check returns or raises, and the figure of several cases."""

from dataclasses import dataclass

from torch import Tensor

from .bases import relative


class Broken(Exception):
    """The check failed; the message says what was seen."""

    def __init__(self, message: str, figure: float | None = None, limit: float | None = None):
        super().__init__(message)
        self.figure, self.limit = figure, limit


@dataclass(frozen=True)
class Finding:
    """Passes where the figure is at most the limit; a NaN is never."""

    figure: float | None
    limit: float | None
    note: str = ""


class Worst:
    """The case that misses its limit by most, out of several with limits of their own."""

    def __init__(self):
        self.figure, self.limit, self.where, self._worst = 0.0, 0.0, "", (-1.0, 0.0)

    def add(self, figure: float, limit: float, where: str = "") -> None:
        if figure != figure:
            ratio = float("inf")
        elif limit == 0:
            ratio = 0.0 if figure == 0 else float("inf")
        else:
            ratio = figure / limit
        if (ratio, figure) > self._worst or figure != figure:
            self.figure, self.limit, self.where, self._worst = figure, limit, where, (ratio, figure)

    def compare(self, a: Tensor, b: Tensor, limit: float, where: str = "") -> None:
        self.add(relative(a, b), limit, where)

    def finding(self, note: str = "") -> Finding:
        """`note`, and where the worst was if there was a miss at all."""
        worst = f"worst: {self.where}" if self.figure and self.where else ""
        return Finding(self.figure, self.limit, "; ".join(filter(None, (note, worst))))
