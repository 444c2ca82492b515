"""Find a Chromium for the browser tests, and install Debian's where that is possible.

`python book/_tools/chromium.py` is what `make test` runs: it never fails, it says what will happen.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
MACOS = [
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
]


def find() -> str | None:
    """The browser's executable, or None."""
    found = [shutil.which(name) for name in NAMES] + [path for path in MACOS if Path(path).exists()]
    return next((path for path in found if path), None)


def apt_get() -> list[str] | None:
    """The start of an apt-get command that needs no password, or None."""
    if not shutil.which("apt-get"):
        return None
    if os.geteuid() == 0:
        return ["apt-get"]
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n", "apt-get"]
    return None


def install(command: list[str]) -> str | None:
    """Install the package `chromium`; None if that went well, else the last line of what apt-get said."""
    for step in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        result = subprocess.run(command + ["-qq"] + step, env=environment, capture_output=True, text=True)
        if result.returncode:
            return (result.stderr.strip().splitlines() or ["apt-get gave no reason"])[-1]
    return None


def main() -> int:
    if find():
        return 0
    command = apt_get()
    if command is None:
        print("No Chromium here and apt-get cannot be used: the browser tests are skipped (in CI they fail).")
        return 0
    print("No Chromium here: installing Debian's package `chromium` for the browser tests.", flush=True)
    if why := install(command):
        print(f"Chromium could not be installed ({why}): the browser tests are skipped (in CI they fail).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
