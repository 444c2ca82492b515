"""The repository's public address: `_config.yml` holds it, and this command writes it wherever else it stands.

`python book/_tools/repository.py https://github.com/OWNER/NAME` sets it, `none` unsets it, and without an argument what
`_config.yml` says is applied again, so that a new notebook gets its install cell. While there is no address, nothing
names one: what would be installed from a made-up address could be anybody's.
"""

import copy
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell

from paths import ROOT

TITLE = "# @title On Colab: install the package"
METADATA = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["hide-cell"]}  # folded: Colab, Lab, book
UNSET = "none"
ADDRESS = re.compile(r"https://github\.com/([A-Za-z0-9][A-Za-z0-9-]{0,38}/(?!\.{1,2}$)[\w.-]{1,100})", re.ASCII)
CONFIGURED = re.compile(r"(?m)^(repository:\n(?:  .*\n)*?  url:).*$()")
LISTED = re.compile(r"(?s)(<!-- labs: [^>]* -->\n).*?(<!-- end of labs -->)")
BADGES = "badges"  # the id of the cell that holds them

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


def badges(url: str, branch: str, notebook: str, up: str = "") -> str:
    """Two links as Markdown. Their images lie in the repository; where they do not show, their text does."""
    repository = ADDRESS.fullmatch(url)[1]
    places = {
        "Colab": f"https://colab.research.google.com/github/{repository}/blob/{branch}/{notebook}",
        "Binder": f"https://mybinder.org/v2/gh/{repository}/{branch}?urlpath=lab/tree/{notebook}",
    }
    image = up + "book/_assets/open-in-{}.svg"
    return " ".join(f"[![Open in {name}]({image.format(name.lower())})]({to})" for name, to in places.items())


def with_cells(text: str, url: str, badges: str) -> str:
    """The notebook's text with its install cell as the first code cell, and before it the badges, if there are any."""
    nb = nbformat.reads(text, as_version=4)
    before = copy.deepcopy(nb)
    nb.cells = [cell for cell in nb.cells if cell.get("id") != BADGES]
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    cell = next((cell for cell in code if cell.source.startswith(TITLE)), None) or new_code_cell(id="install")
    if not code or cell is not code[0]:
        nb.cells = [other for other in nb.cells if other is not cell]
        nb.cells.insert(nb.cells.index(code[0]) if code else len(nb.cells), cell)
    cell.update(source=install_cell(url), metadata=nbformat.from_dict(METADATA))
    if badges:
        nb.cells.insert(nb.cells.index(cell), new_markdown_cell(badges, id=BADGES))
    return text if nb == before else nbformat.writes(nb).rstrip("\n") + "\n"


def title(text: str) -> str:
    """A notebook's first heading."""
    cells = nbformat.reads(text, as_version=4).cells
    headings = (re.search(r"(?m)^# (.+)$", cell.source) for cell in cells if cell.cell_type == "markdown")
    return next((heading[1] for heading in headings if heading), "untitled")


def lab_list(labs: dict[str, str], url: str, branch: str) -> str:
    """README's list of the labs, given their texts by path."""
    lines = []
    for path, text in sorted(labs.items()):
        line = f"- [{title(text)}]({path})"
        lines.append(f"{line} {badges(url, branch, path)}" if url else line)
    if not url:
        lines += ["", "Badges that open them in Colab or on Binder appear here once the project has a public address."]
    return "\n".join(lines)


def with_content(name: str, text: str, place: re.Pattern, content: str) -> str:
    """The text with `content` between the two groups of `place`."""
    text, found = place.subn(lambda parts: parts[1] + content + parts[2], text)
    if found != 1:
        raise RepositoryError(f"Nothing was changed: {name} has {found} places for the address, and not one.")
    return text


def rewritten(root: Path, url: str) -> dict[Path, str]:
    """What each file that holds the address must say, for those that do not say it yet."""
    branch = configured(root)[1]
    texts, labs = {}, {}
    for path in sorted([*root.glob("book/*.ipynb"), *root.glob("labs/*.ipynb")]):
        name, text, in_labs = path.relative_to(root).as_posix(), path.read_text("utf-8"), path.parent.name == "labs"
        try:
            texts[path] = with_cells(text, url, badges(url, branch, name, up="../") if url and in_labs else "")
        except (ValueError, nbformat.ValidationError) as error:
            raise RepositoryError(f"Nothing was changed: {name} cannot be read as a notebook. {error}") from error
        if in_labs:
            labs[name] = text
    for name, place, content in [
        ("_config.yml", CONFIGURED, f" {url}" if url else ' ""'),
        ("README.md", LISTED, f"{lab_list(labs, url, branch)}\n"),
    ]:
        texts[root / name] = with_content(name, (root / name).read_text("utf-8"), place, content)
    return {path: text for path, text in texts.items() if text != path.read_text("utf-8")}


def write_all(texts: dict[Path, str]) -> None:
    """Replace all the files, each in one step, or none."""
    before = {path: path.read_bytes() for path in texts}
    staged: dict[Path, Path] = {}
    replaced: list[Path] = []
    try:
        for path, text in texts.items():
            file = tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False)
            staged[path] = Path(file.name)
            with file:
                file.write(text.encode())
            staged[path].chmod(path.stat().st_mode)
        for path, copied in staged.items():
            copied.replace(path)
            replaced.append(path)
    except OSError as error:
        for done in replaced:
            done.write_bytes(before[done])
        raise RepositoryError(f"Nothing was changed, because {path} cannot be written: {error}") from error
    finally:
        for copied in staged.values():
            copied.unlink(missing_ok=True)


def apply(root: Path, url: str) -> list[Path]:
    """Write the address everywhere below `root`; the files that changed."""
    texts = rewritten(root, url)
    write_all(texts)
    return sorted(texts)


def main(arguments: list[str], root: Path = ROOT) -> int:
    try:
        url = valid(arguments[0] if arguments else configured(root)[0] or UNSET)
        changed = apply(root, url)
    except RepositoryError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"The address is {url}." if url else "There is no public address.", end=" ")
    print("Changed: " + ", ".join(str(path.relative_to(root)) for path in changed) if changed else "Nothing to change.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
