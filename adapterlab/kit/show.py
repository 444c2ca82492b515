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

from .style import RC


class Picture:
    """An SVG image with alt text and a caption, shown as HTML; its text form is the alt text."""

    def __init__(self, fig, alt: str, caption: str = ""):
        if not alt.strip():
            raise ValueError("a picture needs alt text: say what is to be seen")
        self.alt, self.caption, self.svg = alt, caption, _svg(fig)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.html()}

    def html(self, note: str = "") -> str:
        data = base64.b64encode(self.svg.encode()).decode()
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        return (
            # dark-light: the book's theme would dim it in the dark; it brings its own ground.
            f'<figure class="al-figure"><img class="dark-light" alt="{html.escape(self.alt, quote=True)}" '
            f'src="data:image/svg+xml;base64,{data}" style="max-width:100%;height:auto;border-radius:6px">'
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
