"""One question, three answers, before the chapter tells."""

import html
from collections.abc import Sequence

from .figure import Figure


class _Unfolding:
    """The question where no script runs: its answers as a list, the right one folded away."""

    def __init__(self, question: str, answers: Sequence[str], right: int, because: str):
        self.question, self.answers, self.right, self.because = question, answers, right, because

    def html(self) -> str:
        items = "".join(f"<li>{html.escape(answer)}</li>" for answer in self.answers)
        solution = html.escape(f"{self.answers[self.right]}. {self.because}")
        question = f"<p><strong>{html.escape(self.question)}</strong></p>"
        return f"{question}<ul>{items}</ul><details><summary>Answer</summary><p>{solution}</p></details>"

    def __repr__(self) -> str:
        return "\n".join([self.question, *(f"- {answer}" for answer in self.answers)])


class Guess(Figure, js="guess.js"):
    """A question that is answered by a click, and then told.

    Args:
        right: index of the right answer.
        because: the reason, shown after the click whatever was chosen.
    """

    def __init__(self, question: str, answers: Sequence[str], right: int, because: str):
        if not 0 <= right < len(answers):
            raise ValueError(f"right = {right}: there are {len(answers)} answers, counted from 0")
        super().__init__({"question": question, "answers": list(answers), "right": right, "because": because})

    def still(self) -> _Unfolding:
        return _Unfolding(**self.data)
