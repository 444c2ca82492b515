"""What every interactive figure is made of: one JavaScript module, one style sheet, and a still of its first frame.

A figure is one .js file beside this one (`blocks.js` says how to write it) and one class:

    class Turning(Figure, js="turning.js"):
        def __init__(self, length: float = 1.0):
            super().__init__({"length": length})     # what JavaScript reads as model.get("data")

        def still(self) -> Picture:                  # the first frame, drawn here from the same data
            ...

Keep `data` small (numbers, strings, lists, dicts; arrays as `floats(array)`): it is stored in the notebook. Round
with `rounded`. Assigning `figure.data` while a kernel runs makes the figure draw again, if its JavaScript listens
with model.on("change:data", ...).

Shown in a notebook a figure is two outputs: the still, which GitHub and pages without scripts keep, and the widget,
which hides the still once it has drawn itself.
"""

import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from .. import style

FOLDER = Path(__file__).parent
IMPORT = re.compile(r'^import\s*\{[^}]*\}\s*from\s*"\./([\w-]+\.js)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?!default)", re.MULTILINE)

# Light and dark of what is not a variant. Ink and grey are those of full fine-tuning and of the base model.
GROUNDS = {
    "card": (style.CARD, "#1a1c20"),
    "grid": (style.GRID, "#3a3f47"),
    "ink": (style.MARKS["full"].light, style.MARKS["full"].dark),
    "muted": (style.MARKS["base"].light, style.MARKS["base"].dark),
    "focus": (style.MARKS["lora"].light, style.MARKS["lora"].dark),
    # Not green and red: hue says the family.
    "good": (style.MARKS["full"].light, style.MARKS["full"].dark),
    "bad": (style.MARKS["base"].light, style.MARKS["base"].dark),
    "plus": (style.MARKS["lora"].line, style.MARKS["lora"].dark),
    "minus": (style.MARKS["dora"].line, style.MARKS["delora"].dark),
}

# How each place says that it is dark: the book's theme, JupyterLab, Colab; else what the system prefers.
DARK = ('html[data-theme="dark"] .al-fig', 'body[data-jp-theme-light="false"] .al-fig', 'html[theme="dark"] .al-fig')
UNTOLD = "html:not([data-theme]):not([theme]) body:not([data-jp-theme-light]) .al-fig"


def bundle(name: str) -> str:
    """The JavaScript file and all it imports from beside it, each once, as one module without imports."""
    seen: dict[str, str] = {}

    def add(file: str) -> None:
        source = (FOLDER / file).read_text("utf-8")
        for imported in IMPORT.findall(source):
            if imported not in seen:
                add(imported)
        seen[file] = EXPORT.sub("", IMPORT.sub("", source))

    add(name)
    return "\n".join(_without_header(source) for source in seen.values())


def _without_header(source: str) -> str:
    """The guide at the top of a file is for its readers; every widget would carry it."""
    return re.sub(r"\A/\*.*?\*/\s*", "", source, flags=re.DOTALL)


def stylesheet() -> str:
    """figure.css under the colours of `style.MARKS`, as variables: --al-dora, --al-ia3-ff, --al-ink ..."""
    colours = {name: (mark.light, mark.dark) for name, mark in style.MARKS.items()} | GROUNDS

    def variables(k: int) -> str:
        return "; ".join(f"--al-{name.replace('_', '-')}: {pair[k]}" for name, pair in colours.items())

    return "\n".join(
        [
            f".al-fig {{ {variables(0)}; color-scheme: light }}",
            f"{', '.join(DARK)} {{ {variables(1)}; color-scheme: dark }}",
            f"@media (prefers-color-scheme: dark) {{ {UNTOLD} {{ {variables(1)}; color-scheme: dark }} }}",
            (FOLDER / "figure.css").read_text("utf-8"),
        ]
    )


def floats(array: Any) -> bytes:
    """Float32 bytes, row by row, that JavaScript's floats() reads."""
    return np.ascontiguousarray(np.asarray(array), dtype="<f4").tobytes()


def rounded(values: Any, digits: int = 3) -> Any:
    """Numbers in lists, to that many significant digits: short as JSON, and the same on every processor."""
    if isinstance(values, dict):
        return {key: rounded(value, digits) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [rounded(value, digits) for value in values]
    if isinstance(values, bool) or not isinstance(values, (int, float, np.number)):
        return values
    short = float(f"{values:.{digits}g}") if np.isfinite(values) else None  # JSON has no infinity
    return int(short) if short is not None and short == int(short) else short


class Figure(anywidget.AnyWidget):
    """A widget that computes in the page. Subclasses name their JavaScript, and have a method `still()`.

    It gives the first frame, for where no script runs: a Picture, or anything with html() and a stable repr.
    """

    _css = stylesheet()

    data = traitlets.Dict().tag(sync=True)
    still_id = traitlets.Unicode().tag(sync=True)

    def __init_subclass__(cls, js: str | None = None, **kwargs):
        if not callable(getattr(cls, "still", None)):
            raise TypeError(f"{cls.__name__} needs a method still(): its first frame, for where no script runs")
        if js:
            cls._esm = bundle(js)
        super().__init_subclass__(**kwargs)

    def __init__(self, data: dict[str, Any]):
        key = hashlib.sha256(f"{type(self).__name__}:{json.dumps(data, sort_keys=True, default=bytes.hex)}".encode())
        super().__init__(data=data, still_id=key.hexdigest()[:12])

    def still_bundle(self) -> dict[str, str]:
        """The still as a notebook's output; the widget finds it by its id."""
        still = self.still()
        block = f'<div data-al-still="{html.escape(self.still_id, quote=True)}">{still.html()}</div>'
        return {"text/plain": repr(still), "text/html": block}

    def widget_bundle(self) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {"text/plain": repr(self), "application/vnd.jupyter.widget-view+json": view}

    def _ipython_display_(self, **_) -> None:
        from IPython.display import display

        display(self.still_bundle(), raw=True)
        display(self.widget_bundle(), raw=True)

    def __repr__(self) -> str:
        return f"[interactive figure {type(self).__name__}: it moves in the book, in JupyterLab and in Colab]"
