"""Where things lie in the repository."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
VENDOR = BOOK / "_vendor"
TEST_VENDOR = ROOT / "tests" / "_vendor"
BUILD = ROOT / "_build"


def notebooks() -> list[Path]:
    """Every notebook of the book and the labs."""
    return sorted(path for folder in (BOOK, ROOT / "labs") for path in folder.glob("*.ipynb"))


def in_ci() -> bool:
    return os.environ.get("CI") == "true"
