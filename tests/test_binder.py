"""Binder's configuration, as far as it can be tried without Binder: what postBuild asks of pip."""

import os
import re
import subprocess

from paths import ROOT

BINDER = ROOT / ".binder"
PIP = """#!/bin/sh
echo "$PIP_EXTRA_INDEX_URL $*" >> "$LOG"
"""


def test_binder_takes_the_reference_python():
    """Binder reads runtime.txt first; what it says is what constraints.txt is resolved for."""
    version = re.fullmatch(r"python-(3\.\d+)\n", (BINDER / "runtime.txt").read_text())[1]
    assert f"Python {version} is the reference" in (ROOT / "constraints.txt").read_text()


def test_binder_installs_torch_s_cpu_build_first_and_then_the_package_pinned(tmp_path):
    (tmp_path / "python").write_text(PIP)
    (tmp_path / "python").chmod(0o755)
    log = tmp_path / "log"
    assert os.access(BINDER / "postBuild", os.X_OK)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log)}
    subprocess.run([BINDER / "postBuild"], cwd=ROOT, env=environment, check=True)
    cpu = "https://download.pytorch.org/whl/cpu -m pip install -c constraints.txt"
    assert log.read_text().splitlines() == [f"{cpu} torch", f"{cpu} .[kit,quant,peft]"]


def test_binder_reads_nothing_else():
    """A requirements.txt or environment.yml there would be installed before torch's CPU build."""
    assert {path.name for path in BINDER.iterdir()} == {"runtime.txt", "postBuild"}
