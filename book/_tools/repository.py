"""The repository's public address: `_config.yml` holds it, and this command writes it wherever else it stands.

`python book/_tools/repository.py https://github.com/OWNER/NAME` sets it, `none` unsets it, and without an argument what
`_config.yml` says is applied again, so that a new notebook gets its install cell. While there is no address, nothing
names one: what would be installed from a made-up address could be anybody's.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import yaml

from paths import ROOT

TITLE = "# @title On Colab: install the package"
METADATA = {"cellView": "form", "tags": ["hide-cell"]}
ADDRESS = re.compile(r"https://github\.com/[A-Za-z0-9][A-Za-z0-9-]{0,38}/(?!\.{1,2}$)[\w.-]{1,100}", re.ASCII)
CONFIGURED = re.compile(r"(?m)^(repository:\n(?:  .*\n)*?  url:).*$")
UNSET = "none"

# Naming what is installed as a requirement leaves pip two ways out: to keep it, or to fail.
INSTALL = """\
import sys

if "google.colab" in sys.modules:
    from importlib.metadata import version

    keep = ("torch", "numpy", "ipywidgets")
    kept = " ".join(f"{{name}}=={{version(name)}}" for name in keep)
    source = "git+{url}"
    %pip install -q {{kept}} "adapterlab[kit,peft,quant] @ {{source}}"
"""
NO_ADDRESS = """\
import sys

if "google.colab" in sys.modules:
    print("Adapter Lab has no public address yet, so nothing was installed.")
    print("In your copy of it run `python -m pip wheel --no-deps .`, upload the")
    print("wheel here, and run `%pip install bitsandbytes adapterlab-*.whl`.")
"""


class RepositoryError(Exception):
    """A sentence for the person who sets the address."""


def configured(root: Path = ROOT) -> tuple[str, str]:
    """The address, "" while there is none, and the branch."""
    repository = yaml.safe_load((root / "_config.yml").read_text("utf-8"))["repository"]
    return repository["url"] or "", repository["branch"]


def valid(url: str) -> str:
    """The address without a trailing slash or `.git`, or "" for `none`."""
    if url == UNSET:
        return ""
    plain = url.removesuffix("/").removesuffix(".git")
    if not ADDRESS.fullmatch(plain):
        raise RepositoryError(
            f"{url!r} is not the address of a repository that Colab can open: write it as"
            f" https://github.com/OWNER/NAME, or `{UNSET}` for no address."
        )
    return plain


def install_cell(url: str) -> str:
    """The source of the first code cell of every notebook."""
    return f"{TITLE}\n{INSTALL.format(url=url) if url else NO_ADDRESS}".rstrip("\n")


def is_install_cell(cell) -> bool:
    return cell.cell_type == "code" and cell.source.startswith(TITLE)


def with_install_cell(text: str, url: str) -> str:
    """The notebook's text with the install cell as its first code cell; the same text if it has it."""
    nb = nbformat.reads(text, as_version=4)
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    if code and is_install_cell(code[0]):
        cell = code[0]
    else:
        cell = next(filter(is_install_cell, code), None) or nbformat.v4.new_code_cell(id="install")
        nb.cells = [other for other in nb.cells if other is not cell]
        place = next((k for k, other in enumerate(nb.cells) if other.cell_type == "code"), len(nb.cells))
        nb.cells.insert(place, cell)
    wanted = {"source": install_cell(url), "metadata": METADATA}
    if code[:1] == [cell] and all(cell[key] == value for key, value in wanted.items()):
        return text
    cell.update(nbformat.from_dict(wanted))
    return nbformat.writes(nb).rstrip("\n") + "\n"


def rewritten(root: Path, url: str) -> dict[Path, str]:
    """What each file that holds the address must say, for those that do not say it yet."""
    config = root / "_config.yml"
    texts = {config: CONFIGURED.sub(lambda found: f"{found[1]} {url or chr(34) * 2}", config.read_text("utf-8"))}
    for path in sorted([*root.glob("book/*.ipynb"), *root.glob("labs/*.ipynb")]):
        try:
            texts[path] = with_install_cell(path.read_text("utf-8"), url)
        except (ValueError, nbformat.ValidationError) as error:
            raise RepositoryError(f"{path.relative_to(root)} cannot be read as a notebook: {error}") from error
    return {path: text for path, text in texts.items() if text != path.read_text("utf-8")}


def write_all(texts: dict[Path, str]) -> None:
    """Replace all the files, each in one step, or none."""
    before = {path: path.read_bytes() for path in texts}
    staged: dict[Path, str] = {}
    try:
        for path, text in texts.items():
            with tempfile.NamedTemporaryFile(
                "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
            ) as file:
                staged[path] = file.name
                file.write(text)
            os.chmod(file.name, path.stat().st_mode)
        for path in texts:
            os.replace(staged[path], path)
            del staged[path]
    except OSError as error:
        for path in set(texts) - set(staged):
            path.write_bytes(before[path])
        raise RepositoryError(f"Nothing was changed, because {error.filename} cannot be written: {error}") from error
    finally:
        for name in staged.values():
            Path(name).unlink(missing_ok=True)


def apply(root: Path, url: str) -> list[Path]:
    """Write the address everywhere below `root`; the files that changed."""
    texts = rewritten(root, url)
    write_all(texts)
    return sorted(texts)


def main(arguments: list[str], root: Path = ROOT) -> int:
    try:
        url = valid(arguments[0]) if arguments else configured(root)[0]
        changed = apply(root, url)
    except RepositoryError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"The address is {url}." if url else "There is no public address.", end=" ")
    print("Changed: " + ", ".join(str(path.relative_to(root)) for path in changed) if changed else "Nothing to change.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
