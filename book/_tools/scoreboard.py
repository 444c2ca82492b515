"""A Sphinx extension: the directive {scoreboard}, which shows a part of book/_data/peft_scoreboard.json.

`{scoreboard} source`, `counts`, `failures`, `table`, `reproducers` and `excluded`. The file is what `python -m
adapterlab.scoreboard` wrote; nothing is measured here.
"""

import html
import json
from collections import Counter
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from paths import BOOK

DATA = BOOK / "_data" / "peft_scoreboard.json"
MARKS = {
    "pass": ("✓", "passes"),
    "fail": ("✗", "fails"),
    "by design": ("◇", "by design"),
    "n/a": ("·", "does not apply"),
}


def load() -> dict[str, Any]:
    return json.loads(DATA.read_text("utf-8"))


def columns(data: dict[str, Any]) -> list[str]:
    """The checks that apply to at least one method."""
    return [c for c in data["checks"] if any(row["results"][c]["status"] != "n/a" for row in data["rows"])]


def source(data: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    return (
        f"{len(data['rows'])} methods, seed {data['seed']}, {data['date']}: {versions}; {data['machine']}; commit "
        f"`{data['commit'][:12]}`. To measure them again: `{data['command']}`."
    )


def counts(data: dict[str, Any]) -> str:
    """A table of what each check proves and how many methods keep it."""
    lines = ["| check | what a pass proves | ✓ | ✗ | ◇ | · |", "|---|---|--:|--:|--:|--:|"]
    for name in columns(data):
        found = Counter(row["results"][name]["status"] for row in data["rows"])
        lines.append(
            f"| {name} | {data['checks'][name]} | " + " | ".join(str(found[status]) for status in MARKS) + " |"
        )
    return "\n".join(lines)


def failures(data: dict[str, Any]) -> str:
    """A table of who fails what without a word, and who with an exception."""
    lines = ["| check | goes wrong without a word | stops with an exception |", "|---|---|---|"]
    for check in columns(data):
        found = {row["method"]: row["reproducers"][check] for row in data["rows"] if check in row["reproducers"]}
        if found:
            silent = [name for name, made in found.items() if not made["raises"]]
            loud = [name for name, made in found.items() if made["raises"]]
            lines.append(f"| {check} | {_some(silent, len(data['rows']))} | {_some(loud, len(data['rows']))} |")
    return "\n".join(lines)


def _some(names: list[str], of: int) -> str:
    """All of them by name, unless it is almost everyone."""
    return ", ".join(names) if len(names) <= of / 2 else f"{len(names)} of {of}: see the table"


def figure(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.2g}" if value else "0"


def said(result: dict[str, Any], length: int = 220) -> str:
    """Of one cell: its figure beside its limit, and its note, which may be cut."""
    parts = []
    if result["figure"] is not None and result["limit"] is not None:
        parts.append(f"{figure(result['figure'])} (limit {figure(result['limit'])})")
    parts += [result["note"]] if result["note"] else []
    text = ": ".join(parts)
    return text if len(text) <= length else text[: length - 1] + "…"


def cell(row: dict[str, Any], check: str) -> str:
    result = row["results"][check]
    mark, word = MARKS[result["status"]]
    title = html.escape(f"{row['method']}, {check}: {word}. {said(result)}".rstrip())
    inside = f'<span aria-hidden="true">{mark}</span><span class="sb-word">{word}</span>'
    if result["status"] in ("fail", "by design"):
        inside = f'<a href="#{anchor(row, check)}">{inside}</a>'
    return f'<td class="sb-{result["status"].replace("/", "").replace(" ", "-")}" title="{title}">{inside}</td>'


def anchor(row: dict[str, Any], check: str = "") -> str:
    """Inside the folded part: following a link to it unfolds it."""
    return "-".join(["sb", row["method"], *filter(None, [check])]).replace("_", "-")


def table(data: dict[str, Any]) -> str:
    shown = columns(data)
    heads = "".join(f'<th scope="col" title="{html.escape(data["checks"][c])}"><span>{c}</span></th>' for c in shown)
    lines = []
    for row in data["rows"]:
        kept = not any(result["status"] == "fail" for result in row["results"].values())
        head = f'<th scope="row"><a href="#{anchor(row)}">{row["method"]}</a></th>'
        lines.append(
            f'<tr class="{"sb-kept" if kept else "sb-broken"}">{head}{"".join(cell(row, c) for c in shown)}</tr>'
        )
    return (
        '<div class="sb"><input type="checkbox" id="sb-only"><label for="sb-only">only failures</label>'
        '<div class="sb-scroll" role="region" aria-label="PEFT\'s methods under the contract" tabindex="0">'
        f'<table><thead><tr><th scope="col">method</th>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        "</div></div>"
    )


def reproducers(data: dict[str, Any]) -> str:
    """Per method, folded: what PEFT says of its deviations, each failure with the lines that show it, and the rest."""
    parts = []
    for row in data["rows"]:
        results = row["results"]
        failed = [c for c in results if results[c]["status"] == "fail"]
        meant = [c for c in results if results[c]["status"] == "by design"]
        links = f'<a href="{row["paper"]}">paper</a>, <a href="{row["source"]}">PEFT’s code</a>'
        count = f"{len(failed)} ✗" + (f", {len(meant)} ◇" if meant else "")
        head = f"<summary>{row['method']} ({count})</summary>"
        body = [f'<p id="{anchor(row)}">{row["kind"]}; {links}.</p>']
        for check in meant:
            quote = row["quotes"][check]
            body.append(
                f'<p id="{anchor(row, check)}"><b>{check}</b>, by design: '
                f"<q>{html.escape(quote['words'])}</q> "
                f'(<a href="{quote["link"]}">source</a>). {html.escape(said(without_quote(results[check])))}</p>'
            )
        for check in failed:
            made = row["reproducers"][check]
            body.append(
                f'<p id="{anchor(row, check)}"><b>{check}</b>: '
                f"{html.escape(said(results[check]))}</p>"
                f'<pre tabindex="0"><code>{lines(made["code"] + outcome(made))}</code></pre>'
            )
        if not failed and not meant:
            body.append("<p>It keeps all of the contract that applies to it.</p>")
        body.append(rest(results))
        parts.append(f"<details>{head}{''.join(body)}</details>")
    return f'<div class="sb-shown">{"".join(parts)}</div>'


def lines(code: str) -> str:
    """Each in a box of its own: where it is wrapped one sees that it goes on."""
    return "".join(f"<span>{html.escape(line)}\n</span>" for line in code.splitlines())


def outcome(made: dict[str, Any]) -> str:
    """A comment: what the lines did, and what they should have done."""
    if made["raises"]:
        return f"# raises {made['shown']}"
    limit = made["limit"]
    right = made["expected"] if limit is None else f"{figure(limit)} at most" if limit else "0"
    return f"# prints {made['shown']} instead of {right}"


def rest(results: dict[str, Any]) -> str:
    """A table of what passes, with its figure, and of what does not apply, with the reason."""
    rows = []
    for check, result in results.items():
        if result["status"] in ("pass", "n/a"):
            mark, word = MARKS[result["status"]]
            kind = result["status"].replace("/", "")
            rows.append(
                f'<tr><th scope="row">{check}</th><td class="sb-{kind}"><span aria-hidden="true">{mark}</span>'
                f'<span class="sb-word">{word}</span></td><td>{html.escape(said(result))}</td></tr>'
            )
    return f"<table>{''.join(rows)}</table>"


def without_quote(result: dict[str, Any]) -> dict[str, Any]:
    """Its note begins with the quotation and its link."""
    return {**result, "note": result["note"].partition("). ")[2]}


def excluded(data: dict[str, Any]) -> str:
    return "\n".join(f"- `{name}`: {why}." for name, why in data["excluded"].items())


MARKDOWN = {"source": source, "counts": counts, "failures": failures, "excluded": excluded}
HTML = {"table": table, "reproducers": reproducers}


class Scoreboard(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(DATA))
        data, part = load(), self.arguments[0]
        if part in HTML:
            return [nodes.raw("", HTML[part](data), format="html")]
        if part not in MARKDOWN:
            raise self.error(f"there is no part {part!r}: it is {', '.join([*MARKDOWN, *HTML])}")
        box = nodes.container()
        self.state.nested_parse(StringList(MARKDOWN[part](data).splitlines(), str(DATA)), 0, box)
        return [box]


def setup(app) -> dict[str, Any]:
    app.add_directive("scoreboard", Scoreboard)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
