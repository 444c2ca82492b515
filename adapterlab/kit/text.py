"""Public-domain text: two excerpts that ship with the package, and the full sources for pretraining.

| text | origin | licence |
|---|---|---|
| Jargon File 4.4.7, ed. Eric S. Raymond | Debian package jargon-text | public domain, by its own words |
| The Devil's Dictionary, Ambrose Bierce, 1911 | Debian package dict-devil | public domain, copyright expired |
| King James Bible, 1611 | Debian packages bible-kjv-text, bible-kjv | public domain (in the UK: Crown patent) |

A paragraph (or verse) is held out when its CRC says so, whatever else is in the text; the base model
never saw the held-out part of `jargon`, and nothing of `kjv`.
"""

import gzip
import re
import subprocess
import zlib
from importlib import resources
from pathlib import Path

EXCERPTS = ("jargon", "kjv")
EXCERPT_BYTES = 70_000  # per part; two parts per excerpt

HOW_TO_GET = (
    "pretraining reads Debian's copies of its texts. On Debian or Ubuntu: "
    "`apt-get install jargon-text dict-devil bible-kjv-text bible-kjv`; elsewhere download the four "
    "packages, unpack each with `dpkg -x PACKAGE.deb FOLDER`, and pass --texts FOLDER."
)


def excerpt(name: str, held_out: bool) -> list[str]:
    """Paragraphs of a shipped excerpt: "jargon" (what the base model read) or "kjv" (what it did not)."""
    if name not in EXCERPTS:
        raise ValueError(f"no excerpt {name!r}: choose one of {', '.join(EXCERPTS)}")
    file = resources.files("adapterlab.kit") / "data" / "text" / _filename(name, held_out)
    return file.read_text("utf-8").splitlines()


def is_held_out(paragraph: str) -> bool:
    return zlib.crc32(paragraph.encode()) % 20 == 7


def read_jargon(root: Path) -> list[str]:
    return _prose(_gunzip(root / "usr/share/doc/jargon-text/jargon.txt.gz"))


def read_devil(root: Path) -> list[str]:
    return _prose(_gunzip(root / "usr/share/dictd/devil.dict.dz"))


def read_kjv(root: Path) -> list[str]:
    program = root / "usr/bin/bible"
    if not program.exists():
        raise SystemExit(f"no file {program}: {HOW_TO_GET}")
    verses = subprocess.run(
        [program, "-p", root / "usr/lib", "-f", "-l0", "Gen1:1-Rev22:21"], capture_output=True, text=True, check=True
    )
    return [line.split(" ", 1)[1].strip() for line in verses.stdout.splitlines() if re.match(r"\S+\d+:\d+ ", line)]


def write_excerpts(root: Path, folder: Path) -> None:
    """Cut the shipped excerpts: every k-th paragraph, so that they span the whole text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, paragraphs in (("jargon", read_jargon(root)), ("kjv", read_kjv(root))):
        for held_out in (False, True):
            part = [p for p in paragraphs if is_held_out(p) == held_out]
            stride = max(1, sum(len(p.encode()) + 1 for p in part) // EXCERPT_BYTES + 1)
            (folder / _filename(name, held_out)).write_text("\n".join(part[::stride]) + "\n", "utf-8")


def _filename(name: str, held_out: bool) -> str:
    return f"{name}-{'heldout' if held_out else 'train'}.txt"


def _gunzip(path: Path) -> str:
    if not path.exists():
        raise SystemExit(f"no file {path}: {HOW_TO_GET}")
    return gzip.decompress(path.read_bytes()).decode("utf-8", "replace")


def _prose(text: str) -> list[str]:
    """Paragraphs on one line each, without tables, drawings and stubs."""
    paragraphs = (" ".join(p.split()) for p in re.split(r"\n\s*\n", text))
    return [p for p in paragraphs if len(p) > 120 and sum(c.isalpha() or c == " " for c in p) > 0.85 * len(p)]
