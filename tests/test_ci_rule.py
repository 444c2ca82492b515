"""The rule of conftest.py: in CI only tests marked gpu or avx512bf16 may be skipped."""

from pathlib import Path

import pytest

CONFTEST = (Path(__file__).parent / "conftest.py").read_text().replace('pytest_plugins = ["pytester"]', "")
MARKERS = """
[pytest]
markers =
    gpu:
    avx512bf16:
    browser:
"""
PASSES = "def test_passes(): pass\n"
SKIPS = "import pytest\n@pytest.mark.skip(reason='too slow')\ndef test_skips(): pass\n"
SKIPS_INSIDE = "import pytest\ndef test_skips(): pytest.skip('not today')\n"
SKIPS_MODULE = "import pytest\npytest.importorskip('no_such_module')\ndef test_hidden(): pass\n"


@pytest.fixture
def outcome(pytester, monkeypatch):
    """Run a test file under our conftest and return its outcomes."""

    def run(source: str, ci: bool) -> dict[str, int]:
        monkeypatch.setenv("CI", "true" if ci else "")
        pytester.makeconftest(CONFTEST)
        pytester.makefile(".ini", pytest=MARKERS)
        pytester.makepyfile(test_it=source)
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:nbval", "-p", "no:xdist")
        return {name: count for name, count in result.parseoutcomes().items() if name != "warnings"}

    return run


def marked(mark: str, source: str = SKIPS_INSIDE) -> str:
    return source.replace("def test", f"@pytest.mark.{mark}\ndef test")


@pytest.mark.parametrize("source", [SKIPS, SKIPS_INSIDE, marked("browser"), SKIPS_MODULE])
def test_a_skip_fails_in_ci_only(outcome, source):
    assert set(outcome(source, ci=False)) == {"skipped"}
    assert set(outcome(source, ci=True)) & {"failed", "error", "errors"}


@pytest.mark.parametrize("mark", ["gpu", "avx512bf16"])
def test_marked_tests_may_skip_in_ci(outcome, mark):
    assert outcome(marked(mark), ci=True) == {"skipped": 1}


def test_passing_tests_are_left_alone(outcome):
    assert outcome(PASSES, ci=True) == {"passed": 1}


def test_expected_failures_are_no_skips(outcome):
    source = "import pytest\n@pytest.mark.xfail\ndef test_known(): assert False\n"
    assert outcome(source, ci=True) == {"xfailed": 1}


def test_the_reason_is_told(pytester, outcome, capsys):
    outcome(SKIPS, ci=True)
    assert "too slow" in capsys.readouterr().out
