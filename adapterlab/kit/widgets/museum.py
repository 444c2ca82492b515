"""The museum's exhibits, each with its bug in and out, and which checks of the contract notice."""

from collections.abc import Mapping
from typing import Any

from ... import museum
from ...contract import CHECKS, Report, Result
from .. import style
from ..show import Picture
from .figure import Figure

LETTERS = {"pass": "p", "fail": "f", "by design": "d", "n/a": "n"}


class Museum(Figure, js="museum.js"):
    """Choose an exhibit, take its bug out and put it back, and see what every check says.

    Args:
        reports: by an exhibit's name, the contract's report on the broken one and on the healthy one. All of them hold
            the same checks.
    """

    def __init__(self, reports: Mapping[str, tuple[Report, Report]]):
        checks = list(next(iter(reports.values()))[0])
        super().__init__(
            {
                "checks": [[name, CHECKS[name].proves] for name in checks],
                "rooms": [room for room in museum.ROOMS if any(museum.EXHIBITS[n].family == room for n in reports)],
                "exhibits": [_exhibit(museum.EXHIBITS[name], checks, *pair) for name, pair in reports.items()],
            }
        )

    def still(self) -> Picture:
        names, exhibits = [name for name, _ in self.data["checks"]], self.data["exhibits"]
        fig, ax = style.figure(width=7.4, height=1.3 + 0.2 * len(exhibits))
        squares = [
            (x, y)
            for y, exhibit in enumerate(exhibits)
            for x, (with_bug, without) in enumerate(zip(exhibit["broken"], exhibit["healthy"]))
            if with_bug in "fd" and with_bug != without
        ]
        ax.plot(*zip(*squares), "s", color=style.INK, markersize=5.5)
        for y, (above, below) in enumerate(zip(exhibits, exhibits[1:])):
            if above["room"] != below["room"]:
                ax.axhline(y + 0.5, color=style.MUTED, linewidth=0.6)
        ax.set_yticks(range(len(exhibits)), [f"{e['number']}  {style.MARKS[e['member']].label}" for e in exhibits])
        ax.set_xticks(range(len(names)), names, rotation=90)
        ax.set(ylim=(len(exhibits) - 0.4, -0.6), xlim=(-0.6, len(names) - 0.4))
        ax.tick_params(labelsize=8.5, length=0)
        let_in = sum(exhibit["broken"][names.index("identity")] == "p" for exhibit in exhibits if "identity" in names)
        return Picture(
            fig,
            f"{len(exhibits)} exhibits against {len(names)} checks of the contract. A square is a check that notices "
            "the bug. Each row has a square; "
            f"the column of identity at t=0 has none in {let_in} of {len(exhibits)} rows.",
            "A square: this check fails with the bug in, and not without it.",
        )


def _exhibit(exhibit: museum.Exhibit, checks: list[str], broken: Report, healthy: Report) -> dict[str, Any]:
    def letters(report: Report) -> str:
        return "".join(LETTERS[report[name].status] for name in checks)

    return {
        "number": exhibit.number,
        "member": exhibit.member,
        "title": _words(exhibit.title),
        "room": exhibit.family,
        "code": exhibit.code(),
        "let": _words(exhibit.let_through),
        "fix": _words(exhibit.fix),
        "passes": [name for name in exhibit.passes if name in checks],
        "caught": [name for name in exhibit.caught_by if name in checks],
        "broken": letters(broken),
        "healthy": letters(healthy),
        "seen": {name: seen(broken[name]) for name in checks if broken[name].status in ("fail", "by design")},
    }


def _words(markdown: str) -> str:
    return markdown.replace("`", "")


def seen(result: Result) -> str:
    """What a check that failed has seen, in a few words."""
    if result.figure is None or result.limit is None or "worst: " not in result.note:
        return _short(result.note)
    worst = result.note.rpartition("worst: ")[2]
    if result.figure != result.figure:
        return f"not a number ({worst})"
    size = f"{result.figure:.1g}" if not 0.1 < result.figure < 1e4 else f"{result.figure:.2g}"
    return f"{size}, where {f'at most {result.limit:.1g}' if result.limit else '0'} is allowed ({worst})"


def _short(note: str, most: int = 240) -> str:
    return note if len(note) <= most else f"{note[:most].rpartition(' ')[0]} …"
