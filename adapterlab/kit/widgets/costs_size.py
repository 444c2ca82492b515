"""What each variant keeps and multiplies in a step, by formula, at the size that the reader sets."""

from ...bench import formulas
from .. import style
from ..show import Picture
from .figure import Figure

WIDTHS = [512, 1024, 2048, 4096, 8192]
TOKENS = [128, 256, 512, 1024, 2048, 4096]
RANKS = [4, 8, 16, 32, 64]
DTYPES = {"float32": 4, "bfloat16": 2}
NAMES = [name for name in style.MARKS if (name, "adapterlab") in formulas.KEPT]  # families together


class CostsAtYourSize(Figure, js="costs_size.js"):
    """The reader sets width, tokens, rank and dtype of a layer, and picks the variant whose parts are listed.

    Raises:
        ValueError: a start is none of the sliders' stops.
    """

    def __init__(self, width: int = 4096, tokens: int = 512, r: int = 8, dtype: str = "float32", variant: str = "hra"):
        stops = {"width": WIDTHS, "tokens": TOKENS, "r": RANKS, "dtype": list(DTYPES), "variant": NAMES}
        start = {"width": width, "tokens": tokens, "r": r, "dtype": dtype, "variant": variant}
        for name, value in start.items():
            if value not in stops[name]:
                raise ValueError(f"{name} = {value!r}: choose one of {stops[name]}")
        tables = {"kept": formulas.KEPT, "multiplied": formulas.MULTIPLIED}
        terms = {
            what: {
                by: {name: list(map(list, table[name, by])) for name in NAMES if (name, by) in table}
                for by in ("adapterlab", "peft")
            }
            for what, table in tables.items()
        }
        variants = [[name, style.MARKS[name].label, style.MARKS[name].marker] for name in NAMES]
        super().__init__(terms | {"variants": variants, "stops": stops, "bytes": DTYPES, "start": start})

    def still(self) -> Picture:
        start = self.data["start"]
        n, d, r, size = start["tokens"], start["width"], start["r"], DTYPES[start["dtype"]]
        at = n, d, r, size
        frozen = 2 * n * d * d
        panels = {
            "kept for the backward pass (MiB)": lambda *who: formulas.kept(*who, *at) / 2**20,
            "multiply-adds, % of the frozen": lambda *who: 100 * formulas.multiplied(*who, *at) / frozen,
        }
        fig, axes = style.figure(columns=2, height=3.3)
        for ax, (title, value) in zip(axes, panels.items()):
            for y, name in enumerate(NAMES):
                for by, width in (("peft", 7), ("adapterlab", 5)):
                    if (name, by) in formulas.KEPT and value(name, by) > 0:
                        mark = style.MARKS[name]
                        inside = style.CARD if by == "peft" else mark.line
                        look = {"markerfacecolor": inside, "color": mark.line, "markersize": width}
                        ax.plot(value(name, by), y, mark.marker, **look)
            ax.set(title=title, xscale="log", yticks=range(len(NAMES)), ylim=(len(NAMES) - 0.5, -0.5))
            ax.set_yticklabels([style.MARKS[name].label for name in NAMES])
            ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
            ax.minorticks_off()
        hra = [formulas.kept("hra", by, *at) / 2**20 for by in ("adapterlab", "peft")]
        return Picture(
            fig,
            f"Two panels with a row for each variant, for {d} features, {n} tokens and r = {r}, in {start['dtype']}. "
            f"Left, what is kept for the backward pass: furthest apart are HRA's two dots, {hra[0]:.3g} MiB here and "
            f"{hra[1]:.3g} MiB in PEFT. Right, multiply-adds beside the frozen layer's; IA3 and IA3-FF have none.",
            "Filled: this library. Hollow: PEFT. The first frame; in the book, in JupyterLab and in Colab the size is "
            "yours.",
        )
