"""Drawings that need no data: what is connected to what."""

from matplotlib.patches import FancyBboxPatch

from . import style
from .show import Picture


def hook() -> Picture:
    """A frozen layer, its adapter, and the hook that adds the one to the other."""
    fig, ax = style.figure(width=4.6, height=2.76)
    fig.set_layout_engine("none")
    ax.set(xlim=(0, 100), ylim=(0, 60), position=(0, 0, 1, 1))
    ax.axis("off")
    blue, grey = style.MARKS["lora"].line, style.MARKS["base"].line

    def box(x, y, w, h, colour, face, dashed=False):
        look = {"edgecolor": colour, "facecolor": face, "linewidth": 1.6, "linestyle": "--" if dashed else "-"}
        ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=2", **look))

    def arrow(*places, colour=style.INK):
        for a, b in zip(places, places[1:-1]):
            ax.plot(*zip(a, b), color=colour, linewidth=1.6, solid_capstyle="round")
        look = {"arrowstyle": "-|>", "color": colour, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", places[-1], places[-2], arrowprops=look)

    def words(x, y, text, **how):
        ax.text(x, y, text, **{"ha": "center", "va": "center", **how})

    box(9, 3, 81, 54, style.GRID, style.CARD)
    words(11.5, 52.5, "nn.Linear, the same object as before", ha="left", color=style.MUTED, fontsize=10)
    box(24, 34, 41, 14, grey, "#f4f4f2")
    words(44.5, 43, "$x\\,W^\\top + b$", fontsize=12)
    words(44.5, 37.3, "frozen, never written to", fontsize=9, color=style.MUTED)
    box(24, 8, 41, 14, blue, "#eef2ff")
    words(44.5, 17, "$\\delta(x;\\,\\theta)$", fontsize=12)
    words(44.5, 11.3, "child module, trained", fontsize=9, color=style.MARKS["lora"].light)
    arrow((1, 40.5), (24, 40.5))
    arrow((16, 40.5), (16, 15), (24, 15), colour=blue)
    ax.plot(16, 40.5, "o", color=blue, markersize=4)
    arrow((65, 40.5), (74, 40.5))
    arrow((65, 15), (77.5, 15), (77.5, 36.2), colour=blue)
    ax.plot(77.5, 40.5, "o", markersize=15, markerfacecolor=style.CARD, markeredgecolor=blue, markeredgewidth=1.6)
    words(77.5, 40.3, "+", fontsize=13, color=style.MARKS["lora"].light)
    words(79.3, 26, "hook", ha="left", fontsize=10, color=style.MARKS["lora"].light)
    arrow((81, 40.5), (99, 40.5))
    words(4, 45, "$x$", fontsize=12)
    words(95, 45, "$y$", fontsize=12)
    return Picture(
        fig,
        "A box stands for the layer. The input x goes two ways through it: through the frozen product with W and b, "
        "and through the adapter, a child module. A hook adds the adapter's output to the frozen one, which gives y.",
        "Grey is frozen, blue is trained. Switch the hook off, and what is left is the layer as it was.",
    )
