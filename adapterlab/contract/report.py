"""What a check found, and all of it together as a table, as JSON and as an assertion."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

STATUSES = ("pass", "fail", "by design", "n/a")
MARKS = {"pass": "ok", "fail": "FAIL", "by design": "by design", "n/a": "n/a"}


class ContractError(AssertionError):
    """An adapter broke the contract; the message is the report's failures."""


@dataclass(frozen=True)
class Result:
    """One check's answer.

    Attributes:
        check: its name in `CHECKS`.
        status: "pass"; "fail"; "by design", a failure that the adapter's source states; "n/a", for the reason in note.
        figure: the worst miss that was seen; it passes at `limit` or below. None where nothing was measured.
        note: where the worst was, what went wrong, why it does not apply.
        seconds: how long it took; no part of the finding.
    """

    check: str
    status: str
    figure: float | None = None
    limit: float | None = None
    note: str = ""
    seconds: float = field(default=0.0, compare=False)

    def record(self) -> dict[str, Any]:
        """For JSON: all but the seconds, and no infinity or NaN, which JSON does not have."""
        values = asdict(self)
        del values["seconds"]
        return {k: repr(v) if isinstance(v, float) and not abs(v) < float("inf") else v for k, v in values.items()}


@dataclass(frozen=True)
class Report(Mapping):
    """The results of one adapter by the name of the check, in the order of `CHECKS`."""

    subject: str
    results: dict[str, Result]

    def __getitem__(self, check: str) -> Result:
        return self.results[check]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [name for name, result in self.results.items() if result.status == "fail"]

    @property
    def ok(self) -> bool:
        """Nothing failed, and something passed: a report without one measurement proves nothing."""
        return not self.failed and any(result.status != "n/a" for result in self.results.values())

    def raise_if_failed(self) -> None:
        """For a test of one's own.

        Raises:
            ContractError: a check failed, or none applied; the message says which and what was seen.
        """
        if not self.ok:
            raise ContractError(str(self))

    def json(self) -> str:
        return json.dumps(self.record(), indent=1)

    def record(self) -> dict[str, Any]:
        """As plain values: {"subject", "ok", "results": {check: {"status", "figure", "limit", "note"}}}."""
        results = {name: result.record() for name, result in self.results.items()}
        return {"subject": self.subject, "ok": self.ok, "results": results}

    def __str__(self) -> str:
        return self.table()

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        """For notebooks: a table that a phone can show too."""
        lines = [["check", "", "figure (limit)", "note"], ["---"] * 4]
        for result in self.results.values():
            mark = f"**{MARKS[result.status]}**" if result.status == "fail" else MARKS[result.status]
            limit = "" if result.limit is None else f" ({number(result.limit)})"
            lines.append([plain(result.check), mark, number(result.figure) + limit, plain(result.note)])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{plain(self.subject)}\n\n{table}\n\n{self.counts()}"

    def counts(self) -> str:
        """How many results of each kind."""
        counts = {status: sum(r.status == status for r in self.results.values()) for status in STATUSES}
        return ", ".join(f"{n} {status}" for status, n in counts.items() if n)

    def table(self, width: int = 120) -> str:
        """One line per check, notes wrapped at `width`, and a line that counts."""
        names = max(map(len, self.results), default=0)
        head = names + 2 + 9 + 2 + 9 + 2 + 10 + 2
        lines = [self.subject]
        for result in self.results.values():
            cells = [
                f"  {result.check:{names}}",
                f"{MARKS[result.status]:9}",
                f"{number(result.figure):>9}",
                f"{'' if result.limit is None else '<= ' + number(result.limit):10}",
            ]
            # Addresses stay whole: somebody will want to follow them.
            whole = {"break_long_words": False, "break_on_hyphens": False}
            note = textwrap.wrap(result.note, max(24, width - head - 2), **whole) or [""]
            lines.append("  ".join([*cells, note[0]]).rstrip())
            lines += [" " * (head + 2) + more for more in note[1:]]
        return "\n".join([*lines, f"  {self.counts()}"])


def plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\`*_\[\]<>|$])", r"\\\1", " ".join(text.split()))


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if value else "0"
