"""What a grader says of an answer."""

from dataclasses import dataclass, field
from typing import Literal

HINTS = 3


@dataclass(frozen=True)
class Verdict:
    """Right or wrong, and what it was seen by. Markdown in a notebook, plain text elsewhere; never code.

    Attributes:
        mark: "right", "wrong", or "empty" where there is no answer yet.
        said: pairs of a heading and a sentence, in the order in which they are told.
        more: what the second and the third hint add.
        score: points or a grade, where there is more to say than right or wrong.
        whose: "yours", or "the solution's" that stands in for it.
        hint: how many hints were asked for.
    """

    mark: Literal["right", "wrong", "empty"]
    said: tuple[tuple[str, str], ...]
    more: tuple[str, ...] = ()
    score: str = ""
    whose: str = "yours"
    hint: int = field(default=1, compare=False)

    @property
    def ok(self) -> bool:
        return self.mark == "right"

    def lines(self) -> list[tuple[str, str]]:
        """Heading and sentence of all that is told at this hint."""
        told = list(self.said)
        if self.mark == "wrong":
            told += [(f"Hint {k}", text) for k, text in enumerate(self.more[: self.hint - 1], 2)]
            if self.hint > len(self.more) + 1:
                told.append(("No more hints", "The solution is folded below the exercise."))
        return told

    def _head(self) -> str:
        whose = " (the solution's)" if self.mark == "right" and self.whose != "yours" else ""
        return {"right": "Right", "wrong": "Not yet", "empty": "Empty so far"}[self.mark] + whose

    def _repr_markdown_(self) -> str:
        score = f" {self.score}" if self.score else ""
        head = f"**{self._head()}.**{score}"
        return "\n".join([head, "", *(f"- **{name}:** {text}" for name, text in self.lines())])

    def __repr__(self) -> str:
        head = f"{self._head()}. {self.score}".rstrip()
        return "\n".join([head, *(f"  {name}: {text}" for name, text in self.lines())])


def right(why: str, *, score: str = "") -> Verdict:
    """The answer is right, and `why` says why it is."""
    return Verdict("right", (("Why", why),), score=score)


def wrong(
    *, tried: str, saw: str, expected: str, experiment: str, question: str, more: tuple[str, str], score: str = ""
) -> Verdict:
    """The answer is wrong.

    Args:
        tried: what the grader did with it.
        saw: what came out, with the figure or the value; expected: what should have.
        experiment: the one that isolates the fault, as "I set b = 0 and the miss fell from 0.41 to rounding".
        question: that leads on, without the answer in it.
        more: what hint=2 and hint=3 add, in words.

    Raises:
        ValueError: `question` asks nothing, or `more` has not two hints.
    """
    if not question.endswith("?"):
        raise ValueError(f"question = {question!r}: a hint ends in a question")
    if len(more) != HINTS - 1:
        raise ValueError(f"{len(more)} further hints: there are {HINTS - 1}, for hint=2 and hint=3")
    said = (
        ("Tried", tried),
        ("Saw", saw),
        ("Expected", expected),
        ("Experiment", experiment),
        ("Ask yourself", question),
    )
    return Verdict("wrong", said, tuple(more), score)
