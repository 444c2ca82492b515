"""A Sphinx extension: the directive {landing}, which shows a part of book/_data/variants.yml on the landing page.

`{landing} verdict`, `{landing} cards` and `{landing} symptoms`. A page that is not in the book yet is "to come".
"""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from face import members, slug
from paths import BOOK

DATA = BOOK / "_data" / "variants.yml"


def load() -> dict[str, Any]:
    return yaml.safe_load(DATA.read_text("utf-8"))


def link(text: str, page: str, anchor: str, exists: Callable[[str], bool]) -> str:
    """A Markdown link from a page in book/, or the text and that its page is to come."""
    if not exists(page):
        return f"{text} *(to come)*"
    suffix = ".ipynb" if (BOOK.parent / f"{page}.ipynb").exists() else ".md"
    return f"[{text}]({PurePosixPath(page).name}{suffix}{'#' + anchor if anchor else ''})"


def verdict(data: dict[str, Any]) -> str:
    """The default, and what is reason enough to leave it."""
    said = data["verdict"]
    return "\n".join([f"**{said['start']}**", "", said["because"], "", *(f"- {why}" for why in said["leave_it_if"])])


def card(name: str, facts: dict[str, Any], exists: Callable[[str], bool]) -> str:
    """One variant: a definition list under its name."""
    label, page = members()[name].label, f"book/{name}"
    title = link(label, page, "", exists) if exists(page) else f"{label} <small>chapter to come</small>"
    measured = ", ".join(facts["measured"]) or "nothing yet"
    rows = {"supposes": facts["supposes"], "rank": facts["rank"], "serve": facts["serve"], "measured": measured}
    rows["rank"] = rows["rank"] if rows["rank"] == "full" else f"${rows['rank']}$"
    listed = "\n\n".join(f"{term}\n: {text}" for term, text in rows.items())
    return f"{title}\n\n${facts['equation']}$\n\n{listed}"


def symptoms(data: dict[str, Any], exists: Callable[[str], bool]) -> str:
    lines = ["| you see | often it is | find out |", "|---|---|---|"]
    for row in data["symptoms"]:
        places = ", ".join(link(to["text"], to["page"], to.get("anchor", ""), exists) for to in row["find"])
        lines.append(f"| **{row['see']}** | {row['often']} | {places} |")
    return "\n".join(lines)


class Landing(SphinxDirective):
    required_arguments = 1

    def parse(self, markdown: str, *classes: str) -> nodes.container:
        box = nodes.container(classes=list(classes))
        self.state.nested_parse(StringList(markdown.splitlines(), str(DATA)), 0, box)
        return box

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(DATA))
        data, exists = load(), self.env.found_docs.__contains__
        match self.arguments[0]:
            case "verdict":
                return [self.parse(verdict(data), "al-verdict-card")]
            case "symptoms":
                return [self.parse(symptoms(data, exists), "al-symptoms")]
            case "cards":
                cards = nodes.container(classes=["al-cards"])
                for name, facts in data["variants"].items():
                    cards += self.parse(card(name, facts, exists), "al-card", f"al-member-{slug(name)}")
                return [cards]
            case other:
                raise self.error(f"there is no part {other!r}: it is verdict, cards or symptoms")


def setup(app) -> dict:
    app.add_directive("landing", Landing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
