"""Build the book: `python book/_tools/build_book.py` makes _build/html."""

import subprocess
import sys
from pathlib import Path

import vendor
from paths import ROOT, in_ci

CDN = "The pages will load MathJax from a CDN, so their formulas need a network."


class BuildError(Exception):
    """A sentence for the person who builds the book."""


def prepare_javascript() -> None:
    """Vendor the JavaScript where that can be done; say so where it cannot. CI needs it."""
    try:
        if not vendor.is_vendored() and not vendor.have_npm():
            raise vendor.VendorError("npm is not installed.")
        vendor.vendor()
    except vendor.VendorError as error:
        if in_ci():
            raise
        print(f"{error} {CDN}", flush=True)


def build(where: Path = ROOT, strict: bool | None = None) -> Path:
    """Build into where/_build/html and return that folder. Warnings are errors where `strict` (in CI, if not given)."""
    strict = in_ci() if strict is None else strict
    prepare_javascript()
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(ROOT)]
    options = ["--path-output", str(where), "--all", "--nitpick", "--keep-going"]
    if strict:
        options.append("--warningiserror")
    if subprocess.run(jupyter_book + options, cwd=ROOT).returncode:
        raise BuildError("The book was not built; the messages above say why.")
    return where / "_build" / "html"


def main() -> int:
    try:
        site = build()
    except (BuildError, vendor.VendorError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"\nThe book is built. Open {site / 'index.html'} in a browser, or run `make serve`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
