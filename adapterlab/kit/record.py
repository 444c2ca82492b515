"""Where a recorded result comes from: the head of every result file in this project."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "peft")


def provenance(command: str, seed: int) -> dict:
    """Command, commit, versions, seed and machine, as JSON-ready values."""
    return {
        "command": command,
        "commit": _commit(),
        "seed": seed,
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES if _version(p)},
        "machine": f"{_processor()}, {platform.machine()}, one thread",
    }


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
