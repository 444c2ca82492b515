"""The folder of a run: what it was asked (run.json), what was seen (curve.json, curve.png), and what came of it.

`run.json` is there from the beginning, `adapter.safetensors` at the end only: so the folder says how far it has come.
"""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..files import write
from ..provenance import provenance
from .settings import Settings

ADAPTER, RUN, CURVE, PICTURE = "adapter.safetensors", "run.json", "curve.json", "curve.png"
FORMAT = 1


class FolderError(ValueError):
    """The folder is not one that this run can write to."""


def asked(settings: Settings, processes: int, data_sha256: str | None) -> dict[str, Any]:
    """What run.json says: all that must be the same for a run to go on."""
    return {"settings": settings.to_json(), "processes": processes, "data_sha256": data_sha256}


def begin(out: Path, wanted: dict[str, Any], saving: dict[str, int]) -> None:
    """Make the folder and say what is asked, and how often it is saved.

    Raises:
        FolderError: it cannot be made.
        AdapterFileError: it cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"cannot make the folder {out}: {error.strerror or error}") from None
    if not (out / RUN).exists():
        settings = Settings.from_json(wanted["settings"])
        head = provenance(f"{settings.command()} --out {out}", settings.seed)
        write(out / RUN, (json.dumps({"format": FORMAT} | wanted | saving | head, indent=1) + "\n").encode())


def begun(out: Path) -> dict[str, Any] | None:
    """What the run in this folder was asked, and how often it is saved; None where there is none yet.

    Raises:
        FolderError: there is something else, or run.json cannot be read.
    """
    if not out.exists() and not out.is_symlink():
        return None
    if not out.is_dir():
        raise FolderError(f"--out {out} is no folder: name another")
    if not (out / RUN).exists():
        others = sorted(path.name for path in out.iterdir() if not path.name.startswith(".adapterlab-"))
        if others:
            raise FolderError(f"--out {out} holds other files, {others[0]} among them: name another folder")
        return None
    try:
        found = json.loads((out / RUN).read_text("utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, and this version knows {FORMAT}")
        Settings.from_json(found["settings"])
        return {key: found[key] for key in ("settings", "processes", "data_sha256", "save_every", "keep")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{out / RUN} cannot be read as a run: {error}") from None


def finished(out: Path) -> bool:
    return (out / ADAPTER).exists()


def refuse_other(out: Path, wanted: dict[str, Any], there: dict[str, Any]) -> None:
    """Raises FolderError that names the first thing in which the run that is asked for is not the one that is there."""
    for name, value in wanted["settings"].items():
        then = there["settings"][name]
        if value != then:
            raise FolderError(
                f"{out} holds a run with {name} = {then!r}, and this one has {value!r}: leave that out to go on with "
                "it, or name another --out"
            )
    if wanted["processes"] != there["processes"]:
        raise FolderError(
            f"{out} holds a run of {there['processes']} processes, and here are {wanted['processes']}: it goes on bit "
            "for bit with as many alone"
        )
    if wanted["data_sha256"] != there["data_sha256"]:
        raise FolderError(f"{wanted['settings']['data']} has changed since the run in {out} began: name another --out")


def keep(out: Path, settings: Settings, losses: Sequence[dict], scores: dict[str, Any]) -> None:
    """Write curve.json and curve.png."""
    head = provenance(f"{settings.command()} --out {out}", settings.seed)
    rows = ",\n".join(f"  {json.dumps(row)}" for row in losses)
    found = json.dumps({**head, "settings": settings.to_json(), "scores": scores}, indent=1)
    write(out / CURVE, (found[:-2] + f',\n "rows": [\n{rows}\n ]\n}}\n').encode())
    write(out / PICTURE, picture([row["loss"] for row in losses], settings))


def picture(losses: Sequence[float], settings: Settings) -> bytes:
    """The loss of each step, thin, and its running mean over a twentieth of the steps: a PNG."""
    from ..kit import style

    mark = style.MARKS.get(settings.variant) or replace(style.MARKS["full"], label=settings.variant)
    window = max(1, len(losses) // 20)
    smooth = [sum(losses[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(losses))]
    fig, ax = style.figure(width=6.4, height=3.4)
    steps = range(1, len(losses) + 1)
    ax.plot(steps, losses, color=mark.line, alpha=0.35, linewidth=1)
    ax.plot(steps, smooth, color=mark.line, linewidth=2)
    title = f"{mark.label} on {settings.task or Path(settings.data).name}"
    ax.set(title=title, xlabel="step", ylabel="loss (nats per token)", xlim=(0, settings.steps), ylim=(0, None))
    ax.annotate(f"{smooth[-1]:.3g}", (len(losses), smooth[-1]), (-4, 8), textcoords="offset points", ha="right")
    file = io.BytesIO()
    fig.savefig(file, format="png", dpi=160, metadata={"Software": None})
    return file.getvalue()


def processes() -> int:
    """As torchrun and `accelerate launch` say."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0
