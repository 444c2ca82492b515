"""What every committed notebook must keep to. A rule takes a notebook and yields a sentence per breach."""

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from execute import OUTPUTS_OF, is_varying, shown_models, source_digest, widget_state
from paths import ROOT

# MyST directives and roles are raw text on GitHub, in JupyterLab and in Colab: name here the few that stay legible.
ALLOWED_MYST: set[str] = set()

MYST = re.compile(r"(?:^\s*(?:`{3,}|:{3,})\{([\w:-]+)\})|(?:\{([\w:-]+)\}`)", re.MULTILINE)
MARKDOWN_IMAGE = re.compile(r"!\[([^\]]*)\]\(")
HTML_IMAGE = re.compile(r"<img\b[^>]*>", re.IGNORECASE | re.DOTALL)
HTML_ALT = re.compile(r"""\balt\s*=\s*(?:"[^"]*[^"\s][^"]*"|'[^']*[^'\s][^']*')""", re.IGNORECASE)
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,16}\b")
LOCAL_PATH = re.compile(r"(?<![\w/.:])(?:/(?:home|root|tmp|usr|var|opt|mnt|private|Users)/|[A-Z]:\\)\S*")
ASSERT = re.compile(r"^\s*assert\b", re.MULTILINE)


def code_cells(nb) -> list:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def texts(cell) -> Iterator[str]:
    """The text in a code cell's outputs."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        for kind, content in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield content


def counts_in_order(nb) -> Iterator[str]:
    counts = [cell.execution_count for cell in code_cells(nb)]
    if counts != list(range(1, len(counts) + 1)):
        # nbval compares only executed cells, so an unexecuted notebook would pass it.
        yield f"the execution counts are {counts} and not 1 to {len(counts)}: run `make notebooks`"


def nothing_skipped(nb) -> Iterator[str]:
    for number, cell in enumerate(code_cells(nb), 1):
        if "nbval-skip" in cell.metadata.get("tags", []) or re.search(
            r"#\s*(NBVAL_SKIP|PYTEST_VALIDATE_SKIP)", cell.source
        ):
            yield f"code cell {number} is skipped by nbval"
        if re.search(r"#\s*(NBVAL_|PYTEST_VALIDATE_)(?!SKIP)\w+", cell.source):
            yield f"code cell {number} speaks to nbval in a comment: use tags"


def varying_is_bounded(nb) -> Iterator[str]:
    cells = code_cells(nb)
    for number, cell in enumerate(cells, 1):
        tags = cell.metadata.get("tags", [])
        if ("varies" in tags) != ("nbval-ignore-output" in tags):
            yield f"code cell {number} needs both tags or neither: varies, nbval-ignore-output"
        if "varies" not in tags:
            continue
        following = cells[number : number + 1]
        if not any(ASSERT.search(near.source) for near in [cell, *following]):
            yield f"code cell {number} varies, and neither it nor the next cell asserts bounds"


def varying_is_current(nb) -> Iterator[str]:
    for number, cell in enumerate(code_cells(nb), 1):
        if is_varying(cell) and cell.metadata.get(OUTPUTS_OF) != source_digest(cell):
            yield f"code cell {number} varies, and its outputs are not its source's: run `make notebooks`"


def legible_everywhere(nb) -> Iterator[str]:
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            used = {directive or role for directive, role in MYST.findall(cell.source)}
            for name in sorted(used - ALLOWED_MYST):
                yield f"{{{name}}} is MyST, which is raw text outside the book"


def images_have_alt_text(nb) -> Iterator[str]:
    for number, cell in enumerate(nb.cells, 1):
        if cell.cell_type == "markdown":
            found = [cell.source]
            if any(not alt.strip() for alt in MARKDOWN_IMAGE.findall(cell.source)):
                yield f"cell {number} has an image without alt text"
        elif cell.cell_type == "code":
            found = list(texts(cell))
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            for output in cell.outputs:
                data = output.get("data", {})
                if any(kind.startswith("image/") for kind in data) and "text/html" not in data and not alt.strip():
                    yield f"cell {number} outputs an image without alt text"
        else:
            continue
        for text in found:
            if any(not HTML_ALT.search(tag) for tag in HTML_IMAGE.findall(text)):
                yield f"cell {number} has an <img> without alt text"


def outputs_are_portable(nb) -> Iterator[str]:
    here = [
        str(path) for path in (ROOT, Path.home(), Path(sys.prefix), Path(tempfile.gettempdir())) if len(str(path)) > 1
    ]
    for number, cell in enumerate(code_cells(nb), 1):
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"code cell {number} ends in an error"
        for text in texts(cell):
            # A figure's bytes are no words.
            text = re.sub(r"base64,[A-Za-z0-9+/=\s]+", "base64,", text)
            if "Traceback (most recent call last)" in text:
                yield f"code cell {number} shows a traceback"
            if found := ADDRESS.search(text):
                yield f"code cell {number} shows the address {found[0]}: give the object a __repr__"
            if found := LOCAL_PATH.search(text):
                yield f"code cell {number} shows a path of one machine: {found[0]}"
            elif any(re.search(re.escape(path) + r"(?![\w-])", text) for path in here):
                yield f"code cell {number} shows a path of this machine"


def widgets_are_figures(nb) -> Iterator[str]:
    state = widget_state(nb)
    for number, cell in enumerate(code_cells(nb), 1):
        for model in shown_models(cell):
            if "_esm" not in state.get(model, {}).get("state", {}):
                yield f"code cell {number} shows a widget that is no anywidget: book/_assets/figures.js cannot run it"


RULES = [
    counts_in_order,
    nothing_skipped,
    varying_is_bounded,
    varying_is_current,
    legible_everywhere,
    images_have_alt_text,
    outputs_are_portable,
    widgets_are_figures,
]
