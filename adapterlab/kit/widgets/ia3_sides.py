"""IA3-FF's figure: a gate on a layer's input beside a gate on the output before it: two sides, one network."""

import numpy as np

from .. import style
from ..show import Picture
from .figure import Figure, rounded

LONGEST = 0.8  # of the rows drawn; gates go up to 2
X = (1.0, 0.6)  # the input that the output is shown for


class Ia3Sides(Figure, js="ia3_sides.js"):
    """Two hidden units of a feed-forward block, each with a gate that stands after up_proj or before down_proj.

    Args:
        up, gate: (2, 2), the rows of two hidden units in up_proj and gate_proj, in two input features.
        down: (3, 2), three rows of down_proj in the same two hidden units.
    Each is drawn to scale, its longest row with one length.
    """

    def __init__(self, up, gate, down):
        given = {"up": (up, (2, 2)), "gate": (gate, (2, 2)), "down": (down, (3, 2))}
        data = {"x": list(X)}
        for name, (matrix, shape) in given.items():
            matrix = np.asarray(matrix, dtype=float)
            if matrix.shape != shape:
                raise ValueError(f"{name} has shape {matrix.shape}: it must be {shape}")
            data[name] = rounded((matrix / np.linalg.norm(matrix, axis=1).max() * LONGEST).tolist())
        super().__init__(data)

    def still(self) -> Picture:
        up, down = np.array(self.data["up"]), np.array(self.data["down"])
        gates, base = np.array([1.8, 0.7]), style.MARKS["base"].line
        fig, axes = style.figure(columns=2, height=3.6)
        panels = [
            (axes[0], up, gates[:, None] * up, "ia3", ["$u_1$", "$u_2$"], "gates on the output: rows of up_proj"),
            (axes[1], down, down * gates, "ia3_ff", "abc", "gates on the input: rows of down_proj"),
        ]
        for ax, before, after, member, names, title in panels:
            mark = style.MARKS[member]
            for row, gated, name in zip(before, after, names):
                for tip, colour, width in ((gated, mark.line, 2.5), (row, base, 1.5)):
                    look = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
                    ax.annotate("", tip, (0, 0), arrowprops=look)
                beyond = max(np.linalg.norm(gated), np.linalg.norm(row)) if member == "ia3" else np.linalg.norm(gated)
                place = gated * (beyond + 0.16) / np.linalg.norm(gated)
                ax.text(*place, name, color=mark.light, ha="center", va="center")
            ax.set(title=title, xlim=(-1.75, 1.75), ylim=(-1.75, 1.75), aspect="equal", xticks=[], yticks=[])
            ax.axhline(0, color=style.GRID, zorder=0)
            ax.axvline(0, color=style.GRID, zorder=0)
            ax.spines[:].set_visible(False)
        return Picture(
            fig,
            "Left: two rows of up_proj as arrows; gates on the output make one longer and one shorter along the same "
            "lines. Right: three rows of down_proj; the same gates on the input stretch the axes, and the rows turn.",
            "Grey: without gates. The gates are 1.8 and 0.7 on either side, and the block's output is the same.",
        )
