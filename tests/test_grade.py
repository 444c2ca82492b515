"""Whose answer counts in a lab, and what is said of it."""

import math

import pytest
import torch

from adapterlab.kit import grade
from adapterlab.kit.grade import evidence
from adapterlab.kit.grade.lab import is_empty, judged
from adapterlab.kit.grade.verdict import Verdict


def half(answer):
    """The grader of the lab below: half(x) = x / 2."""
    seen = answer(4) if callable(answer) else answer
    if seen == 2:
        return grade.right("it is half.", score="10 of 10 points")
    return grade.wrong(
        tried="4.",
        saw=f"{seen}.",
        expected="its half.",
        experiment="I gave it 4 again.",
        question="What is the half of 4?",
        more=("Second.", "Third."),
    )


@pytest.fixture
def lab():
    lab = grade.Lab("lab2_bias_bug")
    lab.graders = {"half": half, "value": half}
    return lab


def empty(x):
    """Half of x."""
    ...


# Named as in a lab, where the solution has the exercise's name.
def named(name, function):
    function.__name__ = name
    return function


def third(x):
    return x / 3


def solution(x):
    return x / 2


# ---- what is empty --------------------------------------------------------------------------------


def dots_in_the_middle(x):
    y = ...
    return y


class Hollow:
    r: int = 8


class HollowMethod:
    def prepare(self): ...


class Whole:
    def prepare(self):
        return 1


def indexes(x):
    return x[..., None]


def indexes_and_is_empty(x):
    ...
    return x[..., None]


@pytest.mark.parametrize(
    "answer", [..., {"a": 1, "b": ...}, [1, [...]], empty, dots_in_the_middle, indexes_and_is_empty, HollowMethod]
)
def test_dots_that_are_left_make_it_empty(answer):
    assert is_empty(answer)


@pytest.mark.parametrize(
    "answer", [None, 0, "...", {}, [], {"a": 1}, third, indexes, Whole, Hollow, lambda x: x, math.sqrt]
)
def test_what_has_none_is_an_answer(answer):
    assert not is_empty(answer)


def test_a_class_without_anything_of_its_own_is_empty():
    class Nothing(Whole): ...

    assert is_empty(Nothing)


# ---- whose answer counts --------------------------------------------------------------------------


def test_the_solution_stands_in_for_an_empty_answer(lab, capsys):
    assert lab.exercise(named("half", empty)) is empty
    assert "empty so far" in capsys.readouterr().out
    assert lab.grade("half").mark == "empty"
    assert lab.solution(named("half", solution)) is solution
    verdict = lab.grade("half")
    assert verdict.ok and verdict.whose == "the solution's"
    assert repr(verdict).startswith("Right (the solution's). 10 of 10 points")


@pytest.mark.parametrize("answer, ok", [(third, False), (lambda x: x * 0.5, True)])
def test_an_answer_of_ones_own_stays_and_is_what_is_graded(lab, answer, ok, capsys):
    lab.exercise(named("half", answer))
    assert lab.solution(named("half", solution)) is answer
    assert "yours stays" in capsys.readouterr().out
    verdict = lab.grade("half")
    assert verdict.ok is ok and verdict.whose == "yours"


def test_values_are_answers_too(lab):
    assert lab.exercise("value", ...) is ... and lab.grade("value").mark == "empty"
    assert lab.solution("value", 2) == 2 and lab.grade("value").ok
    assert lab.exercise("value", 3) == 3 and lab.solution("value", 2) == 3
    assert not lab.grade("value").ok


def test_an_answer_that_is_taken_back_is_empty_again(lab):
    lab.exercise("value", 3)
    lab.exercise("value", ...)
    assert lab.grade("value").mark == "empty"
    assert lab.solution("value", 2) == 2


def test_the_summary_says_who_answered_and_how(lab):
    lab.exercise("half", third)
    lab.grade("half")
    assert lab.summary().rows == [["half", "yours", "not yet", ""], ["value", "nobody's yet", "not graded", ""]]
    lab.solution("value", 2)
    lab.grade("value")
    assert lab.summary().rows[1] == ["value", "the solution's", "right", "10 of 10 points"]


