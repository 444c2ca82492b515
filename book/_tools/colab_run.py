"""Run the notebooks of a folder there, as Colab would: `python colab_run.py FOLDER`.

It is copied into Colab's runtime, so it needs only what Colab has. The exit status is 1 if a notebook fails, or if a
package that its install cell should keep is another one afterwards.
"""

import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

TIMEOUT = 900
VERSIONS = "from importlib.metadata import version; print(*map(version, ('torch', 'numpy', 'ipywidgets')))"


def versions() -> str:
    """Of the packages to keep; in a process of its own, which has nothing cached."""
    return subprocess.run([sys.executable, "-c", VERSIONS], capture_output=True, text=True, check=True).stdout.strip()


def main(folder: Path) -> int:
    failed = []
    before = versions()
    print(f"torch, numpy, ipywidgets: {before}", flush=True)
    for path in sorted(folder.glob("*.ipynb")):
        start = time.monotonic()
        client = NotebookClient(
            nbformat.read(path, as_version=4),
            kernel_name="python3",
            timeout=TIMEOUT,
            resources={"metadata": {"path": str(folder)}},
        )
        try:
            client.execute()
        except CellExecutionError as error:
            print(f"{path.name}: FAILED\n{error}", flush=True)
            failed.append(path.name)
        else:
            print(f"{path.name}: ran to its end in {time.monotonic() - start:.0f} s", flush=True)
    if (after := versions()) != before:
        print(f"torch, numpy and ipywidgets should have stayed, and are {after} now.")
        failed.append("the versions")
    print(f"Failed: {', '.join(failed)}." if failed else "All ran.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
