"""Makes the runs that the file lacks, on two processes of one thread each, and says what came of them."""

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any

from ...files import AdapterFileError, locked
from ...provenance import provenance
from ..notebook import start
from . import plan, summary, trial
from .settings import Trial
from .store import PROTOCOL, Store

QUICK_STEPS = 40
QUICK = [
    Trial("none", "add_rev", 0.0, 0),
    *(Trial(name, "add_rev", lr, 0) for name in ("lora", "dora") for lr in (2e-3, 1e-2)),
]
SAVED_EVERY = 15.0  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _options(given)
    command = " ".join(["python -m adapterlab.kit.sweep", *given])
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # the file is written then, too
    try:
        with tempfile.TemporaryDirectory() as folder:
            quick = Path(folder) / "sweep.json" if options.quick else None
            return _sweep(options.json or quick or Path("sweep.json"), options, command)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, AdapterFileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _options(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m adapterlab.kit.sweep", description=__doc__)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="the file of runs (sweep.json); what is in it is not made again"
    )
    parser.add_argument("--quick", action="store_true", help=f"{len(QUICK)} short runs, in seconds: whether it works")
    parser.add_argument("--hours", type=float, default=4.0, help="stop after so many, the file's earlier ones included")
    parser.add_argument("--processes", type=int, default=2, help="each on one thread (2)")
    options = parser.parse_args(given)
    if options.processes < 1 or not options.hours > 0:
        parser.error(f"--processes {options.processes} --hours {options.hours:g}: both must be above 0")
    return options


def _sweep(path: Path, options: argparse.Namespace, command: str) -> int:
    with locked(path.absolute().parent):
        store = Store(path, PROTOCOL | ({"steps": QUICK_STEPS, "quick": True} if options.quick else {}))
        if _asked(store.rows, options.quick):
            start()
            store.begin(provenance(command, seed=0))
            try:
                _make_all(store, options)
            finally:
                store.write(_total(store.rows, options.quick))
        missing = _total(store.rows, options.quick) - len(store.rows)
        print(summary.table(store.rows))
        if missing:
            print(f"{missing} runs are missing after {options.hours:g} hours: --hours {2 * options.hours:g} goes on")
        print(f"{len(store.rows)} runs" + ("" if options.quick and not options.json else f" are in {path}"))
        return 0


def _asked(rows: list[dict], quick: bool) -> list[Trial]:
    if not quick:
        return plan.todo(rows)
    made = {plan.trial_of(row) for row in rows}
    return [t for t in QUICK if t not in made]


def _total(rows: list[dict], quick: bool) -> int:
    return len(QUICK) if quick else plan.total(rows)


def _make_all(store: Store, options: argparse.Namespace) -> None:
    """All that is asked for, or what the hours allow; written every SAVED_EVERY seconds."""
    from tqdm import tqdm

    spent = sum(row["seconds"] for row in store.rows) / options.processes
    end, saved = time.monotonic() + options.hours * 3600 - spent, -SAVED_EVERY  # the first row at once: can it be?
    steps = QUICK_STEPS if options.quick else trial.STEPS
    context = multiprocessing.get_context("spawn")
    total = _total(store.rows, options.quick)
    with (
        ProcessPoolExecutor(options.processes, mp_context=context, initializer=_prepare) as pool,
        tqdm(total=total, initial=len(store.rows), unit="run", smoothing=0) as bar,
    ):
        try:
            while (asked := _asked(store.rows, options.quick)) and time.monotonic() < end:
                for row in _rows(pool, asked, steps, end, 2 * options.processes):
                    store.add(row)
                    bar.set_postfix_str(f"{row['setting']} on {row['task']}", refresh=False)
                    bar.update()
                    if time.monotonic() > saved + SAVED_EVERY:
                        store.write(bar.total)
                        saved = time.monotonic()
                bar.total = _total(store.rows, options.quick)
        except BrokenProcessPool:
            raise OSError("a process of the sweep was killed; the same command goes on from what it wrote") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _rows(
    pool: ProcessPoolExecutor, asked: Sequence[Trial], steps: int, end: float, ahead: int
) -> Iterator[dict[str, Any]]:
    """Rows in the order asked, so many of them handed out ahead, none after the end."""
    waiting: list[Future] = []
    for one in asked:
        if time.monotonic() > end:
            break
        waiting.append(pool.submit(trial.run, one, steps))
        if len(waiting) > ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _prepare() -> None:
    """In each process: it ends when the sweep does, however that ends, and says nothing."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def end_together() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_together, daemon=True).start()
    start()
