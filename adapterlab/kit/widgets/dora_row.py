"""DoRA's figure: size and direction of one row, and two bugs that t=0 cannot see."""

from math import cos, hypot, sin

from .. import style
from ..show import Picture
from .figure import Figure

SETTING = {"W": [[0.9, 0.8], [-0.6, 0.7]], "b": [1.2, -0.2], "x": [0.7, 0.3]}
DRAGGED = (1.5, 0.3)  # where the still shows what one drag does


def outputs(setting: dict, v: tuple[float, float], m: float) -> dict[str, list[float]]:
    """(y1, y2) by the right formula and by two wrong ones, as dora_row.js computes them.

    Args:
        v: row 1 of V; row 2 is not trained.
        m: the size of row 1. Along dim 0, where there is a size per input, the first one changes as much.
    """
    (W1, W2), (b1, b2), x = setting["W"], setting["b"], setting["x"]
    c, y2 = m / hypot(*v), _dot(W2, x) + b2
    start = [hypot(*column) for column in zip(W1, W2)]
    start[0] *= m / hypot(*W1)
    c0 = [size / hypot(*column) for size, column in zip(start, zip(v, W2))]
    return {
        "right": [c * _dot(v, x) + b1, y2],
        "bias": [c * (_dot(v, x) + b1), y2],
        "dim0": [_dot([w * k for w, k in zip(row, c0)], x) + b for row, b in zip((v, W2), (b1, b2))],
    }


def _dot(a, b) -> float:
    return sum(p * q for p, q in zip(a, b))


class DoraRow(Figure, js="dora_row.js"):
    """The reader drags a row's tip and its size m, and sees the right output beside those of two bugs."""

    def __init__(self):
        super().__init__(SETTING)

    def still(self) -> Picture:
        start, second = SETTING["W"]
        m = hypot(*start)
        fig, axes = style.figure(columns=3, height=2.7)
        dora = style.MARKS["dora"].line

        circle = [(m * cos(k / 10), m * sin(k / 10)) for k in range(64)]
        axes[0].plot(*zip(*circle), color=dora, linewidth=1.2)
        for tip, colour, width in ((second, style.MUTED, 1.5), (start, dora, 3)):
            arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
            axes[0].annotate("", tip, (0, 0), arrowprops=arrow)
        axes[0].text(0.2, 1.3, "W = V = W'", color=style.MARKS["dora"].light)
        axes[0].text(-0.5, 0.65, "row 2", color=style.MUTED)
        axes[0].text(m + 0.1, -0.1, "m", color=style.MARKS["dora"].light)
        axes[0].set(title="row 1 and its circle m", xlim=(-1.5, 1.7), ylim=(-1.5, 1.6), aspect="equal")
        axes[0].set_axis_off()

        for ax, v, title in ((axes[1], start, "outputs at t=0"), (axes[2], DRAGGED, "after one drag of V")):
            found = outputs(SETTING, v, m)
            for kind, marker in (("bias", "x"), ("dim0", "+")):
                ax.plot(*zip(found["right"], found[kind]), color=style.MUTED, linewidth=1)
                ax.plot(*found[kind], marker, color=style.INK, markersize=12, markeredgewidth=2)
            ax.plot(*found["right"], "o", color=dora, markersize=8)
            ax.set(title=title, xlabel="first output", xlim=(1, 3), ylim=(-0.7, 0.1))
        axes[1].text(2.07, -0.55, "all three", color=style.INK, ha="center")
        for kind, words in (("right", "DoRA"), ("bias", "scales\nthe bias"), ("dim0", "along dim 0")):
            (a, b), side = found[kind], -1 if kind == "bias" else 1
            axes[2].text(a + 0.12 * side, b, words, color=style.INK, ha="right" if side < 0 else "left", va="center")
        axes[1].set_ylabel("second output")
        return Picture(
            fig,
            "Left: a row of W as an arrow whose tip lies on a circle of radius m. Middle: the outputs of DoRA, of the "
            "DoRA that scales the bias and of the one normalised along dim 0, in one place. Right: after V has been "
            "dragged they lie in three places.",
            f"At t=0 three formulas give one output. V is then dragged to {DRAGGED}: only DoRA, the dot, is right.",
        )
