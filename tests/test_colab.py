"""A lab in a simulated Colab: its versions, only the wheel, the install cell as it stands, run from another folder."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

import colab_check
import colab_run
from paths import ROOT

# What Colab brings, as far as it installs here: torch is the build at hand, and Python is the tests'.
# torchao 0.10.0 is there on purpose: PEFT stops at one that old, so the cell has to bring a newer one.
COLAB = """
torch==2.13.0
numpy==2.0.2; python_version < "3.13"
numpy==2.2.6; python_version >= "3.13"
ipywidgets==7.7.1
anywidget==0.9.21
ipykernel==6.17.1
ipython==7.34.0
matplotlib==3.10.0
transformers==5.15.0
peft==0.20.0
torchao==0.10.0
nbclient
nbformat
"""
LAB = ROOT / "labs" / "lab2_bias_bug.ipynb"
INSTALLED = "from importlib.metadata import distributions as d; INSTALLED = [x.version for x in d(name='adapterlab')]"
# Colab knows nothing of this checkout, nor of the environment that the tests run in.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "VIRTUAL_ENV"))}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return colab_check.wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """The Python of a fresh environment with Colab's versions and a stand-in for google.colab."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    (folder / "colab.txt").write_text(COLAB)
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "-r", folder / "colab.txt"]
    done = subprocess.run(install, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (stand_in,) = folder.glob("lib/python3*/site-packages")
    (stand_in / "google" / "colab").mkdir(parents=True)
    (stand_in / "google" / "colab" / "__init__.py").touch()
    return python


@pytest.fixture
def run(colab, tmp_path):
    """Run notebooks as `make colab-check` does, in a folder of their own; (exit status, what was printed)."""

    def run(**notebooks) -> tuple[int, str]:
        for name, nb in notebooks.items():
            nbformat.write(nb, tmp_path / f"{name}.ipynb")
        shutil.copy(colab_run.__file__, tmp_path)
        command = [colab, Path(colab_run.__file__).name, "."]
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
        return done.returncode, done.stdout or done.stderr

    return run


def ask(python: Path, code: str) -> str:
    done = subprocess.run([python, "-c", code], cwd="/", env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wheel_that_needs(folder: Path, need: str) -> Path:
    """A wheel of the package's name that no environment with less than `need` can hold."""
    path = folder / "adapterlab-99-py3-none-any.whl"
    extras = "".join(f"Provides-Extra: {extra}\n" for extra in ("kit", "peft", "quant"))
    about = "adapterlab-99.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            f"{about}/METADATA",
            f"Metadata-Version: 2.1\nName: adapterlab\nVersion: 99\nRequires-Dist: {need}\n{extras}",
        )
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", "")
    return path


def test_the_wheel_carries_every_file_of_the_package(wheel):
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "adapterlab"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    carried = set(zipfile.ZipFile(wheel).namelist())
    assert not [name for name in names if (ROOT / name).is_file() and name not in carried]


def test_the_cell_fails_rather_than_replace_what_colab_brings(run, colab, tmp_path):
    notebook = colab_check.on_colab(LAB, wheel_that_needs(tmp_path, "ipywidgets>=8").as_uri())
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = [*code[:2], new_code_cell("import adapterlab; adapterlab.from_the_wrong_wheel")]
    status, said = run(notebook=notebook)
    assert status == 1 and "notebook.ipynb: FAILED" in said and said.endswith("Failed: notebook.ipynb.\n")
    assert ask(colab, "import ipywidgets; print(ipywidgets.__version__)") == "7.7.1"
    assert ask(colab, f"{INSTALLED}; print('99' in INSTALLED)") == "False"


def test_a_lab_runs_where_only_the_wheel_is(run, colab, wheel):
    status, said = run(lab=colab_check.on_colab(LAB, wheel.as_uri()))
    assert status == 0, said
    versions = re.search(r"torch, numpy, ipywidgets: (\S+) (\S+) (\S+)\n", said)
    assert versions[3] == "7.7.1" and versions[1].startswith("2.13.0")
    assert "lab.ipynb: ran to its end" in said
    where = Path(ask(colab, "import adapterlab; print(adapterlab.__file__)"))
    assert where.is_relative_to(colab.parent.parent) and ROOT not in where.parents
    # What PEFT says to the torchao that Colab brings.
    assert "True" in ask(colab, "from peft.import_utils import is_torchao_available; print(is_torchao_available())")


def test_a_package_that_was_replaced_is_told(monkeypatch, tmp_path, capsys):
    seen = iter(["2.13.0 2.0.2 7.7.1", "2.13.0 2.4.6 7.7.1"])
    monkeypatch.setattr(colab_run, "versions", lambda: next(seen))
    assert colab_run.main(tmp_path) == 1
    assert "should have stayed, and are 2.13.0 2.4.6 7.7.1 now" in capsys.readouterr().out


# --- the command, without docker ------------------------------------------------------------------------------------


def test_without_docker_there_is_a_sentence(tmp_path):
    """With no docker at all, and with one whose daemon does not answer."""
    for name, body in (("none", ""), ("dead", "#!/bin/sh\nexit 1\n")):
        folder = tmp_path / name
        folder.mkdir()
        if body:
            (folder / "docker").write_text(body)
            (folder / "docker").chmod(0o755)
        command = [sys.executable, colab_check.__file__]
        done = subprocess.run(command, env={**os.environ, "PATH": str(folder)}, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith("This needs docker, installed and running")
        assert "Traceback" not in done.stderr


def test_docker_gets_the_labs_the_wheel_and_the_runner(monkeypatch, tmp_path):
    seen = {}

    def stand_in(command, **options):
        if command[:2] == ["docker", "run"]:
            folder = Path(command[command.index("--volume") + 1].removesuffix(":/content/check"))
            seen.update(command=command, names=sorted(path.name for path in folder.iterdir()))
            seen["source"] = (folder / LAB.name).read_text()
            return subprocess.CompletedProcess(command, 3)
        if command[0] == "docker":
            return subprocess.CompletedProcess(command, 0)
        return subprocess_run(command, **options)

    subprocess_run = subprocess.run
    monkeypatch.setattr(subprocess, "run", stand_in)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert colab_check.check([LAB]) == 3
    built, runner, lab = seen["names"]
    assert built.startswith("adapterlab-") and (runner, lab) == ("colab_run.py", LAB.name)
    assert f"file:///content/check/{built}" in seen["source"] and "git+" not in seen["source"]
    image = seen["command"].index(colab_check.IMAGE)
    assert seen["command"][image - 2 :] == ["--entrypoint", "python3", colab_check.IMAGE, "colab_run.py", "."]
