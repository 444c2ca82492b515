"""Lab 8: a score before and after, a plan for memory, a choice within it, a curve that is read, a rate carried over."""

import math
from collections.abc import Callable
from typing import Any

import torch

from ..evidence import describe
from ..verdict import Verdict, right, wrong
from .chosen import choice
from .planned import memory

# ---- before and after -----------------------------------------------------------------------------

EXAMPLES = [
    ("Ann buys 12 plums. Record:", ' {"item": "plums", "change": 12}'),
    ("Ben eats 3 pears. Record:", ' {"item": "pears", "change": -3}'),
    ("Sue finds 5 cards. Record:", ' {"item": "cards", "change": 5}'),
    ("Leo drops 40 books. Record:", ' {"item": "books", "change": -40}'),
]


class Ask:
    """A model that answers from a list, and remembers what it was asked. kit.answer gives no leading space."""

    def __init__(self, answers: list[str]):
        self.told = {prompt: answer for (prompt, _), answer in zip(EXAMPLES, answers)}
        self.asked: list[Any] = []

    def __call__(self, prompt):
        self.asked.append(prompt)
        return self.told.get(prompt, "")


RIGHT_ANSWERS = [answer.strip() for _, answer in EXAMPLES]
CASES = {  # the answers given, how many of the four are right
    "gave four right answers": (RIGHT_ANSWERS, 4),
    "gave four wrong answers": (["", "no", RIGHT_ANSWERS[0], "{}"], 0),
    "let one number be off by one digit": ([*RIGHT_ANSWERS[:3], '{"item": "books", "change": -41}'], 3),
    "let the model chatter on after two right answers": (
        [answer + (" and so on" if k < 2 else "") for k, answer in enumerate(RIGHT_ANSWERS)],
        2,
    ),
    "cut two answers short": ([answer[:9] if k < 2 else answer for k, answer in enumerate(RIGHT_ANSWERS)], 2),
}


def exact_match(answer: Callable) -> Verdict:
    for case, (answers, count) in CASES.items():
        ask = Ask(answers)
        seen = answer(ask, list(EXAMPLES))
        if isinstance(seen, torch.Tensor) and seen.numel() == 1:
            seen = seen.item()
        number = isinstance(seen, (int, float)) and not isinstance(seen, bool)
        if number and abs(seen - count / 4) < 1e-6 and ask.asked == [prompt for prompt, _ in EXAMPLES]:
            continue
        if number and abs(seen - count / 4) < 1e-6:
            last = repr(ask.asked[-1]) if ask.asked else "nothing"
            experiment = f"I counted: the model was asked {len(ask.asked)} times for four examples, in the end {last}"
            question = "Does the model see each question once, and nothing of the answer?"
        elif not ask.asked or any(prompt not in ask.told for prompt in ask.asked):
            told = repr(ask.asked[0]) if ask.asked else "nothing"
            experiment = f"I looked at what the model was asked first: {told}"
            question = "What should the model see, and what should it not?"
        else:
            spaced = answer(Ask([" " + text for text in answers]), list(EXAMPLES))
            experiment = f"I let it begin every answer with a space, and your score went to {describe(spaced)}"
            question = {
                "gave four wrong answers": "Can an answer be right in part?",
                "let one number be off by one digit": "Is nearly right right?",
                "let the model chatter on after two right answers": "Is an answer right if the right one is in it?",
                "cut two answers short": "Is an answer right if it is the beginning of the right one?",
            }.get(case, "What stands before the first letter of the wanted answer, and of the model's?")
            if number and not 0 <= seen <= 1:
                question = "A share lies between 0 and 1. What is yours a share of?"
        return wrong(
            tried=f"four examples and a model that answers from a list; I {case}.",
            saw=describe(seen),
            expected=f"{count / 4}, the share of answers that are right to the last character.",
            experiment=f"{experiment}.",
            question=question,
            more=(
                "Ask with the prompt alone, strip both answers of spaces around them, and compare the whole.",
                "Count what is equal and divide by the number of examples, not by the number of right ones.",
            ),
        )
    return right(
        "each question is asked once and without its answer, spaces around an answer do not count, and near misses, "
        "answers with something after them and answers cut short are wrong."
    )


