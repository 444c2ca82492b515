"""Mutation testing, `make mutants`: would the tests of variants/ and runtime.py notice a small change to them?

For each mutant this process, which has imported torch and the like but nothing of adapterlab, forks. The child imports
adapterlab with one module's source changed (nothing on disk is), runs that module's tests up to the first that fails,
and is ended after 5 seconds of processor time. A mutant is killed if a test fails, or if it does not end where the
healthy code needs less than half of that. Otherwise it has survived, and mutants_explained.toml says why.
"""

import argparse
import gc
import hashlib
import importlib
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import hypothesis
import torch
from hypothesis import Phase

from mutant_record import RECORD, explanations, key, report, write
from mutant_trial import PACKAGE, SECONDS, TESTS, run
from mutating import Mutant, mutants

SOON = 4  # seconds of processor time within which the healthy code must be through

# What tests and their plugins import besides adapterlab: once, here.
PRELOADED = ["anyio.from_thread", "nbclient", "nbformat", "peft", "playwright.sync_api", "transformers.models.llama"]
PRELOADED += [
    "_hypothesis_pytestplugin",
    "transformers.models.llama.modeling_llama",
    "torch.func",
    "torch.utils.checkpoint",
]


def row(mutant: Mutant, healthy: float) -> dict:
    """What became of a mutant of a module whose tests take `healthy` seconds."""
    found = {"file": mutant.file, "line": mutant.line, "operator": mutant.operator}
    if mutant.excluded:
        return found | {"outcome": "excluded", "by": mutant.excluded}
    by, seconds = run(mutant.file, mutant.source)
    if by == "time":
        by = "does not end" if healthy < SECONDS / 2 else ""
    found |= {"outcome": "killed" if by else "survived", "by": by, "seconds": round(seconds, 1)}
    return found if by else found | {"before": mutant.before, "after": mutant.after}


def judge(chosen: list[Mutant], healthy: dict[str, float], jobs: int) -> list[dict]:
    """A row for each; every worker takes each jobs-th, and the first says how far they are."""
    with tempfile.TemporaryDirectory() as scratch:
        workers = [os.fork() or work(chosen[i::jobs], healthy, Path(scratch, str(i)), i == 0) for i in range(jobs)]
        for worker in workers:
            os.waitpid(worker, 0)
        shares = [iter(Path(scratch, str(i)).read_text().splitlines()) for i in range(jobs)]
        return [json.loads(next(shares[i % jobs])) for i in range(len(chosen))]


def work(chosen: list[Mutant], healthy: dict[str, float], out: Path, talks: bool) -> NoReturn:
    """In a process of its own, which ends here."""
    start = time.monotonic()
    with out.open("w") as rows:
        for i, mutant in enumerate(chosen, 1):
            found = row(mutant, healthy[mutant.file])
            print(json.dumps(found), file=rows, flush=True)
            if found["outcome"] == "survived":
                print(f"survived: {mutant.file}:{mutant.line}\n  - {mutant.before}\n  + {mutant.after}", flush=True)
            if talks and i % 20 == 0:
                left = (time.monotonic() - start) / i * (len(chosen) - i) / 60
                print(f"{i / len(chosen):.0%}, about {left:.0f} minutes left", flush=True)
    os._exit(0)


def main() -> str | None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--files", nargs="+", default=list(TESTS), choices=TESTS, metavar="FILE", help="variants/lora.py ..."
    )
    parser.add_argument("--sample", type=int, help="so many, drawn at random; without it all")
    parser.add_argument("--again", action="store_true", help="what survived in a record of all, after tests were added")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--out", type=Path, default=RECORD, help="where the record goes")
    options = parser.parse_args()

    sys.path.insert(0, str(PACKAGE.parent))  # this checkout's, whichever is installed
    torch.set_num_threads(1)
    for name in PRELOADED:
        importlib.import_module(name)
    assert not any(name.startswith("adapterlab") for name in sys.modules)
    quick = {"database": None, "deadline": None, "derandomize": True, "phases": [Phase.explicit, Phase.generate]}
    hypothesis.settings.register_profile("mutants", **quick)
    hypothesis.settings.load_profile("mutants")
    gc.collect(), gc.freeze()  # so that the children do not copy what they only look at

    healthy = {}
    for file in options.files:
        failed, healthy[file] = run(file)
        print(f"{file}: the healthy code takes {healthy[file]:.1f} s", failed and f"and FAILS {failed}", flush=True)
        if failed or healthy[file] > SOON:
            return "the tests of a module must pass, and soon, before mutants of it can be judged"

    sources = {file: (PACKAGE / file).read_text() for file in options.files}
    every = [mutant for file, source in sources.items() for mutant in mutants(file, source)]
    digests = {file: hashlib.sha256(source.encode()).hexdigest() for file, source in sources.items()}
    rows, numbers = [{}] * len(every), range(len(every))
    if options.again:
        old = json.loads(options.out.read_text())
        if old["sources"] != digests or old["judged"] != len(every):
            return f"{options.out} is no record of all mutants of these sources"
        rows = old["rows"]
        numbers = [i for i, found in enumerate(rows) if found["outcome"] == "survived"]
    elif options.sample and options.sample < len(every):
        numbers = sorted(random.Random(options.seed).sample(numbers, options.sample))
    print(f"{len(numbers)} of {len(every)} mutants", flush=True)
    for i, found in zip(numbers, judge([every[i] for i in numbers], healthy, options.jobs)):
        rows[i] = found
    rows = [found for found in rows if found]
    write(options.out, rows, len(every), options.seed, digests)
    made = {key(vars(mutant)) for mutant in every}
    stale = [
        f"{file}: {before!r}"
        for file, before, after in explanations(options.files)
        if (file, before, after) not in made
    ]
    if stale:
        print("\nexplained, but no such mutant is made any more:", *stale, sep="\n")
    return report(rows) or ("an explanation explains nothing" if stale else None)


if __name__ == "__main__":
    sys.exit(main())
