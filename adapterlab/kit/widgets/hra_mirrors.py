"""HRA's mirrors: two that cancel until one is pulled away, and a third that leaves everything mirrored."""

import numpy as np

from .. import style
from ..show import Picture
from .figure import Figure, rounded

LETTER = np.array([(0, 0), (0, 5), (3, 5), (3, 4), (1, 4), (1, 3), (2.4, 3), (2.4, 2), (1, 2), (1, 0)])
LETTER = LETTER * 0.13 + (0.52, 0)
# A difference that nobody trained: three rows B A in the same plane, of size 1 together.
OTHER = np.array([(-0.45, 0.6), (0.65, -0.1), (0.15, -0.65)])


class HraMirrors(Figure, js="hra_mirrors.js"):
    """The letter F under mirrors that the reader turns, and three rows of W under the same mirrors.

    Args:
        rows: (3, 2), three rows of W in two input features; drawn to scale, the longest with length 1.
    """

    def __init__(self, rows):
        rows = np.asarray(rows, dtype=float)
        if rows.shape != (3, 2):
            raise ValueError(f"rows has shape {rows.shape}: three rows of W in two input features are (3, 2)")
        rows = rows / np.linalg.norm(rows, axis=1).max()
        other = OTHER / np.linalg.norm(OTHER)
        super().__init__({"rows": rounded(rows.tolist()), "other": rounded(other.tolist())})

    def still(self) -> Picture:
        hra, muted, ink = style.MARKS["hra"].line, style.MUTED, style.INK
        fig, (left, right) = style.figure(columns=2, height=3.6)
        left.plot((0, 0), (-1.42, 1.42), color=ink)
        left.plot((0, 0), (1.42, -1.42), "o", color=ink, markersize=9)
        left.text(0.13, 1.36, "first mirror", color=ink)
        left.text(0.13, -1.46, "second mirror", color=ink)
        left.fill(*(LETTER * (-1, 1)).T, facecolor="none", edgecolor=muted, linewidth=1.2)
        left.fill(*LETTER.T, facecolor=hra, edgecolor=hra)
        left.text(-0.72, -0.22, "after the first", color=muted, ha="center")
        left.text(0.72, -0.22, "after both", color=style.MARKS["hra"].light, ha="center")
        left.set(title="two mirrors on each other", xlim=(-1.62, 1.62), ylim=(-1.62, 1.62))
        for name, (x, y) in zip("abc", self.data["rows"]):
            look = {"arrowstyle": "-|>", "color": hra, "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0}
            right.annotate("", (x, y), (0, 0), arrowprops=look)
            right.text(1.14 * x, 1.14 * y, name, color=style.MARKS["hra"].light, ha="center", va="center")
        right.set(title="three rows of W, and of W R", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
        for axes in (left, right):
            axes.set(aspect="equal", xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        return Picture(
            fig,
            "Left, an upright line that is two mirrors on each other. The letter F stands to its right; after the "
            "first its outline stands reversed to the left; after both it is where it began. Right, three rows of W as "
            "arrows, which the two mirrors leave where they are.",
            "The first frame. In the book, in JupyterLab and in Colab each mirror can be turned.",
        )