# ---- the curve ------------------------------------------------------------------------------------

CURVES = {  # name -> (evaluations, the step to keep)
    "rises and stays": ([(0, 0.0, 5.0), (20, 0.4, 0.3), (40, 0.97, 0.02), (60, 0.98, 0.02), (80, 0.98, 0.03)], 40),
    "rises to the end": ([(0, 0.0, 5.0), (20, 0.2, 0.6), (40, 0.5, 0.2), (60, 0.8, 0.1), (80, 0.95, 0.05)], 80),
    "is best in the middle and falls": (
        [(0, 0.0, 5.0), (20, 0.9, 0.05), (40, 0.6, 0.4), (60, 0.5, 0.9), (80, 0.55, 1.2)],
        20,
    ),
    "has the lowest loss before the best score": (
        [(0, 0.1, 2.0), (20, 0.7, 0.20), (40, 0.8, 0.25), (60, 0.9, 0.3), (80, 0.9, 0.35)],
        60,
    ),
    "never leaves the start": ([(0, 0.02, 5.0), (20, 0.02, 5.1), (40, 0.01, 5.3)], 0),
}


def stop_at(answer: Callable) -> Verdict:
    for name, (curve, step) in CURVES.items():
        seen = answer(list(curve))
        if seen == step and not isinstance(seen, bool):
            continue
        best = max(score for _, score, _ in curve)
        scores = {done: score for done, score, _ in curve}
        longer = [*curve, (curve[-1][0] + 20, 0.0, 9.0)]
        return wrong(
            tried=f"a curve that {name}: scores {', '.join(f'{score:g}' for _, score, _ in curve)} "
            f"at steps {', '.join(str(done) for done, _, _ in curve)}.",
            saw=f"{describe(seen)}" + (f", where the score is {scores[seen]:g}." if seen in scores else "."),
            expected=f"{step}: the first step whose score is within 0.02 of the best, {best:g}.",
            experiment=f"I put one more point at the end, with a score of 0: you returned {describe(answer(longer))}.",
            question="Which of a point's three numbers do you want to be high, and how early is enough?"
            if seen in scores
            else "Is what you return one of the steps of the curve?",
            more=(
                "Find the best score first. Then go through the points from the front.",
                "A difference of 0.02 on 256 questions is five answers: not worth the steps. The loss may rise while "
                "the score does, because it also counts how sure a wrong answer is.",
            ),
        )
    return right(
        "it goes by held-out exact match, not by the loss and not by the last step, and takes no more steps for a gain "
        "that 256 questions cannot tell from chance."
    )


# ---- the stretch: a rate for another width --------------------------------------------------------


def rate(answer: Callable) -> Verdict:
    cases = {
        (5e-3, 128, 128): 5e-3,
        (5e-3, 128, 512): 2.5e-3,
        (1e-3, 1024, 256): 2e-3,
        (4e-3, 128, 1024): 2**-1.5 * 4e-3,
    }
    for (lr, width, other), expected in cases.items():
        seen = answer(lr, width, other)
        if isinstance(seen, (int, float)) and math.isclose(seen, expected, rel_tol=1e-6):
            continue
        same = answer(lr, width, width)
        return wrong(
            tried=f"a rate of {lr:g} found at {width} features, carried over to {other}.",
            saw=f"{describe(seen)}.",
            expected=f"{expected:.3g}: the mirrors turn as far as before.",
            experiment=f"I left the width as it was, and you returned {describe(same)}.",
            question="A step of Adam moves each of d numbers by the rate. How far does the row of d numbers move, "
            "when its length is the same at every width?",
            more=(
                "HRA's chapter has the turn of a mirror in one step: the rate times the square root of three times d.",
                "Set the turns at the two widths equal, and solve for the new rate.",
            ),
        )
    return right(
        "four times the width halves the rate: a step of Adam moves a row of d numbers by the rate times the square "
        "root of d, while the length of the row at the start does not depend on d."
    )


GRADERS = {"exact_match": exact_match, "memory": memory, "choice": choice, "stop_at": stop_at, "rate": rate}
