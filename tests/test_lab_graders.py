"""Every grader of every lab on planted answers: the wrong ones are rejected with a hint, the right ones are not."""

import functools
import importlib
import json
import re

import pytest

from adapterlab.kit import grade
from adapterlab.kit.grade.lab import judged
from paths import ROOT

LEAST_WRONG = 3
HEADINGS = ["Tried", "Saw", "Expected", "Experiment", "Ask yourself"]


def planted(lab):
    return importlib.import_module(f"planted.{lab}")


def graders(lab):
    return importlib.import_module(f"adapterlab.kit.grade.{lab}").GRADERS


@functools.cache
def verdict_of(lab, step, k):
    """On a wrong answer. Some graders train models, so each is asked once."""
    return judged(graders(lab)[step], planted(lab).WRONG[step][k])


def answers(kind):
    return [
        pytest.param(lab, step, k, id=f"{lab}-{step}-{k}")
        for lab in grade.labs()
        for step, values in getattr(planted(lab), kind).items()
        for k in range(len(values))
    ]


@pytest.mark.parametrize("lab", grade.labs())
def test_every_grader_has_answers_planted(lab):
    steps = list(graders(lab))
    assert steps and list(planted(lab).WRONG) == steps
    assert set(planted(lab).RIGHT) == set(steps)
    assert {step: values for step, values in planted(lab).WRONG.items() if len(values) < LEAST_WRONG} == {}
    assert all(planted(lab).RIGHT.values())


@pytest.mark.parametrize("lab, step, k", answers("WRONG"))
def test_a_wrong_answer_is_rejected_and_told_why(lab, step, k):
    verdict = verdict_of(lab, step, k)
    assert verdict.mark == "wrong"
    assert [heading for heading, _ in verdict.said] == HEADINGS
    assert all(text.strip() for _, text in verdict.said) and dict(verdict.said)["Ask yourself"].endswith("?")
    assert len(verdict.more) == 2 and all(text.strip() for text in verdict.more)
    told = "\n".join([text for _, text in verdict.said if "at its line" not in text] + list(verdict.more))
    assert not re.search(r"```|^\s*(def|return|import)\b|\)\s*@\s*\w|\w\s*=\s*torch\.", told, re.MULTILINE)
    if k == 0:
        assert judged(graders(lab)[step], planted(lab).WRONG[step][k]) == verdict


@pytest.mark.parametrize("lab, step, k", answers("RIGHT"))
def test_a_right_answer_is_accepted_and_told_why(lab, step, k):
    verdict = judged(graders(lab)[step], planted(lab).RIGHT[step][k])
    assert verdict.ok, verdict
    assert dict(verdict.said)["Why"].strip()


@pytest.mark.parametrize("lab", grade.labs())
def test_hints_tell_mistakes_apart(lab):
    """More than one hint per grader: what it says is about what it saw."""
    for step, values in planted(lab).WRONG.items():
        said = {repr(verdict_of(lab, step, k)) for k in range(len(values))}
        assert len(said) >= min(LEAST_WRONG, len(values)), step


@pytest.mark.parametrize("lab", grade.labs())
def test_the_committed_lab_is_graded_by_the_solutions_and_they_are_right(lab):
    """nbval runs them; here is what the outputs must say."""
    notebook = json.loads((ROOT / "labs" / f"{lab}.ipynb").read_text())
    graded = {}
    for cell in notebook["cells"]:
        found = re.search(r'lab\.grade\(\s*"(\w+)"', "".join(cell["source"]))
        if cell["cell_type"] == "code" and found:
            texts = ["".join(output.get("data", {}).get("text/plain", "")) for output in cell["outputs"]]
            graded[found[1]] = "\n".join(texts)
    assert list(graded) == list(graders(lab))
    assert {step: text for step, text in graded.items() if "Right (the solution's)" not in text} == {}
