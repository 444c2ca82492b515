"""Pictures, tables and source code, legible wherever a notebook is read: the book, JupyterLab, Colab, GitHub."""

import base64
import html
import inspect
import io
import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.gridspec import GridSpec

from .style import PHONE, RC

WIDE = 1.25 * PHONE  # what is wider shrinks too much on a phone


class Picture:
    """An SVG image with alt text and a caption, shown as HTML; its text form is the alt text.

    On a phone a wide figure would shrink until nobody can read it, so there its panels stand below each other.
    """

    def __init__(self, fig, alt: str, caption: str = ""):
        if not alt.strip():
            raise ValueError("a picture needs alt text: say what is to be seen")
        self.alt, self.caption, self.svg = alt, caption, _svg(fig)
        self.width = fig.get_size_inches()[0]
        self._fig, self._stacked = fig, None

    @property
    def stacked(self) -> str:
        """The SVG for phones; empty where the figure is narrow enough, or its panels stand in no single row."""
        if self._stacked is None:  # made when asked for: most frames of a live curve are never seen on a phone
            self._stacked, self._fig = (_svg(self._fig) if _stack(self._fig) else ""), None
        return self._stacked

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.html()}

    def html(self, note: str = "") -> str:
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        stacked = "" if note else self.stacked  # with a note it is a frame of a live curve, soon replaced
        phone = f'<source media="(max-width: 540px)" srcset="{_address(stacked)}">' if stacked else ""
        # A picture that stays wide is pushed sideways on a phone, by keyboard too.
        wide = ' class="al-wide" tabindex="0"' if self.width > WIDE and not (stacked or note) else ""
        return (
            # dark-light: the book's theme would dim it in the dark; it brings its own ground.
            f'<figure class="al-figure"><picture{wide}>{phone}'
            f'<img class="dark-light" alt="{html.escape(self.alt, quote=True)}" '
            f'src="{_address(self.svg)}" style="max-width:100%;height:auto;border-radius:6px"></picture>'
            f"{caption}{note}</figure>"
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write the SVG file."""
        Path(path).write_text(self.svg, "utf-8")

    def __repr__(self) -> str:
        return f"[picture: {self.alt}]"


def _svg(fig) -> str:
    file = io.StringIO()
    with matplotlib.rc_context(RC):
        fig.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"^.*?(?=<svg)", "", file.getvalue(), flags=re.DOTALL)


def _address(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _stack(fig) -> bool:
    """Lay a figure's one row of panels out for a phone: one per line, or two where there are more than three."""
    width, height = fig.get_size_inches()
    places = [axes.get_subplotspec() for axes in fig.axes]
    if width <= WIDE or not places or None in places:
        return False
    grid = places[0].get_gridspec()
    if grid.nrows > 1 or grid.ncols != len(places) or any(place.get_gridspec() is not grid for place in places):
        return False
    columns = 1 if len(places) <= 3 else 2
    rows = -(-len(places) // columns)
    below = GridSpec(rows, columns, figure=fig)
    for k, axes in enumerate(fig.axes):
        axes.set_subplotspec(below[k // columns, k % columns])
    fig.set_size_inches(PHONE, rows * height)
    return True


class Table:
    """Rows under column names, shown as Markdown; its text form is aligned columns."""

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]):
        self.columns, self.rows = list(columns), [[str(cell) for cell in row] for row in rows]
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells under {len(self.columns)} columns: {row}")

    def _repr_markdown_(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


class Source:
    """The source code of functions, methods or classes, as it stands in the package."""

    def __init__(self, *objects: Any):
        self.text = "\n".join(textwrap.dedent(inspect.getsource(item)).rstrip() + "\n" for item in objects)

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.text}```"

    def __repr__(self) -> str:
        return self.text
