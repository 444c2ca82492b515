"""A lab in a notebook: whose answer counts, and who grades it."""

import ast
import importlib
import inspect
import textwrap
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from ..show import Table
from .verdict import HINTS, Verdict, wrong

OWN = __name__.rpartition(".")[0]  # adapterlab.kit.grade


class Lab:
    """The answers of one lab, and their graders.

    An answer is empty as long as a `...` is left in it. The solution stands in for an empty one, so that Run All
    reaches the end; it never takes the place of an answer of the reader's own.

    Args:
        name: of the lab's module of graders: "lab1_broken_loras" and so on.

    Raises:
        ValueError: there is no such lab; the message lists them.
    """

    def __init__(self, name: str):
        from . import labs

        if name not in labs():
            raise ValueError(f"there is no lab {name!r}; there are {', '.join(labs())}")
        self.name = name
        self.graders: Mapping[str, Callable[[Any], Verdict]] = importlib.import_module(f"{OWN}.{name}").GRADERS
        self.answers: dict[str, tuple[Any, str]] = {}  # step -> (answer, "yours" or "the solution's")
        self.verdicts: dict[str, Verdict] = {}

    # ---- answers --------------------------------------------------------------------------------

    def exercise(self, step, value: Any = None):
        """Take the reader's answer: `@lab.exercise` above a function or a class, or `x = lab.exercise("x", ...)`.

        Returns:
            What it was given.
        """
        name, answer = self._named(step, value)
        if is_empty(answer):
            self.answers.pop(name, None)
            print(f"{name}: empty so far. Fill in the dots, or run on to the solution.")
        else:
            self.answers[name] = answer, "yours"
            print(f"{name}: yours. Grade it below.")
        return answer

    def solution(self, step, value: Any = None):
        """Offer the solution, as `exercise` takes an answer.

        Returns:
            The reader's answer if there is one, else the solution.
        """
        name, answer = self._named(step, value)
        if self._whose(name) == "yours":
            print(f"{name}: yours stays.")
        else:
            self.answers[name] = answer, "the solution's"
            print(f"{name}: the solution stands in.")
        return self.answers[name][0]

    def _named(self, step, value) -> tuple[str, Any]:
        name, answer = (step, value) if isinstance(step, str) else (step.__name__, step)
        self._grader(name)
        return name, answer

    def _grader(self, name: str) -> Callable[[Any], Verdict]:
        if name not in self.graders:
            raise ValueError(f"{self.name} has no exercise {name!r}; it has {', '.join(self.graders)}")
        return self.graders[name]

    def _whose(self, name: str) -> str:
        return self.answers.get(name, (None, ""))[1]

    # ---- grades ---------------------------------------------------------------------------------

    def grade(self, step: str, hint: int = 1) -> Verdict:
        """Judge the answer by what it does. The same answer always gets the same verdict.

        Args:
            hint: 1 to 3; each says more.

        Raises:
            ValueError: there is no such exercise, or no such hint.
        """
        grader = self._grader(step)
        if hint not in range(1, HINTS + 1):
            raise ValueError(f"hint = {hint!r}: there are hints 1 to {HINTS}")
        if step not in self.answers:
            self.verdicts.pop(step, None)
            return Verdict("empty", (("Next", "put your own where the dots are and run its cell, then grade again"),))
        answer, whose = self.answers[step]
        self.verdicts[step] = judged(grader, answer, whose)
        return replace(self.verdicts[step], hint=hint)

    def summary(self) -> Table:
        """Every exercise with whose answer was graded, and how."""
        rows = []
        for step in self.graders:
            verdict = self.verdicts.get(step)
            mark = "not graded" if verdict is None else verdict._head().removesuffix(" (the solution's)").lower()
            score = "" if verdict is None else verdict.score
            rows.append((step, self._whose(step) or "nobody's yet", mark, score))
        return Table(["exercise", "answer", "grade", ""], rows)


def judged(grader: Callable[[Any], Verdict], answer: Any, whose: str = "yours") -> Verdict:
    """The verdict on an answer. The random state is as it was, whatever the answer does."""
    try:
        verdict = _seeded(grader, answer)
    except Exception as error:
        line = line_of(answer, error)
        if line is None:
            raise  # a fault of the grader's
        verdict = _raised(grader, answer, error, line)
    return replace(verdict, whose=whose)


def _seeded(grader: Callable[[Any], Verdict], answer: Any) -> Verdict:
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        return grader(answer)


def line_of(answer: Any, error: Exception) -> str | None:
    """The line of the answer that the error came out of; None if it did not come out of the answer."""
    own = {function.__code__ for function in functions(answer)}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not any(frame.f_code in own for frame in frames):
        return None
    files = {code.co_filename for code in own}  # the line may be in a helper beside it
    return next(f.line or "" for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename in files)


def _raised(grader: Callable[[Any], Verdict], answer: Any, error: Exception, line: str) -> Verdict:
    try:
        _seeded(grader, answer)
        again = "it did not stop"
    except Exception as second:
        same = line_of(answer, second) == line
        again = "it stopped at the same place" if same else "it stopped at another place"
    where = f" at its line `{line}`" if line else ""
    said = str(error).splitlines()[0] if str(error) else "no message"
    return wrong(
        tried="I called it with arguments of the kind that its docstring names.",
        saw=f"it raised {type(error).__name__}{where}: {said}",
        expected="a result.",
        experiment=f"I called it once more with the same arguments, and {again}.",
        question="What are the shapes and types of what meets in that line?",
        more=(
            "Call it yourself in a new cell, with small tensors of the shapes that the docstring names.",
            "Print the shape of every operand just before that line, and compare it with what the line needs.",
        ),
    )


# ---- what an answer is ------------------------------------------------------------------------------


def functions(answer: Any) -> list:
    """The functions that an answer consists of: itself, a class's own, or those that a container holds."""
    if isinstance(answer, Mapping):
        return [function for value in answer.values() for function in functions(value)]
    if isinstance(answer, (list, tuple, set)):
        return [function for value in answer for function in functions(value)]
    if inspect.isfunction(answer):
        return [answer]
    cls = answer if isinstance(answer, type) else type(answer)
    values = [getattr(value, "__func__", getattr(value, "fget", value)) for value in vars(cls).values()]
    return [value for value in values if inspect.isfunction(value)]


def is_empty(answer: Any) -> bool:
    """Whether a `...` is left in it: in a container, or in the source of a function or of a class's own functions."""
    if isinstance(answer, Mapping):
        return any(map(is_empty, answer.values()))
    if isinstance(answer, (list, tuple, set)):
        return any(map(is_empty, answer))
    if inspect.isclass(answer):
        values = {name: value for name, value in vars(answer).items() if not name.startswith("__")}
        return not values or any(value is ... for value in values.values()) or any(map(has_dots, functions(answer)))
    return answer is ... or inspect.isfunction(answer) and has_dots(answer)


def has_dots(function: Callable) -> bool:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):  # made by a decorator, or a lambda in the middle of a line
        return False
    indices = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    meant = {id(node) for index in indices for node in ast.walk(index)}  # x[..., None] is nothing to be filled in
    dots = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value is ...)
    return any(id(node) not in meant for node in dots)
