"""A formula beside the package's own lines: point at a term, and the lines that compute it light up."""

import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from .show import Source

Pattern = str | re.Pattern | Sequence["str | re.Pattern"]

# Nothing but CSS, so it works in the book without a kernel, in JupyterLab and in Colab. Where style sheets are
# stripped (GitHub) a paragraph and the code remain. Greys on transparent suit light and dark; hue says the family.
STYLE = (Path(__file__).parent / "equation.css").read_text("utf-8")
# One term's rule, {0} being its class. A focused term counts only while the mouse is on none.
LIT = """\
.al-eq:is(:has(.al-term.{0}:hover), :not(:has(.al-term:hover)):has(.al-term.{0}:focus)) .{0},
.al-eq:has(.al-line.{0}:hover) .al-term.{0} {{ --on: 1; }}
"""

BRACED = re.compile(r"\{([^{}]+)\}")
# Subscripts and superscripts, and single letters, which are italic; words such as diag are upright.
TYPE = re.compile(r"([_^])(\w+|\([^()]*\))|(?<![A-Za-zΑ-ω])([A-Za-zΑ-ω])(?![A-Za-zΑ-ω])")


class Equation:
    """A formula whose terms light up their lines, beside the source code of functions, methods or classes.

    Args:
        formula: plain text; a term that can be pointed at stands in braces, as often as it occurs. `_i` and `^T` are
            set low and high, with round brackets where they are longer than one word; `\\n` breaks the line.
        terms: for each name in braces, what stands for it in the code: a text, found as whole words, a compiled
            regular expression, or several of them. Comments and docstrings do not count.
        objects: whose source is shown, as by `Source`.

    Raises:
        ValueError: a term is in no line of the code, has no pattern, or is not in the formula.
    """

    def __init__(self, formula: str, terms: Mapping[str, Pattern], *objects: Any):
        self.formula, self.text = formula, Source(*objects).text
        named = list(dict.fromkeys(BRACED.findall(formula)))
        for name in named:
            if name not in terms:
                raise ValueError(f"the term {name!r} has no pattern: say what stands for it in the code")
        for name in terms:
            if name not in named:
                raise ValueError(f"the term {name!r} is not in the formula {formula!r}: write it there in braces")
        tokens = list(_tokens(self.text))
        counted = "".join(" " * len(piece) if speaks else piece for piece, _, speaks in tokens)
        self._kinds = [kind for piece, kind, _ in tokens for _ in piece]
        self._hits = {name: _places(terms[name], counted) for name in named}  # the places of its characters
        for name, hits in self._hits.items():
            if not hits:
                raise ValueError(f"the term {name!r} is in no line of the code: {terms[name]!r} matches nothing")

    def lines(self, name: str) -> list[str]:
        """The lines of the code that light up for a term."""
        return [line.strip() for line, _, names in self._lines() if name in names]

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.html()}

    def html(self) -> str:
        key = "al-" + hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        lines = list(self._lines())

        def term(name: str) -> str:
            own = " ".join(f"{key}-{n}" for n, (_, _, names) in enumerate(lines) if name in names)
            # A button takes the focus by keyboard and by touch; a screen reader then reads the lines.
            words = f'type="button" class="al-term{self._classes([name])}" aria-describedby="{own}"'
            return f"<button {words}>{_typeset(name)}</button>"

        pieces = BRACED.split(self.formula)  # what is in braces comes at odd places
        formula = "".join(term(piece) if k % 2 else _typeset(piece) for k, piece in enumerate(pieces))
        code = "".join(
            f'<span class="al-line{self._classes(names)}" id="{key}-{n}" '
            f'style="--in:{len(line) - len(line.lstrip())}">{self._marked(line, at)}</span>'
            for n, (line, at, names) in enumerate(lines)
        )
        style = STYLE + "".join(LIT.format(f"k{k}") for k in range(len(self._hits)))
        return (
            f'<style>{style}</style><div class="al-eq"><div class="al-eq-parts"><p class="al-formula">{formula}</p>'
            f'<div class="al-code highlight"><pre class="al-lines">{code}</pre></div></div></div>'
        )

    def _lines(self) -> Iterator[tuple[str, int, list[str]]]:
        """For each line its text, where it begins, and the terms that are in it."""
        at = 0
        for line in self.text.splitlines(keepends=True):
            yield (
                line,
                at,
                [name for name, hits in self._hits.items() if not hits.isdisjoint(range(at, at + len(line)))],
            )
            at += len(line)

    def _classes(self, names: Iterable[str]) -> str:
        order = list(self._hits)
        return "".join(f" k{order.index(name)}" for name in names)

    def _marked(self, line: str, at: int) -> str:
        """A line in Pygments' classes, which the book's theme colours, and with the terms' own classes."""

        def classes(place: int) -> str:
            names = [name for name, hits in self._hits.items() if place in hits]
            return (self._kinds[place] + (" al-hit" + self._classes(names) if names else "")).strip()

        runs = groupby(range(at, at + len(line)), classes)
        pieces = [(kind, html.escape("".join(self.text[place] for place in run))) for kind, run in runs]
        return "".join(f'<span class="{kind}">{text}</span>' if kind else text for kind, text in pieces)

    def __repr__(self) -> str:
        return f"{BRACED.sub(lambda found: found[1], self.formula)}\n\n{self.text}"


def _tokens(code: str) -> Iterator[tuple[str, str, bool]]:
    """-> (text, Pygments' class, whether it only speaks: a comment or a docstring)."""
    from pygments.lexers import PythonLexer  # comes with IPython
    from pygments.token import STANDARD_TYPES, Comment, String, Text

    for kind, piece in PythonLexer(stripnl=False, ensurenl=False).get_tokens(code):
        name = "" if kind in Text or not piece.strip() else STANDARD_TYPES.get(kind, "")
        yield piece, name, kind in Comment or kind in String.Doc


def _places(pattern: Pattern, code: str) -> set[int]:
    """Where the pattern is found: the places of its characters."""
    if isinstance(pattern, str):
        left, right = (r"(?<!\w)" if pattern[:1].isidentifier() else ""), (r"(?!\w)" if pattern[-1:].isalnum() else "")
        pattern = re.compile(left + re.escape(pattern) + right)
    if isinstance(pattern, re.Pattern):
        return {place for found in pattern.finditer(code) for place in range(*found.span())}
    return set().union(*(_places(one, code) for one in pattern))


def _typeset(text: str) -> str:
    """A piece of a formula as HTML."""

    def piece(found: re.Match) -> str:
        mark, shifted, letter = found.groups()
        if letter:
            return f"<i>{letter}</i>"
        tag = "sub" if mark == "_" else "sup"
        return f"<{tag}>{_typeset(shifted.strip('()'))}</{tag}>"

    return TYPE.sub(piece, html.escape(text, quote=False).replace("'", "′"))
