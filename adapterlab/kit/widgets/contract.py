"""Wrong adapters that are right at t=0, and which checks notice."""

from collections.abc import Mapping, Sequence
from typing import Any

from .. import style
from ..show import Picture
from .figure import Figure, rounded


class Contract(Figure, js="contract.js"):
    """Choose an adapter and a layer, leave t=0, and see the error and the checks.

    Args:
        adapters: one dict each, with `label`, `member` (a name of style.MARKS, for the colour), `errors` (a list over
            `distances` for each of "bias, equal", "bias, unequal", "none, equal", "none, unequal": has the layer a
            bias, is r = alpha), `passes` (a bool for each check) and `blind` (why a layer can hide the fault).
        checks: their names.
        distances: from the start, 0 first.
    """

    def __init__(self, adapters: Sequence[Mapping[str, Any]], checks: Sequence[str], distances: Sequence[float]):
        adapters = [dict(adapter) for adapter in adapters]
        super().__init__(rounded({"adapters": adapters, "checks": list(checks), "distances": list(distances)}))

    def still(self) -> Picture:
        adapters, distances = self.data["adapters"], self.data["distances"]
        fig, axes = style.figure(columns=len(adapters), height=2.7)
        for ax, adapter in zip(axes if len(adapters) > 1 else [axes], adapters):
            errors = [100 * error for error in adapter["errors"]["bias, unequal"]]
            ax.plot(distances, errors, "o-", color=style.MARKS[adapter["member"]].line, markersize=3)
            ax.set(title=adapter["label"], xlabel="distance from the start", ylim=(0, None))
            ax.title.set_fontsize(9.5)
        (axes[0] if len(adapters) > 1 else axes).set_ylabel("error, %")
        last = {adapter["label"]: 100 * adapter["errors"]["bias, unequal"][-1] for adapter in adapters}
        worst = "; ".join(f"{label}: {error:.0f} % at the end" for label, error in last.items())
        return Picture(
            fig,
            "The error of each adapter against its own equation, by the distance of its parameters from their start. "
            f"All begin at 0, and the wrong ones rise at once. {worst}.",
            "At distance 0 every adapter is right. One step away the wrong ones are wrong.",
        )