def test_a_name_that_is_not_there_is_refused(lab):
    for act in (lambda: lab.grade("third"), lambda: lab.exercise("third", 1), lambda: lab.solution("third", 1)):
        with pytest.raises(ValueError, match="no exercise 'third'; it has half, value"):
            act()
    with pytest.raises(ValueError, match="no lab 'lab99'; there are lab"):
        grade.Lab("lab99")


# ---- what is said ---------------------------------------------------------------------------------


def test_each_hint_says_more(lab):
    lab.exercise("value", 3)
    texts = [repr(lab.grade("value", hint=k)) for k in (1, 2, 3)]
    assert "Second." not in texts[0] and "Second." in texts[1] and "Third." not in texts[1]
    assert "Second." in texts[2] and "Third." in texts[2]
    for part in ("Tried: 4.", "Saw: 3.", "Expected: its half.", "Experiment: I gave", "Ask yourself: What"):
        assert all(part in text for text in texts)
    with pytest.raises(ValueError, match="hints 1 to 3"):
        lab.grade("value", hint=4)


def test_markdown_says_what_the_text_says(lab):
    lab.exercise("value", 3)
    verdict = lab.grade("value", hint=2)
    markdown = verdict._repr_markdown_()
    assert markdown.startswith("**Not yet.**") and all(text in markdown for _, text in verdict.lines())


@pytest.mark.parametrize("broken", [{"question": "Half of 4."}, {"more": ("One.",)}])
def test_a_hint_asks_and_has_two_more(broken):
    whole = {name: "x." for name in ("tried", "saw", "expected", "experiment")}
    with pytest.raises(ValueError):
        grade.wrong(**whole | {"question": "Why?", "more": ("a.", "b.")} | broken)


# ---- answers that raise, draw or are no function --------------------------------------------------


def raises(x):
    return x + "one"


def test_an_answer_that_raises_is_told_where():
    verdict = judged(half, raises)
    assert not verdict.ok
    said = dict(verdict.said)
    assert 'TypeError at its line `return x + "one"`' in said["Saw"] and "same place" in said["Experiment"]


def test_one_that_raises_once_is_told_so():
    calls = []

    def raises_once(x):
        calls.append(x)
        return x / (len(calls) - 1)

    assert "did not stop" in dict(judged(half, raises_once).said)["Experiment"]


def test_a_fault_of_the_graders_own_is_no_verdict():
    def broken(answer):
        answer(4)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        judged(broken, third)


def test_grading_is_deterministic_and_leaves_the_random_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()

    def drawing(answer):
        return grade.right(f"{torch.rand(1).item()}")

    assert judged(drawing, third) == judged(drawing, third)
    assert torch.equal(torch.get_rng_state(), before)


# ---- evidence -------------------------------------------------------------------------------------


def test_misses():
    right = torch.tensor([3.0, 4.0])
    assert evidence.relative(right.clone(), right) == 0
    assert evidence.relative(torch.tensor([3.0, 4.5]), right) == pytest.approx(0.1)
    for seen in (None, 3.0, torch.ones(3), torch.tensor([3.0, float("nan")])):
        assert evidence.relative(seen, right) == float("inf")
    assert [evidence.figure(miss) for miss in (0.4149, 1e-9, float("inf"))] == ["0.41", "rounding", "beyond measure"]
    assert evidence.describe(torch.tensor([1.0, float("nan")])) == "a tensor (2,) of float32, not all of it finite"
    assert "where a tensor (2,) of float32 belongs" in evidence.compared(None, right)
    assert "off by 0.1 of its norm" in evidence.compared(torch.tensor([3.0, 4.5]), right)


def test_the_experiment_that_isolates_the_fault_is_the_one_that_cures_it():
    def miss(b=0.4, s=1.0):
        return 1e-9 if b == 0 else b * s

    changes = {"set s = 0.5": {"s": 0.5}, "set b = 0": {"b": 0}}
    assert evidence.isolate(miss, changes) == "I set b = 0, and the miss fell from 0.4 to rounding."
    del changes["set b = 0"]
    assert evidence.isolate(miss, changes) == (
        "I set s = 0.5, and the miss went from 0.4 to 0.2: it is not that alone."
    )


def test_a_verdict_without_more_hints_says_so():
    short = Verdict("wrong", (("Saw", "nothing."),), (), hint=2)
    assert "No more hints" in repr(short)
