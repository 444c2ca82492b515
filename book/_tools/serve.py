"""Serve a built site on loopback: the command behind `make serve`, and a helper of the browser tests."""

import contextlib
import functools
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from paths import BUILD


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def server(site: Path, port: int = 0) -> http.server.ThreadingHTTPServer:
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Quiet, directory=str(site)))


@contextlib.contextmanager
def serving(site: Path) -> Iterator[str]:
    """The site's address, while the block runs."""
    with server(site) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def main() -> int:
    site = BUILD / "html"
    if not (site / "index.html").is_file():
        print("The book is not built yet: run `make book` first.", file=sys.stderr)
        return 1
    try:
        running = server(site, 8000)
    except OSError:
        running = server(site)
    print(f"The book is at http://127.0.0.1:{running.server_port} (Ctrl-C stops).", flush=True)
    with running, contextlib.suppress(KeyboardInterrupt):
        running.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
