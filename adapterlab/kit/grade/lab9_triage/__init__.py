"""Lab 9: what is lost by serving; for each of six mysteries its name and the evidence; a diagnosis of all."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...mystery import CASES
from ...triage import Case
from ..evidence import describe
from ..verdict import Verdict, right, wrong
from .ailments import AILMENTS, HEALTHY
from .readings import NEAR, NoNumber, Readings, lost_by_serving, measured, mysteries, number, sound

NAMES = (*AILMENTS, HEALTHY)

# ---- what is lost by serving ------------------------------------------------------------------------


def lost(answer: Callable) -> Verdict:
    plain = {name: case for name, case in {**mysteries(), **sound()}.items() if "taken out" not in name}
    found = {name: number(answer(case)) for name, case in plain.items()}
    missing = [name for name, value in found.items() if value is None]
    if missing:
        return wrong(
            tried=f"every mystery and every healthy adapter; this is {missing[0]}.",
            saw=f"it returned {describe(answer(plain[missing[0]]))}.",
            expected="one number: its own score less the score when it is served.",
            experiment=f"I asked of all {len(plain)} adapters, and {len(missing)} gave no number.",
            question="Which two scores do you have, and which one stands in the curve already?",
            more=("The curve's `exact_match` is what training saw last.", "Serve it, score what is served, subtract."),
        )
    far = {name: abs(found[name] - lost_by_serving(name)) for name in plain}
    worst = max(far, key=far.get)
    if far[worst] < 0.02:
        return right(
            "it is the last own score less the score of what `al.load` serves, on held-out examples, for all "
            f"{len(plain)} adapters."
        )
    case, other = plain[worst], plain["case 4" if worst != "case 4" else "case 3"]
    *earlier, (step, score, loss) = case.curve.evaluations
    lower = replace(case.curve, evaluations=[*earlier, (step, score - 0.5, loss)])
    wrong_ones = tuple((prompt, "none") for prompt, _ in case.trained)
    experiments = {
        "took 0.5 from the last score in its curve": replace(case, curve=lower),
        f"put {_name(other, plain)}'s file in its place": replace(case, path=other.path),
        "made the examples that it was trained on wrong": replace(case, trained=wrong_ones),
    }
    moved = {name: (number(answer(changed)) or 0.0) - found[worst] for name, changed in experiments.items()}
    told = "; ".join(f"I {name}, and your number moved by {moved[name]:+.2f}" for name in experiments)
    return wrong(
        tried=f"every mystery and every healthy adapter; {worst} is the one that comes out worst.",
        saw=f"{found[worst]:.2f}.",
        expected=f"{lost_by_serving(worst):.2f}: positive where serving loses something.",
        experiment=f"{told}.",
        question=_lost_question(found[worst], lost_by_serving(worst), *moved.values()),
        more=(
            "Two scores: the last one that training wrote down, and one that you take. Take it on held-out examples.",
            "`case.serve()` gives the model, `case.score(model)` its score; the curve's last comes first.",
        ),
    )


def _name(case: Case, of: Mapping[str, Case]) -> str:
    return next(name for name, its in of.items() if its is case)


def _lost_question(value: float, right_one: float, curve: float, file: float, trained: float) -> str:
    if abs(value + right_one) < 0.02:
        return "Which of the two scores do you subtract from which?"
    if abs(curve) < 0.01:
        return "Where in your number is what the training code saw at its end?"
    if abs(trained) > 0.01:
        return "Which examples do you score on, and which did the training code mean to score on?"
    if abs(file) < 0.01:
        return "Another file, and the same number. Which adapter is on the model that you score?"
    return "Half a point less in the record should cost you half a point. What do you make of the two scores?"


# ---- a name and its evidence ------------------------------------------------------------------------


def case_by_case(*names: str) -> Callable[[Any], Verdict]:
    """The grader of an answer {"case 1": (bug, evidence), ...}."""

    def grade(answer: Any) -> Verdict:
        problems = {name: problem for name in names if (problem := _problem(name, _entry(answer, name)))}
        score = f"{len(names) - len(problems)} of {len(names)} cases."
        if problems:
            return replace(next(iter(problems.values())), score=score)
        return right(  # without the names: these words stand in the notebook before its reader has looked for them
            "both names are right, and your evidence tells each of these cases from all of "
            f"{len(sound())} healthy adapters and from the other {len(CASES) - 1} mysteries: none "
            "of them comes half as far.",
            score=score,
        )

    return grade


def _entry(answer: Any, name: str) -> tuple[Any, Any]:
    entry = answer.get(name) if isinstance(answer, Mapping) else None
    return tuple(entry) if isinstance(entry, (tuple, list)) and len(entry) == 2 else (None, None)


def _problem(name: str, entry: tuple[Any, Any]) -> Verdict | None:
    bug, evidence = entry
    case, true = mysteries()[name], CASES[name].bug
    if not isinstance(bug, str) or bug not in NAMES or not callable(evidence):
        return wrong(
            tried=f"your answer for {name}.",
            saw=f"{describe(bug)} as the name, {describe(evidence)} as the evidence.",
            expected=f"a pair: one of {', '.join(NAMES)}, and a function.",
            experiment=f"I served {name}: it loses {lost_by_serving(name):.2f} of its own score.",
            question="What does the chart say comes first after that?",
            more=("The names are in the table of candidates.", "The function takes a case and returns one number."),
        )
    if bug != true:
        return _wrong_name(name, case, bug)
    try:
        found = Readings.take(evidence, name)
    except NoNumber as error:
        other, instead = error.args
        mine = measured(true, other)
        return wrong(
            tried=f"your evidence for {name}, on that case, the other mysteries and {len(sound())} healthy adapters.",
            saw=f"of {other}, {instead}.",
            expected="one finite number for any adapter.",
            experiment=f"the name is right; I took a measurement of my own of {other}, and it is {mine:.2f}.",
            question="What is your number where an adapter has nothing that could be measured?",
            more=("Not every adapter has the tensors that you look for.", "Return 0.0 where there is nothing to see."),
        )
    return None if found.separate else _no_evidence(name, case, evidence, found)


def _wrong_name(name: str, case: Case, bug: str) -> Verdict:
    served = lost_by_serving(name)
    if bug == HEALTHY:
        experiment = f"I served it: its own score is {case.curve.exact_match:.2f}, and serving loses {served:.2f}."
        expected = (
            f"with nothing wrong, neither the score nor any tensor stands out from the healthy {_twin(case).name}."
        )
        question = (
            "Where did that score go?"
            if served > 0.1
            else "It is served as it was trained. Was everything trained that should have been, and as finely?"
        )
    else:
        ailment = AILMENTS[bug]
        most = max(measured(bug, other) for other in sound())
        expected = f"if it were {ailment.means}, at least {ailment.least:g} in that measurement."
        experiment = f"{ailment.test} {measured(bug, name):.2f}; of healthy ones it is {most:.2f} at most."
        question = (
            "Serving loses something. What could you change, in the runtime or in the file, to bring it back?"
            if served > 0.1
            else "Serving loses nothing. What do its tensors look like beside those of a healthy one of its kind?"
        )
    return wrong(
        tried=f"{name} under the name that you give it, {bug!r}.",
        saw=f"it is not that. Its file says {case.variants}; serving loses {served:.2f} of its own score.",
        expected=expected,
        experiment=experiment,
        question=question,
        more=(
            "Take the chart's measurements in its order, each also of a healthy adapter of the same kind.",
            "Ask each name in the table what it would change: the score when something is turned, or the tensors.",
        ),
    )


def _no_evidence(name: str, case: Case, evidence: Callable, found: Readings) -> Verdict:
    bug = CASES[name].bug
    test = AILMENTS[bug].test
    fine, other = found.nearest(found.healthy), found.nearest(found.others)
    alarm = found.way(found.healthy[fine]) > NEAR or math.isinf(found.way(found.mystery))
    nearest, value = (fine, found.healthy[fine]) if alarm else (other, found.others[other])
    constant = len({round(v, 9) for v in (found.mystery, *found.healthy.values(), *found.others.values())}) == 1
    if found.turned().separate:
        question = "Your number is lowest where the bug is. Which way round shall it be read?"
    elif constant:
        question = "One number for all of them. What do you look at that is the adapter's own?"
    elif alarm:
        question = f"Would your number not blame {nearest} as well? What does it see in that one?"
    else:
        question = f"{other.capitalize()} shows it too. What would bring the one back, and not the other?"
    return wrong(
        tried=f"the name is right. I took your evidence of {name}, of {len(found.healthy)} healthy adapters and of the "
        f"other {len(found.others)} mysteries.",
        saw=f"{found.mystery:.3g} for {name}; {nearest} stands at {value:.3g}. Healthy ones go from "
        f"{min(found.healthy.values()):.3g} to {max(found.healthy.values()):.3g}.",
        expected="far above all the others: none half as far above the middle of the healthy ones.",
        experiment=_isolated(case, evidence, found),
        question=question,
        more=(
            "A symptom is shared by many bugs. Evidence is what only this one does: change the one thing that it got "
            "wrong, and look at what comes back; or look at the one tensor that it marks.",
            f"This one works: {test} {measured(bug, name):.2f}; of {nearest} it is {measured(bug, nearest):.2f}.",
        ),
    )


def _isolated(case: Case, evidence: Callable, found: Readings) -> str:
    """What the number hangs on: the bug where it can be taken out, else the file or the record."""
    healed = [value for other, value in found.healthy.items() if other.startswith(f"{case.name} with")]
    if healed:
        return f"I took the bug out, and your number went from {found.mystery:.3g} to {healed[0]:.3g}."
    twin = _twin(case)
    file, record = (
        _short(evidence(replace(case, name="an adapter", **change)))
        for change in ({"path": twin.path}, {"curve": twin.curve, "trained": twin.trained})
    )
    return (
        f"I put the file of the healthy {twin.name} in its place, and your number went from {found.mystery:.3g} to "
        f"{file}; I put that one's record of training beside the file instead: {record}."
    )


def _twin(case: Case) -> Case:
    """A healthy one of the same kind."""
    return next(other for other in sound().values() if other.curve.label == case.curve.label)


def _short(value: Any) -> str:
    value = number(value)
    return "no number" if value is None else f"{value:.3g}"


# ---- the stretch: all of them at once ---------------------------------------------------------------


def diagnose(answer: Callable) -> Verdict:
    truth = {name: CASES[name].bug for name in mysteries()} | dict.fromkeys(sound(), HEALTHY)
    both = {**mysteries(), **sound()}
    found = {name: answer(replace(case, name="an adapter")) for name, case in both.items()}
    off = [name for name in truth if found[name] != truth[name]]
    score = f"{len(truth) - len(off)} of {len(truth)} adapters."
    if not off:
        return right(
            "it names every bug, and lets every healthy adapter go, those among them that were made of a mystery by "
            "taking its bug out.",
            score=score,
        )
    name = off[0]
    said = found[name]
    alarms = sum(truth[other] == HEALTHY for other in off)
    if isinstance(said, str) and said in AILMENTS:
        experiment = f"{AILMENTS[said].test} {measured(said, name):.2f}; from {AILMENTS[said].least:g} on it is."
    else:
        true = truth[name]
        experiment = (
            f"{AILMENTS[true].test} {measured(true, name):.2f}."
            if true in AILMENTS
            else f"I served it, and it loses {lost_by_serving(name):.2f}."
        )
    return wrong(
        tried=f"all {len(truth)} adapters, their names taken off.",
        saw=f"{len(off)} wrong, {alarms} of them healthy ones that you blame. Of {name} you say {describe(said)}.",
        expected=f"one of {', '.join(NAMES)}; and for that one another.",
        experiment=experiment,
        question="Which of your measurements speaks first there, and where is its limit?",
        more=(
            "Take all measurements of an adapter before you name anything, and see which are above their limits.",
            "Limits lie between the highest healthy reading and the mystery's. If none is passed, it is healthy.",
        ),
        score=score,
    )


GRADERS = {
    "lost": lost,
    "formulas": case_by_case("case 1", "case 2"),
    "origins": case_by_case("case 3", "case 4"),
    "tensors": case_by_case("case 5", "case 6"),
    "diagnose": diagnose,
}
