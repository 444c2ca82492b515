"""The repository's address stands in one place, and the notebooks and README say what the command makes of it."""

import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import repository
from paths import ROOT
from repository import RepositoryError, configured, install_cell, main, rewritten, valid

# Whole notebooks take a while to read, so the copies hold a few of them.
FILES = ["_config.yml", "README.md", "book/start.ipynb", "book/dora.ipynb"]
HERE, THERE = "https://github.com/some-one/adapter.lab", "https://github.com/else/where"


def test_what_is_committed_is_what_the_command_makes():
    stale = [str(path.relative_to(ROOT)) for path in rewritten(ROOT, configured()[0])]
    assert not stale, f"run `make repository` for {', '.join(stale)}"


def test_no_file_names_another_address():
    """A made-up address of this project could be anybody's."""
    ours = re.compile(rb"https?://github\.com/[\w.-]+/adapter-?_?lab", re.IGNORECASE)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    names = [name for name in tracked if (ROOT / name).is_file() and not name.startswith("tests/")]
    found = {address for name in names for address in ours.findall((ROOT / name).read_bytes())}
    assert found <= {configured()[0].encode()}


# --- on copies ------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    """A copy of some of what holds the address, and a new lab without its install cell; no address is set."""
    for folder in ("book", "labs"):
        (tmp_path / folder).mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    cells = [new_markdown_cell("# New lab\ntext"), new_markdown_cell("more"), new_code_cell("1 + 1", id="one")]
    metadata = {"language_info": {"name": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), tmp_path / "labs" / "lab10_new.ipynb")
    main(["none"], tmp_path)
    return tmp_path


def texts(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def cells(root: Path, name: str = "labs/lab10_new.ipynb") -> list:
    return nbformat.read(root / name, as_version=4).cells


def test_set_and_unset_again(copy):
    before = texts(copy)
    assert main([HERE], copy) == 0
    there = texts(copy)
    assert yaml.safe_load(there["_config.yml"])["repository"]["url"] == configured(copy)[0] == HERE
    assert all("some-one/adapter.lab" in text for text in there.values())
    changes = {name for name in before if before[name] != there[name]}
    assert changes == set(before)
    assert main(["none"], copy) == 0
    assert texts(copy) == before and configured(copy)[0] == ""


def test_a_second_run_changes_no_byte_and_writes_no_file(copy):
    main([HERE], copy)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in copy.rglob("*") if path.is_file()}
    for arguments in ([HERE], [HERE + ".git"], [HERE + "/"], []):
        assert main(arguments, copy) == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in copy.rglob("*") if path.is_file()} == before


def test_the_next_address_leaves_nothing_of_the_last(copy):
    main([HERE], copy)
    first = texts(copy)
    main([THERE], copy)
    assert not [name for name, text in texts(copy).items() if "some-one" in text]
    main([HERE], copy)
    assert texts(copy) == first


def test_only_the_install_cell_of_a_chapter_changes(copy):
    chapters = sorted((copy / "book").glob("*.ipynb"))
    before = [nbformat.read(path, 4) for path in chapters]
    main([HERE], copy)
    for old, new in zip(before, [nbformat.read(path, 4) for path in chapters], strict=True):
        assert old.metadata == new.metadata and len(old.cells) == len(new.cells)
        assert [b.source for a, b in zip(old.cells, new.cells) if a != b] == [install_cell(HERE)]
        assert all({**a, "source": ""} == {**b, "source": ""} for a, b in zip(old.cells, new.cells))


def test_a_new_lab_gets_its_cell_its_badges_and_its_line(copy):
    main([HERE], copy)
    assert [cell.id for cell in cells(copy)][2:] == ["badges", "install", "one"]
    badges, install = cells(copy)[2:4]
    assert install.source == install_cell(HERE) and install.metadata == repository.METADATA
    links = dict(re.findall(r"\[!\[([^]]+)\]\([^)]+\)\]\(([^)]+)\)", badges.source))
    assert links == {
        "Open in Colab": "https://colab.research.google.com/github/some-one/adapter.lab/blob/main/labs/lab10_new.ipynb",
        "Open in Binder": "https://mybinder.org/v2/gh/some-one/adapter.lab/main?urlpath=lab/tree/labs/lab10_new.ipynb",
    }
    line = next(line for line in (copy / "README.md").read_text().splitlines() if "lab10_new" in line)
    assert line.startswith("- [New lab](labs/lab10_new.ipynb) [![Open in Colab](book/_assets/open-in-colab.svg)](https")
    for image in re.findall(r"!\[[^]]+\]\(([^)]+)\)", line):
        assert (ROOT / image).is_file() and (ROOT / "labs" / f"../{image}").is_file()
        assert f"../{image}" in badges.source
    main(["none"], copy)
    assert [cell.id for cell in cells(copy)][2:] == ["install", "one"]
    assert "Open in" not in (copy / "README.md").read_text()


def test_an_install_cell_that_moved_comes_first_again(copy):
    path = copy / "labs" / "lab10_new.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells.append(nb.cells.pop(2))
    nb.cells[-1].metadata = {}
    nbformat.write(nb, path)
    main([], copy)
    assert [(cell.id, dict(cell.metadata)) for cell in cells(copy)[2:]] == [
        ("install", repository.METADATA),
        ("one", {}),
    ]


