"""The recorded run of `make mutants`, which itself takes too long to be a test."""

import json

from adapterlab.provenance import provenance
from mutant_record import LEAST_KILLED, RECORD, explanations, key, killed
from mutant_trial import PACKAGE, TESTS

RUN = json.loads(RECORD.read_text())


def test_nearly_all_mutants_are_killed():
    assert provenance("", 0).keys() <= RUN.keys()
    assert len(RUN["rows"]) == RUN["judged"] <= RUN["mutants"]
    assert killed(RUN["rows"]) > LEAST_KILLED


def test_every_survivor_is_explained():
    survivors = {key(found) for found in RUN["rows"] if found["outcome"] == "survived"}
    assert survivors <= explanations().keys()


def test_what_is_explained_is_still_there():
    for file, before, _ in explanations():
        source = [" ".join(line.split()) for line in (PACKAGE / file).read_text().splitlines()]
        assert [line for line in before.splitlines() if line not in source] == []


def test_every_module_has_its_tests():
    modules = {"runtime.py"} | {f"variants/{path.name}" for path in (PACKAGE / "variants").glob("*.py")}
    assert modules == set(TESTS)
    assert all((PACKAGE.parent / "tests" / name).is_file() for tests in TESTS.values() for name in tests)
