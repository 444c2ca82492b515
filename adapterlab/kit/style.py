"""One look for every figure: the palette by family, and matplotlib set to it.

Hue says the family, lightness and marker say the member. A figure is an opaque card, because an image
does not see the page's switch between light and dark.
"""

from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

CARD = "#ffffff"
INK = "#1f2430"
MUTED = "#636b78"
GRID = "#e5e7eb"
PHONE = 3.7  # inches: the text of a figure this wide is as large on a phone as on a page


@dataclass(frozen=True)
class Mark:
    """How one method is drawn: `line` on any ground, `light` and `dark` for text on white and on dark."""

    label: str
    family: str
    marker: str
    light: str
    dark: str
    line: str


MARKS = {
    "lora": Mark("LoRA", "add", "o", "#240fad", "#64a0ff", "#3861d4"),
    "pissa": Mark("PiSSA", "add", "s", "#695adf", "#c0d6fe", "#8389cd"),
    "eva": Mark("EVA", "add", "^", "#4245b6", "#93bfff", "#6e77fd"),
    "dora": Mark("DoRA", "size and direction", "o", "#583d01", "#ffca84", "#a75709"),
    "delora": Mark("DeLoRA", "size and direction", "s", "#8d5f02", "#f07c14", "#cf8211"),
    "ia3": Mark("IA3", "gate", "o", "#007b53", "#16b077", "#077555"),
    "ia3_ff": Mark("IA3-FF", "gate", "s", "#014934", "#79f0cc", "#009366"),
    "hra": Mark("HRA", "turn", "o", "#9a2362", "#ff9acb", "#f53d96"),
    "antipasto": Mark("AntiPaSTO", "turn", "s", "#6b0258", "#fd60cb", "#835774"),
    "base": Mark("base", "none", "", "#636b78", "#9ca3af", "#808080"),
    "full": Mark("full fine-tuning", "none", "", "#111827", "#f3f4f6", "#767676"),
}

RC = {
    "figure.facecolor": CARD,
    "axes.facecolor": CARD,
    "savefig.facecolor": CARD,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.grid": True,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "font.size": 10,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture on every machine
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "adapterlab",  # the ids in an SVG are random without it
}


def figure(columns: int = 1, width: float = 7.2, height: float = 2.9):
    """-> (figure, axes): one row of `columns` axes in the house style. Nothing is drawn on screen."""
    with matplotlib.rc_context(RC):
        fig = Figure(figsize=(width, height), layout="constrained")
        axes = fig.subplots(1, columns)
    return fig, axes
