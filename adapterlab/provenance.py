"""Where a recorded result comes from: the head of every result file in this project."""

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("adapterlab", "torch", "transformers", "tokenizers", "safetensors", "peft", "bitsandbytes", "accelerate")


def provenance(command: str, seed: int, device: str = "cpu") -> dict[str, Any]:
    """Command, commit, date, versions, seed and machine, as JSON-ready values."""
    return {
        "command": command,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "seed": seed,
        "versions": {"python": platform.python_version()} | {p: v for p in PACKAGES if (v := _version(p))},
        "machine": machine(device),
    }


def machine(device: str = "cpu") -> str:
    """The processor, and how many threads are in use."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    threads = torch.get_num_threads()
    used = "1 thread" if threads == 1 else f"{threads} threads"
    return f"{_processor()}, {platform.machine()}, {used} of {os.cpu_count()}"


def _commit() -> str:
    """The commit of the source, with '+' where the package differs from it; 'unknown' outside a checkout."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", "*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"
