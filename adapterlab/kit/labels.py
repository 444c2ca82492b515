"""The museum's labels: what hangs beside an exhibit, and the way to it from a symptom."""

from collections.abc import Mapping, Sequence

from ..contract import Report
from ..museum import EXHIBITS, SYMPTOMS, Exhibit
from .show import Table
from .style import MARKS


class Labels:
    """Why each exhibit got through, who catches it, what is right, and its lines; shown as Markdown.

    Args:
        room: all of its exhibits are shown.
        reports: by name, the contract's reports on the broken one and on the healthy one.
        chapters: name -> address of the chapter that shows it at work; its lines are folded here.
    """

    def __init__(self, room: str, reports: Mapping[str, tuple[Report, Report]], chapters: Mapping[str, str]):
        self.exhibits = [exhibit for exhibit in EXHIBITS.values() if exhibit.family == room]
        self.reports, self.chapters = reports, chapters

    def _repr_markdown_(self) -> str:
        return "\n\n".join(self._label(exhibit) for exhibit in self.exhibits)

    def __repr__(self) -> str:
        return self._repr_markdown_()

    def _label(self, exhibit: Exhibit) -> str:
        parts = [
            f"**{exhibit.number}. {exhibit.title}.** {exhibit.source}",
            f"*Let through:* {exhibit.let_through} *Caught by* {self._caught(exhibit)}. *Instead:* {exhibit.fix}",
        ]
        if exhibit.simulated:
            parts.append(exhibit.simulated)
        lines = f"```python\n{exhibit.code()}\n```"
        if exhibit.name in self.chapters:
            parts[-1] += f" [At work]({self.chapters[exhibit.name]})."
            lines = f"<details><summary>The lines of {exhibit.number}</summary>\n\n{lines}\n\n</details>"
        parts.append(lines)
        return "\n\n".join(parts)

    def _caught(self, exhibit: Exhibit) -> str:
        """Names of checks, as the run says and not as the label does."""
        broken, healthy = self.reports[exhibit.name]
        named = [name for name in exhibit.caught_by if broken[name].status != healthy[name].status == "pass"]
        return " and ".join(f"`{name}`" for name in named)


def symptoms(anchors: Mapping[str, str]) -> Table:
    """What one sees -> exhibits, by the rooms they hang in, and checks.

    Args:
        anchors: a room -> its place on the page.
    """
    rows = []
    for symptom in SYMPTOMS:
        found = [exhibit for exhibit in EXHIBITS.values() if exhibit.symptom == symptom]
        links = [f"[{MARKS[e.member].label} ({e.number})]({anchors[e.family]})" for e in found]
        checks = dict.fromkeys(name for e in found for name in e.caught_by[:1])
        rows.append((symptom, ", ".join(links), ", ".join(f"`{name}`" for name in checks)))
    return Table(["what you see", "exhibits", "the check to run"], rows)


def tally(reports: Mapping[str, tuple[Report, Report]], checks: Sequence[str]) -> Table:
    """Check -> how many of the exhibits it notices: fails with the bug, and passes without."""
    noticed = {
        name: {check for check in checks if one[check].status in ("fail", "by design") and two[check].status == "pass"}
        for name, (one, two) in reports.items()
    }
    found = {check: sum(check in names for names in noticed.values()) for check in checks}
    alone = {check: sum(names == {check} for names in noticed.values()) for check in checks}
    rows = [(f"`{check}`", found[check], alone[check]) for check in sorted(checks, key=lambda check: -found[check])]
    return Table(["check", "exhibits that it notices", "and no other check does"], rows)
