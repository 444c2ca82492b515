"""The recorded scoreboard, held against PEFT as it is installed."""

import html
import random
import subprocess
import sys
from collections import Counter

import pytest

import scoreboard as page
from adapterlab import contract
from adapterlab.contract import CHECKS
from adapterlab.peft_methods import EXCLUDED, METHODS
from adapterlab.scoreboard import Reproducer, Unshown, main, reproducer

peft = pytest.importorskip("peft")
DATA = page.load()
ROWS = {row["method"]: row for row in DATA["rows"]}
HERE = [name for name, method in METHODS.items() if not method.missing]
# The same few each time; compiling takes longest and is the same for all.
HANDFUL = random.Random(8).sample(HERE, 6)
SHOWN = [(name, check) for name in ROWS for check in ROWS[name]["reproducers"]]


def one_of_each_check():
    """A seeded method for each check that anybody fails."""
    draw = random.Random(8)
    by_check = {}
    for name, check in SHOWN:
        if name in HERE:
            by_check.setdefault(check, []).append(name)
    return [(draw.choice(names), check) for check, names in by_check.items()]


def same_version():
    if peft.__version__ != DATA["versions"]["peft"]:
        pytest.skip(f"recorded with PEFT {DATA['versions']['peft']}, installed is {peft.__version__}")


def test_every_method_and_every_check_is_recorded():
    assert list(ROWS) == list(METHODS)
    assert DATA["checks"] == {name: one.proves for name, one in CHECKS.items()}
    assert DATA["excluded"] == EXCLUDED
    for row in ROWS.values():
        assert list(row["results"]) == list(CHECKS)
        assert row["quotes"].keys() == METHODS[row["method"]].by_design.keys()


def test_every_failure_has_its_lines_and_every_deviation_its_source():
    for name, row in ROWS.items():
        by_status = {s: {c for c, r in row["results"].items() if r["status"] == s} for s in contract.report.STATUSES}
        assert set(row["reproducers"]) == by_status["fail"], name
        assert by_status["by design"] <= set(row["quotes"]), name
        assert all(row["results"][c]["note"] for c in by_status["n/a"] | by_status["fail"] if c != "cycles"), name


def test_the_lines_know_nothing_of_this_package():
    for name, check in SHOWN:
        assert "adapterlab" not in ROWS[name]["reproducers"][check]["code"]


def test_the_lines_are_few():
    """One of imports and three more, but where a method must be prepared or a second model stands beside it."""
    lengths = [len(ROWS[name]["reproducers"][check]["code"].splitlines()) for name, check in SHOWN]
    assert max(lengths) <= 7 and sum(n <= 4 for n in lengths) > 0.85 * len(lengths)


def test_lines_run_by_themselves_in_a_fresh_process(tmp_path):
    """As a reader runs them: nothing of this package is imported, and nothing is seeded but by the lines."""
    same_version()
    made = ROWS["lora"]["reproducers"]["cycles"]
    run = [sys.executable, "-c", made["code"] + "import sys; assert 'adapterlab' not in sys.modules"]
    found = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) == pytest.approx(float(made["shown"]), rel=0.1)


@pytest.mark.parametrize("name", HANDFUL)
def test_a_handful_is_measured_again(name):
    same_version()
    checks = [check for check in CHECKS if check != "compile"]
    found = contract.check(f"peft:{name}", only=checks, seed=DATA["seed"])
    recorded = ROWS[name]["results"]
    assert {c: found[c].status for c in checks} == {c: recorded[c]["status"] for c in checks}


@pytest.mark.parametrize(("name", "check"), one_of_each_check())
def test_a_handful_of_reproducers_shows_what_it_claims(name, check):
    same_version()
    made = Reproducer(**ROWS[name]["reproducers"][check])
    again = made.shows()
    assert again is not None, f"{made.code}\nno longer shows {made.shown}"


