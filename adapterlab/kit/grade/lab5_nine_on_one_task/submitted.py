"""Judges what the sealed split says of a submission."""

from ...house import Refusal, Result, rows
from ..evidence import describe
from ..verdict import Verdict, right, wrong


def submission(answer) -> Verdict:
    if not isinstance(answer, Result):
        refused = isinstance(answer, Refusal)
        return wrong(
            tried="reading the result of your submission.",
            saw=answer.why if refused else f"{describe(answer)}.",
            expected="a result with a score and an interval.",
            experiment="I looked for its score, and nothing has been scored.",
            question="What must a model be, so that the seal scores it?" if refused else "What does `submit` return?",
            more=(
                "The seal takes the base model with a trained adapter attached, within the budget.",
                "Train once more from a fresh base model, submit that, and keep what comes back.",
            ),
        )
    house, grades = rows(), answer.grades()
    below = [name for name, grade in grades.items() if grade == "below"]
    named = {grade: [house[name].label for name in grades if grades[name] == grade] for grade in ("beats", "tied")}
    if 2 * len(below) > len(house):
        first = house[below[0]]
        low, high = answer.against(first)
        there = answer.validation - first.validation.mean().item()
        return wrong(
            tried=f"the bootstrap of the difference against {len(house)} rows.",
            saw=f"below {', '.join(house[name].label for name in below)}: yours less {first.label}'s is {low:+.2f} to "
            f"{high:+.2f}.",
            expected="an interval that holds 0 or lies above it, against more than half of the rows.",
            experiment=f"I looked at validation, which was open to you: there the difference is {there:+.2f}"
            + (", so it was to be seen before." if there < 0 else ", so validation flattered you."),
            question="Which rates beside yours has validation seen?" if there < 0 else "How many did you choose among?",
            more=(
                "A rate that is right for one method is wrong for another: try half and twice yours, on validation.",
                "The record holds each row's rate and what its neighbours scored on validation.",
            ),
            score=answer.tally(),
        )
    told = [f"it beats {', '.join(named['beats'])}"] if named["beats"] else []
    if below:
        told.append(f"it is below {', '.join(house[name].label for name in below)}")
    if named["tied"]:
        told.append(
            f"it is tied with {', '.join(named['tied'])}, where the interval holds 0: {len(answer._right)} items "
            "do not tell the two apart, and nobody honest could say more"
        )
    return right("; ".join(told) + ".", score=answer.tally())
