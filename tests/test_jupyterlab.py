"""`make lab N=3` opens the third lab in JupyterLab, and there it runs."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from browsing import listen
from paths import ROOT

LABS = sorted((ROOT / "labs").glob("*.ipynb"))
TOKEN = "only-for-this-test"


def make(folder: Path, *arguments: str) -> list[str]:
    """The command; what sets up .venv is taken as done."""
    return ["make", "--no-print-directory", "-C", str(folder), "--assume-old", ".venv/.ready", "lab", *arguments]


@pytest.fixture
def copy(tmp_path):
    """A checkout with this environment and the third lab, without its outputs: what shows there has run there."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for name in ("book", "labs"):  # JupyterLab looks for what a lab links to
        (tmp_path / name).mkdir()
        for path in (*(ROOT / name).glob("*.ipynb"), *(ROOT / name).glob("*.md")):
            shutil.copy(path, tmp_path / name)
    (lab,) = [path for path in LABS if path.name.startswith("lab3_")]
    nb = nbformat.read(lab, as_version=4)
    nb.metadata.pop("widgets", None)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    nbformat.write(nb, tmp_path / "labs" / lab.name)
    return tmp_path / "labs" / lab.name


@pytest.fixture
def server(copy):
    """JupyterLab as `make lab N=3` starts it, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"--no-browser --allow-root --port={port} --IdentityProvider.token={TOKEN}"
    command = make(copy.parents[1], "N=3", f"ARGS={options}")
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGTERM)
        running.communicate(timeout=60)


def fetch(address: str, seconds: float = 120) -> bytes:
    """The page, as soon as there is one."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{address}?token={TOKEN}", timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


@pytest.mark.parametrize("number", ["", "0", "10", "x", "3_"])
def test_a_number_that_no_lab_has_gets_a_sentence_and_sets_nothing_up(number):
    command = ["make", "--no-print-directory"]  # it does where `make test` has called this
    done = subprocess.run([*command, "lab", f"N={number}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and done.stdout.startswith("Which lab? `make lab N=3` opens the third")
    assert all(f"labs/{path.name}" in done.stdout for path in LABS)
    would = subprocess.run([*command, "-n", "lab", f"N={number}"], cwd=ROOT, capture_output=True, text=True)
    assert "pip" not in would.stdout and "jupyter" not in would.stdout.splitlines()[0]


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_each_number_opens_its_lab(path):
    number = path.name[3]
    shown = subprocess.run([*make(ROOT, "--dry-run", f"N={number}")], capture_output=True, text=True).stdout
    assert f".venv/bin/jupyter lab --ServerApp.root_dir=. labs/{path.name}" in shown


@pytest.mark.browser
def test_the_lab_opens_and_its_cells_run_there(server, copy, browser):
    assert copy.name.encode() in fetch(f"{server}/api/contents/labs/{copy.name}")
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, complaints = context.new_page(), []
    listen(page, server, complaints)
    page.set_default_timeout(180_000)
    page.goto(f"{server}/lab/tree/labs/{copy.name}?token={TOKEN}")
    page.get_by_text("| Idle").wait_for()  # before that, JupyterLab forgets what it is asked to run
    assert page.locator(".jp-NotebookPanel .al-fig").count() == 0
    page.locator(".jp-NotebookPanel .jp-Cell").first.click(position={"x": 3, "y": 3})  # further in there are links
    for _ in range(7):
        page.keyboard.press("Shift+Enter")
    page.wait_for_selector(".jp-NotebookPanel .al-fig svg")
    assert page.locator(".jp-InputPrompt").filter(has_text="[3]:").count() == 1
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    context.close()
    assert not complaints, "\n".join(complaints)