def test_the_known_facts_are_in_the_record():
    """Each was measured by hand before there was a scoreboard."""

    def status(name, check):
        return ROWS[name]["results"][check]["status"]

    assert status("hra_gs", "identity") == "fail" and status("hra", "identity") == "pass"
    assert {status("gralora", "shapes"), status("c3a", "shapes")} == {"fail"}
    assert {status(name, "identity") for name in ("fourierft", "c3a")} == {"by design"}
    assert status("pissa", "restores") == "by design" and status("lora", "restores") == "pass"
    assert status("hra", "quantised") == "fail" and not ROWS["hra"]["reproducers"]["quantised"]["raises"]
    assert status("osf", "cycles") == "n/a"


# ---- reproducers can fail -------------------------------------------------------------------------


def test_lines_that_show_nothing_are_not_kept():
    right = Reproducer("print(0.0)", limit=1e-6)
    assert right.shows() is None
    assert Reproducer("print(float('nan'))", limit=1e-6).shows().shown == "nan"
    assert Reproducer("print(True)", expected="True").shows() is None
    assert Reproducer("print(False)", expected="True").shows().shown == "False"
    assert Reproducer("print(0.5)", raises="ValueError").shows() is None
    assert Reproducer("raise KeyError('x')", raises="ValueError").shows() is None
    assert Reproducer("raise ValueError('x')", raises="ValueError").shows().shown == "ValueError: x"
    assert Reproducer("raise ValueError('a slip in the lines')", limit=1e-6).shows() is None


def test_a_failure_that_nothing_shows_is_an_error():
    with pytest.raises(Unshown, match="peft:lora fails identity"):
        reproducer("lora", "identity", "an invented failure")
    with pytest.raises(Unshown, match="deterministic"):
        reproducer("lora", "deterministic", "an invented failure")


def test_an_unknown_method_is_refused(capsys):
    assert main(["no_such_method", "--json", "-"]) == 2
    assert "there is no method 'no_such_method'" in capsys.readouterr().err


# ---- the page -------------------------------------------------------------------------------------


def test_the_page_counts_what_is_recorded():
    text = page.counts(DATA)
    for check in page.columns(DATA):
        found = Counter(row["results"][check]["status"] for row in DATA["rows"])
        assert text.count(f"| {check} | ") == 1
        line = next(line for line in text.splitlines() if line.startswith(f"| {check} | "))
        assert [int(cell) for cell in line.split("|")[-5:-1]] == [found[status] for status in page.MARKS]


def test_the_table_shows_each_cell_by_colour_symbol_and_word():
    text = page.table(DATA)
    cells = Counter(row["results"][c]["status"] for row in DATA["rows"] for c in page.columns(DATA))
    for status, (mark, word) in page.MARKS.items():
        assert text.count(f'<span aria-hidden="true">{mark}</span><span class="sb-word">{word}</span>') == cells[status]
    for row in DATA["rows"]:
        assert f'href="#{page.anchor(row)}"' in text
        assert f'id="{page.anchor(row)}"' in page.reproducers(DATA)


def test_the_page_gives_the_figure_or_the_reason_of_every_check():
    for row in DATA["rows"]:
        text = page.reproducers({**DATA, "rows": [row]})
        for check, result in row["results"].items():
            assert f"{check}</th>" in text or f"<b>{check}</b>" in text, (row["method"], check)
            shown = page.said(result if result["status"] != "by design" else page.without_quote(result))
            assert html.escape(shown) in text, (row["method"], check)


def test_lines_end_in_what_they_did_and_what_is_right():
    made = {"raises": None, "limit": 0.5, "expected": None, "shown": "0.9"}
    assert page.outcome(made) == "# prints 0.9 instead of 0.5 at most"
    assert page.outcome({**made, "limit": 0.0}) == "# prints 0.9 instead of 0"
    assert page.outcome({**made, "limit": None, "expected": "True"}) == "# prints 0.9 instead of True"
    assert page.outcome({**made, "raises": "KeyError", "shown": "KeyError: 'x'"}) == "# raises KeyError: 'x'"


def test_each_failure_is_on_the_page_with_its_lines():
    text = page.reproducers(DATA)
    assert text.count("<pre") == len(SHOWN)
    assert text.count("<q>") == sum(r["status"] == "by design" for row in DATA["rows"] for r in row["results"].values())
    listed = page.failures(DATA)
    assert all(f"| {check} | " in listed for _, check in SHOWN)
