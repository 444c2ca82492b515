"""The file of runs: one JSON object, whole at any moment, that says how far it has come."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from ...files import write
from . import splits, trial
from .settings import SEEDS, SETTINGS, described

PROTOCOL = {
    "base": "the embedded base model",
    "optimiser": "AdamW without weight decay, linear warm-up and decay, gradients clipped to norm 1",
    "steps": trial.STEPS,
    "batch": trial.BATCH,
    "warmup": trial.WARMUP,
    "seeds": list(SEEDS),
    "items": splits.ITEMS,
    "rows_of_prose": splits.ROWS,
}


FIELDS = ("status", "protocol", "settings", "sessions", "rows")


class Store:
    """Runs, and the heads (`provenance`) of the sessions that made them.

    Attributes:
        rows: each with `session`, the place of its head in `sessions`.
    """

    def __init__(self, path: Path, protocol: dict[str, Any] = PROTOCOL):
        """Raises ValueError: the file holds runs of another protocol or of other settings, or is damaged."""
        self.path, self.protocol = path, protocol
        self.sessions: list[dict] = []
        self.rows: list[dict] = []
        if path.exists():
            found = load(path)
            if found["protocol"] != protocol:
                raise ValueError(f"{path} holds runs of another protocol: name another file, or remove it")
            for name, then in found["settings"].items():
                if name not in SETTINGS or described(name) != then:
                    now = described(name) if name in SETTINGS else "nothing"
                    raise ValueError(f"in {path} {name!r} is {then}, and now it is {now}: name another file")
            self.sessions, self.rows = found["sessions"], found["rows"]

    def begin(self, head: dict[str, Any]) -> None:
        """What is added from now on was made under this head."""
        self.sessions.append(head)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append({"session": len(self.sessions) - 1, **row})

    def write(self, total: int) -> None:
        """Put the file in the place of the old one."""
        status = "complete" if len(self.rows) >= total else f"partial: {len(self.rows)} of {total} runs"
        settings = {row["setting"]: described(row["setting"]) for row in self.rows}
        head = {"status": status, "protocol": self.protocol, "settings": settings, "sessions": self.sessions}
        lines = ",\n".join(json.dumps(row) for row in self.rows)
        content = json.dumps(head, indent=1)[:-2] + ',\n "rows": [\n' + lines + "\n ]\n}\n"
        write(self.path, content.encode())


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
        missing = [name for name in FIELDS if name not in found]
        if missing:
            raise ValueError(f"it has no {missing[0]!r}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} cannot be read as a sweep: {error}") from None
    return found


def load(path: Path) -> dict[str, Any]:
    """A sweep's file: FIELDS.

    Raises:
        ValueError: the file is no sweep's, or is damaged.
    """
    return _parse(path.read_text(errors="replace"), str(path))


def recorded() -> dict[str, Any]:
    """The sweep that comes with the package."""
    return _parse((resources.files("adapterlab.kit") / "data" / "sweep.json").read_text(), "the recorded sweep")
