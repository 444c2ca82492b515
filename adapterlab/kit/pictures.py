"""Plain lines in the house style, with the bug and without it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from . import style
from .show import Picture


@dataclass(frozen=True)
class Line:
    """Points (x, y) of one variant. `right`: without the bug, drawn pale and broad, so that another may lie on it.
    `peft`: PEFT's, dashed and hollow."""

    label: str
    member: str
    points: Sequence[tuple[float, float]]
    right: bool = False
    peft: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `log`: any of "x" and "y"."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log: str = ""


def picture(*panels: Panel, alt: str, caption: str, height: float = 2.9) -> Picture:
    """Panels in a row; the alt text ends in what each line begins and ends with."""
    fig, axes = style.figure(columns=len(panels), height=height, width=7.2 if len(panels) > 1 else 4.6)
    for panel, ax in zip(panels, axes if len(panels) > 1 else [axes]):
        for axis in panel.log:
            getattr(ax, f"set_{axis}scale")("log")
        for line, marker in zip(panel.lines, cycle("os^DvpX")):
            look = {"linewidth": 6, "alpha": 0.3} if line.right else {"marker": marker, "markersize": 4}
            look |= {"linestyle": "--", "markerfacecolor": style.CARD} if line.peft else {}
            ax.plot(*zip(*line.points), color=style.MARKS[line.member].line, label=line.label, **look)
        ax.set(title=panel.title, xlabel=panel.x)
        if panel is panels[0] or panel.y != panels[0].y:
            ax.set_ylabel(panel.y)
        if len(panels) > 1:
            ax.title.set_fontsize(9)
    handles = ax.get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=3, fontsize=8)
    told = [
        f"{panel.title}, {line.label}: {line.points[0][1]:.2g} to {line.points[-1][1]:.2g}."
        for panel in panels
        for line in panel.lines
    ]
    return Picture(fig, f"{alt} {' '.join(told)}", caption)