WRONG = [
    "",
    "http://github.com/some-one/lab",
    "https://github.com/some-one",
    "https://github.com/some-one/lab/tree/main",
    "https://github.com/some-one/..",
    "https://github.com/some one/lab",
    "https://github.com/some-one/lab\n",
    'https://github.com/some-one/lab"; import os',
    "https://user:secret@github.com/some-one/lab",
    "https://gitlab.com/some-one/lab",
    "git@github.com:some-one/lab.git",
    "None",
]


@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_address_gets_a_sentence_and_changes_nothing(copy, capsys, url):
    before = texts(copy)
    assert main([url], copy) == 1
    assert "https://github.com/OWNER/NAME" in capsys.readouterr().err
    assert texts(copy) == before


def test_a_wrong_address_in_the_configuration_is_refused_too(copy, capsys):
    config = copy / "_config.yml"
    config.write_text(config.read_text().replace('url: ""', "url: https://gitlab.com/some-one/lab"))
    assert main([], copy) == 1 and "https://gitlab.com/some-one/lab" in capsys.readouterr().err


def break_notebook(root, _):
    (root / "labs" / "lab10_new.ipynb").write_text("no notebook")
    return "labs/lab10_new.ipynb"


def break_readme(root, _):
    readme = root / "README.md"
    readme.write_text(readme.read_text().replace("<!-- end of labs -->", ""))
    return "README.md"


def break_disk(root, monkeypatch):
    """The disk takes all files but one."""
    replace = Path.replace

    def full(self, to):
        if to.name == "start.ipynb":
            raise OSError(28, "No space left on device")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", full)
    return "book/start.ipynb"


@pytest.mark.parametrize("breakage", [break_notebook, break_readme, break_disk])
def test_where_one_file_cannot_be_written_none_is(copy, monkeypatch, capsys, breakage):
    named = breakage(copy, monkeypatch)
    before = texts(copy)
    assert main([HERE], copy) == 1
    said = capsys.readouterr().err
    assert "Nothing was changed" in said and named in said and "Traceback" not in said
    assert texts(copy) == before


def test_make_passes_the_address_on():
    for given, passed in (([], ""), ([f"URL={HERE}"], f" {HERE}")):
        command = ["make", "--no-print-directory", "-n", "repository", *given]
        lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
        assert lines.rstrip().endswith(f"repository.py{passed}")


# --- the cell -------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_cell(monkeypatch, capsys):
    """Run a cell's source as a notebook would; what it printed, and what it had the system do."""

    def run(source: str, colab: bool) -> tuple[str, list[str]]:
        shell, commands = InteractiveShell(), []
        shell.system = commands.append
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
        if not colab:
            monkeypatch.delitem(sys.modules, "google.colab")
        shell.run_cell(source).raise_error()
        return capsys.readouterr().out, commands

    return run


@pytest.mark.parametrize("url", ["", HERE])
def test_outside_colab_the_cell_does_nothing(run_cell, url):
    assert run_cell(install_cell(url), colab=False) == ("", [])


def test_without_an_address_the_cell_says_so_and_installs_nothing(run_cell):
    said, commands = run_cell(install_cell(""), colab=True)
    assert "no public address yet, so nothing was installed" in said and not commands
    assert "github" not in install_cell("")


def test_on_colab_the_cell_installs_and_keeps_what_is_there(run_cell):
    _, (command,) = run_cell(install_cell(HERE), colab=True)
    from importlib.metadata import version

    for name in ("torch", "numpy", "ipywidgets"):
        assert f" {name}=={version(name)} " in command
    assert f'"adapterlab[kit,peft,quant] @ git+{HERE}"' in command and "pip install" in command


def test_addresses_are_taken_as_they_are_written_down():
    assert valid("none") == "" and valid(f"{HERE}.git") == valid(f"{HERE}/") == valid(HERE) == HERE
    with pytest.raises(RepositoryError):
        valid("https://github.com/some-one/lab//")


# --- the book's buttons ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_book(copy):
    """Build a book of two pages with this repository's own configuration, and return its links by page."""
    for name in ("_tools", "_assets", "_data", "references.bib"):
        (copy / "book" / name).symlink_to(ROOT / "book" / name)
    pages = ["book/page", "labs/lab10_new"]
    shutil.copy(copy / f"{pages[1]}.ipynb", copy / f"{pages[0]}.ipynb")
    toc = {"format": "jb-book", "root": pages[0], "chapters": [{"file": pages[1]}]}
    (copy / "_toc.yml").write_text(yaml.safe_dump(toc))

    def build(url: str) -> dict[str, set[str]]:
        assert main([url], copy) == 0
        jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
        build = [*jupyter_book, "build", str(copy), "--all", "--nitpick", "--warningiserror"]
        done = subprocess.run(build, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
        assert done.returncode == 0, done.stdout + done.stderr
        html = {page: (copy / "_build" / "html" / f"{page}.html").read_text() for page in pages}
        return {page: set(re.findall(r'<a href="(https://[^"]*)" target="_blank"', html[page])) for page in pages}

    return build


def test_launch_buttons_lead_to_the_notebook(small_book):
    for page, links in small_book(HERE).items():
        issue = f"{HERE}/issues/new?title=Issue%20on%20page%20%2F{page}.html&body=Your%20issue%20content%20here."
        assert links == {
            f"https://colab.research.google.com/github/some-one/adapter.lab/blob/main/{page}.ipynb",
            f"https://mybinder.org/v2/gh/some-one/adapter.lab/main?urlpath=lab/tree/{page}.ipynb",
            HERE,
            issue,
        }


def test_without_an_address_there_are_no_buttons(small_book):
    assert set().union(*small_book("none").values()) == set()
