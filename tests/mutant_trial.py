"""One mutant on trial: a forked child imports adapterlab with one module's source changed, and runs its tests."""

import importlib
import importlib.machinery
import os
import re
import resource
import signal
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "adapterlab"
SECONDS = 5  # of processor time that a mutant has
WAIT = 60  # seconds by the clock, for what waits without computing
MEMORY = 8 * 2**30

QUICK = (
    "float64_throughout|parameters_in_low|arithmetic_is|under_autocast|func_grad|a_cast_there|is_cast_is|leading_shape"
)


def of(name: str, also: str = "\\Z.") -> dict[str, str]:
    """The tests of every variant, as far as they are about this one."""
    about = rf"\b{name}\b|_{name}s?_|{also}"
    files = {name: about for name in ("test_merge.py", "test_variants.py", "test_runtime.py")}
    files["test_public_api.py"] = "test_the_defaults|" + about
    return files | {"test_works_under.py": rf"({QUICK}).*\b{name}\b"}


# module -> its tests, the cheapest and most telling files first: file -> what a test's name must match
TESTS = {
    "variants/__init__.py": {"test_public_api.py": "variants_are|defaults"},
    "variants/antipasto.py": of("antipasto") | {"test_antipasto.py": "^(?!test_a_change_does_not_compile)"},
    "variants/delora.py": of("delora") | {"test_delora.py": ""},
    "variants/dora.py": of("dora", "test_a_(negative_m|zero_row|row_that_has_lost)") | {"test_accuracy.py": "_dora_"},
    "variants/eva.py": of("eva") | {"test_eva.py": "^(?!test_pefts_explained|test_a_model_that_was_compiled)"},
    "variants/hra.py": of("hra", "row_of_u"),
    "variants/ia3.py": of("ia3") | {"test_ia3.py": ""},
    "variants/ia3_ff.py": of("ia3_ff") | {"test_ia3.py": ""},
    "variants/lora.py": of("(rs)?lora"),
    "variants/pissa.py": of("pissa") | {"test_pissa.py": ""},
    "runtime.py": {
        "test_runtime.py": "",
        "test_merge.py": "",
        "test_calibrate.py": "data|error|refused|base_weight",
        "test_targets.py": "cannot_be_read",
        "test_public_api.py": "test_the_defaults",
        "test_checkpoint.py": "two_passes_come_back",
        "test_pissa.py": "not_finite",
        "test_antipasto.py": "coefficient|have_none|has_none|no_finite_number|honour_it|inside_frozen",
        "test_quantized.py": "merge|switch|stopped|trap_is_undone",
    },
}


class Chosen:
    """A pytest plugin: only the tests of TESTS, in its order; notes the first that fails."""

    def __init__(self, patterns: dict[str, str]):
        self.patterns, self.failed = patterns, ""

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if re.search(self.patterns[item.path.name], item.name, re.IGNORECASE)]

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed = self.failed or report.nodeid

    pytest_collectreport = pytest_runtest_logreport


class Changed:
    """An import hook that gives one module of adapterlab another source."""

    def __init__(self, path: Path, source: str):
        self.name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        self.path, self.source = path, source

    def find_spec(self, name, path, target=None):
        if name != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader.get_code = lambda _: compile(self.source, str(self.path), "exec", dont_inherit=True)
        return spec


def test(file: str, source: str | None, scratch: str) -> str:
    """In the child: what failed, or ''."""
    chosen = Chosen(TESTS[file])
    try:
        if source is not None:
            sys.meta_path.insert(0, Changed(PACKAGE / file, source))
        assert Path(importlib.import_module("adapterlab").__file__).parent == PACKAGE
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = (
            "1"  # what is not needed to know whether a test fails, is left out
        )
        plain = ["-o", "addopts=", "-qx", "--tb=no", "--assert=plain", "-pno:cacheprovider"]
        code = pytest.main([*plain, f"--basetemp={scratch}", *(str(HERE / name) for name in TESTS[file])], [chosen])
    except BaseException as error:
        return f"import adapterlab: {type(error).__name__}"
    return chosen.failed or {0: ""}.get(code, f"pytest ends with {code}")


def run(file: str, source: str | None = None) -> tuple[str, float]:
    """(what failed with this source: a test, a signal, 'time', or '' for nothing; seconds of processor time)."""
    with tempfile.TemporaryDirectory() as scratch:
        said = Path(scratch, "said")
        pid = os.fork()
        if not pid:
            signal.setitimer(signal.ITIMER_PROF, SECONDS if source is not None else WAIT)  # these two end the process
            signal.alarm(WAIT)
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1), os.dup2(silent, 2)
            said.write_text(test(file, source, f"{scratch}/pytest"))
            os._exit(0)
        _, status, used = os.wait4(pid, 0)
        seconds = used.ru_utime + used.ru_stime
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            return "time" if number in (signal.SIGPROF, signal.SIGALRM) else signal.Signals(number).name, seconds
        return said.read_text() if said.exists() else f"exit {status}", seconds
