"""Facts about the repository that several files must agree on."""

import re
import subprocess
import sys

import pytest

from paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def tracked() -> list[str]:
    """The files that a commit of everything here would hold."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def test_nbval_skip_is_only_in_its_ban():
    users = [name for name in tracked() if b"nbval-skip" in (ROOT / name).read_bytes()]
    assert set(users) <= {"book/_tools/notebook_rules.py", "tests/test_notebooks.py", "tests/test_project.py"}


def test_torch_is_pinned_for_ci_and_loose_for_users():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert "torch==2.13.0" in pins
    assert [need for need in PYPROJECT["project"]["dependencies"] if need.startswith("torch")] == ["torch>=2.6"]


def test_the_package_pins_nothing():
    project = PYPROJECT["project"]
    needs = project["dependencies"] + [need for extra in project["optional-dependencies"].values() for need in extra]
    assert not [need for need in needs if "==" in need]


def test_what_is_installed_is_pinned():
    pins = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    names = [re.match(r"[\w.-]+", need)[0].lower() for need in sum(extras, PYPROJECT["project"]["dependencies"])]
    # tomli is for Python 3.10, where little is pinned.
    assert not [name for name in names if f"\n{name}==" not in pins and name != "tomli"]


def test_no_index_host_is_written_down():
    hosts = re.compile(rb"(?i)--(extra-)?index-url|--find-links|registry\s*=")
    files = [name for name in tracked() if not name.startswith("tests/") and name.count(".ipynb") == 0]
    assert not [name for name in files if hosts.search((ROOT / name).read_bytes())]


@pytest.mark.parametrize("command", ["make test", "make book"])
def test_ci_runs_both_commands(command):
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith(command)]


def test_the_readme_names_commands_that_exist():
    readme = (ROOT / "README.md").read_text()
    fenced = "\n".join(re.findall(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"\bmake ([a-z]+)", fenced))
    assert {"book", "test"} <= named <= TARGETS


def test_help_lists_every_command():
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"book", "test", "notebooks", "serve", "lint"} <= TARGETS
    assert not [target for target in TARGETS if f"make {target} " not in said]


def test_a_python_that_is_missing_gets_a_sentence(tmp_path):
    """`make` in an empty copy, with a PYTHON that is not there: it says so, and makes nothing."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    result = subprocess.run(["make", "book", "PYTHON=no-such-python"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode and "Adapter Lab needs Python 3.10 to 3.13" in result.stdout
    assert not (tmp_path / ".venv").exists() and "Traceback" not in result.stdout + result.stderr
