"""Run the labs in Colab's own runtime image: the command behind `make colab-check`. It needs docker and a network.

The labs get the package as a wheel of this checkout, through their own install cell; the checkout itself is not there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

import colab_run
from paths import ROOT
from repository import install_cell

IMAGE = os.environ.get("COLAB_IMAGE", "us-docker.pkg.dev/colab-images/public/cpu-runtime:latest")
ADDRESS = "https://github.com/OWNER/NAME"  # stands in the cell where the wheel will


class CheckError(Exception):
    """A sentence for the person who runs the check."""


def wheel(folder: Path) -> Path:
    """Build this checkout's wheel into the folder, from a copy: setuptools leaves files where it builds."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(ROOT / "adapterlab", Path(copy) / "adapterlab", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, copy)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), copy]
        if subprocess.run(command).returncode:
            raise CheckError("The wheel was not built; pip's message above says why.")
    return next(folder.glob("adapterlab-*.whl"))


def on_colab(notebook: Path, wheel: str) -> nbformat.NotebookNode:
    """The notebook as Colab runs it: google.colab is loaded, and the install cell installs `wheel`, a file: URL."""
    nb = nbformat.read(notebook, as_version=4)
    install = next(cell for cell in nb.cells if cell.cell_type == "code")
    install.source = install_cell(ADDRESS).replace(f"git+{ADDRESS}", wheel)
    nb.cells.insert(0, new_code_cell("import google.colab"))
    return nb


def docker(folder: Path) -> list[str]:
    """The command that runs the folder's notebooks in Colab's image."""
    start = ["docker", "run", "--rm", "--volume", f"{folder}:/content/check", "--workdir", "/content/check"]
    return [*start, "--entrypoint", "python3", IMAGE, Path(colab_run.__file__).name, "."]


def check(notebooks: list[Path]) -> int:
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        raise CheckError("This needs docker, installed and running: it runs the labs in Colab's own runtime image.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:  # docker's root may write there
        folder = Path(name)
        built = wheel(folder)
        for path in notebooks:
            nbformat.write(on_colab(path, f"file:///content/check/{built.name}"), folder / path.name)
        shutil.copy(colab_run.__file__, folder)
        return subprocess.run(docker(folder)).returncode


def main() -> int:
    try:
        return check(sorted((ROOT / "labs").glob("*.ipynb")))
    except CheckError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
