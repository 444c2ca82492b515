"""Judges of what is wrong with the patients of lab 1, and of their repairs: the contract, and one experiment each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .... import contract
from ....variants import LoRA
from ..evidence import describe
from ..verdict import Verdict, right, wrong
from . import patients
from .probes import ALPHA, FAULTS, LOW_PRECISION, R

REPORT = ("identity", "dense", "shapes", "gradients", "fields", "restores", "in_place")
ALL = (*REPORT, "bias", "reload", "merge", "eval_train", "ranks")


def report(variant: LoRA | type[LoRA], only: tuple[str, ...] = REPORT) -> contract.Report:
    """What the contract says of a patient, with LoRA's equation as the judge.

    Args:
        variant: a patient, or one with fields of your own.
        only: names of checks out of `adapterlab.contract.CHECKS`.
    """
    variant = variant(r=R, alpha=ALPHA) if isinstance(variant, type) else variant
    fields = {name: getattr(variant, name) for name in ("r", "alpha", "rslora")}
    return contract.check(variant, only=only, reference=LoRA(**fields))


@dataclass(frozen=True)
class Patient:
    """Attributes:
    fault: a name out of `FAULTS`, or a sentence for what is none of them.
    telling: the check that tells it from the rest.
    hint: what its report says, in other words; the last hint of a diagnosis, and the second of a repair.
    last: the last hint of a repair.
    why: why the repair is right.
    """

    variant: type[LoRA]
    fault: str
    telling: str
    hint: str
    last: str
    why: str


PATIENTS = {
    "Ash": Patient(
        patients.Ash,
        "no scale",
        "fields",
        "It has fields that change nothing: `fields` names them. Which quantity of LoRA are they there for?",
        "Three fields decide the scale: two of them are divided, and the third says by what.",
        "The scale is read from all its fields again, so alpha means here what it means wherever the file is served.",
    ),
    "Birch": Patient(
        patients.Birch,
        "random start",
        "identity",
        "Far from the start it is LoRA; at the start it is not the base. What must B A be there?",
        "One of the two matrices must be zero there, and only one: two zeros never move.",
        "B A is zero at the start, so the first step leaves from the base and not from beside it.",
    ),
    "Cedar": Patient(
        patients.Cedar,
        "reshaped A",
        "dense",
        "It starts right and every field counts, yet far from there it is another map. Ask for its report at r = 1.",
        "The product with A takes each row of x against each row of A.",
        "It multiplies by the transpose. Reshaped, A is a matrix too, and it learns; but no other runtime reads it so.",
    ),
    "Dogwood": Patient(
        patients.Dogwood,
        "frozen A",
        "gradients",
        "What it computes is right. `gradients` says what it trains, and what it should.",
        "A tensor of `specs` is a parameter unless it is declared a buffer.",
        "Both matrices are trained. With A frozen the update could only ever use the r directions it was born with.",
    ),
    "Elm": Patient(
        patients.Elm,
        "stale",
        "in_place",
        "It trains as it should. `in_place` edits a parameter between two passes: what did the second pass see?",
        "There is nothing here worth keeping between two passes: hand over what the tensors are now.",
        "Each pass reads the tensors as they are, so what is scored and served is what was trained.",
    ),
    "Fir": Patient(
        patients.Fir,
        "what it hands to a merge is not what it computes",
        "merge",
        "Running and merged, it is two different maps. Which one does the equation say?",
        "`merge` folds B A in exactly as `low_rank` gives the two; whatever multiplies them must be in there.",
        "The two factors multiply to all of W' - W, scale included, so a merged model is the model that you trained.",
    ),
}
SICK = [name for name in PATIENTS if PATIENTS[name].fault in FAULTS]


def faults(answer: Any) -> Verdict:
    if bad := _unlike(answer):
        return bad
    found = {name: answer[name] == PATIENTS[name].fault for name in SICK}
    score = f"{sum(found.values())} of {len(SICK)}"
    if all(found.values()):
        told = "; ".join(f"{name}: `{PATIENTS[name].telling}`" for name in SICK)
        return right(f"In each I found the fault that you named. The check that tells it: {told}.", score=score)
    name = next(name for name, ok in found.items() if not ok)
    named, patient = FAULTS[answer[name]], PATIENTS[name]
    red = ", ".join(f"`{check}`" for check in report(patient.variant).failed)
    return wrong(
        tried=f"I looked in each for the fault that you named. It is there in {score}.",
        saw=f'{name}, for which you say "{named.said}": {named.of(patient.variant)}.',
        expected=f"With that fault {named.would}.",
        experiment=named.experiment(**{name: patient.variant}),
        question=f"Which checks are green in {name}'s report, and can they be, with that fault?",
        more=(f"Red in {name}'s report: {red}. The telling one is `{patient.telling}`.", patient.hint),
        score=score,
    )


def _unlike(answer: Any) -> Verdict | None:
    """The verdict on what is no answer for all patients."""
    said = None
    if not isinstance(answer, dict) or set(answer) != set(SICK):
        given = f"a dict with the keys {list(answer)}" if isinstance(answer, dict) else describe(answer)
        said, expected = given, f"a dict with one fault for each of {', '.join(SICK)}."
    elif unknown := [name for name in SICK if not isinstance(answer[name], str) or answer[name] not in FAULTS]:
        said, expected = f"{unknown[0]}: {answer[unknown[0]]!r}", f"one of {', '.join(map(repr, FAULTS))}."
    if said is None:
        return None
    return wrong(
        tried="I read your answer as one fault for each patient.",
        saw=f"{said}.",
        expected=expected,
        experiment="I compared its names with the list above, letter by letter.",
        question="Which patients are there, and which of the names in the list is the nearest to what you mean?",
        more=("Copy the names from the table: spaces and capitals count.", "Leave no patient out, and add none."),
    )


# ---- repairs ----------------------------------------------------------------------------------------

QUESTIONS = {
    "identity": "What is B A before the first step?",
    "dense": "Take one x by hand: what do A, B and the scale do to it, in which order?",
    "bias": "Take one x by hand on a layer with a bias: where does the bias come in?",
    "shapes": "What does it give for a single x, for a batch of sequences, for an empty batch?",
    "gradients": "Which tensors are to be trained, and does a gradient reach each of them?",
    "fields": "Which field is there that no line reads?",
    "restores": "What is left behind on the layer when it is taken off?",
    "in_place": "When was what this pass uses computed?",
    "reload": "What does it need that is not in the file?",
    "merge": "Multiply the two factors by hand: is the product all that is added to W?",
    "eval_train": "What does a pass in eval mode leave behind for the next one?",
    "ranks": "Does it hold for every rank, or for the one that you thought of?",
}
TYPES = "Which types do x, y, A and B have where they meet, and which must the result have?"


def repair_of(name: str) -> Callable[[Any], Verdict]:
    """The grader of a repair of that patient."""
    patient = PATIENTS[name]

    def grader(answer: Any) -> Verdict:
        if not (isinstance(answer, type) and issubclass(answer, patient.variant)):
            return _no_repair(name, answer)
        found = report(answer, ALL)
        if found.ok:
            return right(f"All {len(ALL)} checks are green. {patient.why}")
        red = telling(patient, answer, found.failed)
        result = found[red]
        figure = "" if result.figure is None or red == "fields" else f" with a miss of {result.figure:.2g}"
        cured = "" if patient.telling in found.failed else f"`{patient.telling}` is green now, but "
        return wrong(
            tried=f"I ran {len(ALL)} checks of the contract on your class.",
            saw=f"{cured}`{red}` is red{figure}: {result.note}." if result.note else f"{cured}`{red}` is red{figure}.",
            expected=contract.CHECKS[red].proves,
            experiment=experiment(name, answer, red),
            question=TYPES if narrow(answer) else QUESTIONS[red],
            more=(patient.hint if not cured else f"All red ones: {', '.join(found.failed)}.", patient.last),
        )

    return grader


PROBE_OF = {  # the experiment that shows what a check is red for
    "identity": "random start",
    "dense": "reshaped A",
    "gradients": "frozen A",
    "in_place": "stale",
    "fields": "no scale",
    "bias": "bias twice",
    "restores": "writes to W",
}


def narrow(answer: type[LoRA]) -> bool:
    """Whether it is right in float32 and not in bfloat16."""
    seen, sound = LOW_PRECISION.of(answer), LOW_PRECISION.of(LoRA)
    return seen != sound and seen.split(",")[0] == sound.split(",")[0]


def telling(patient: Patient, answer: type[LoRA], failed: list[str]) -> str:
    """Of the red checks the one whose experiment tells the answer from a sound LoRA; the patient's own first."""
    first = sorted(failed, key=lambda check: check != patient.telling)
    for check in first:
        fault = FAULTS.get(PROBE_OF.get(check, ""))
        if fault is not None and fault.of(answer) != fault.of(LoRA):
            return check
    return first[0]


def experiment(name: str, answer: type[LoRA], red: str) -> str:
    patient = PATIENTS[name].variant
    if narrow(answer):
        return LOW_PRECISION.experiment(**{name: patient, "yours": answer})
    if red == "merge":
        return _scaled(name, patient, answer)
    return FAULTS[PROBE_OF.get(red, "reshaped A")].experiment(**{name: patient, "yours": answer})


def _scaled(name: str, patient: type[LoRA], answer: type[LoRA]) -> str:
    def merge_at(cls: type[LoRA], alpha: float) -> str:
        return contract.check(cls(r=R, alpha=alpha), only="merge", reference=LoRA(r=R, alpha=alpha))["merge"].status

    told = "; ".join(
        f"{name}: {merge_at(cls, ALPHA)} at alpha = {ALPHA} and {merge_at(cls, R)} at alpha = {R}"
        for name, cls in ((name, patient), ("yours", answer))
    )
    return f"I set alpha = r, where the scale is 1, and ran `merge` again. {told}."


def _no_repair(name: str, answer: Any) -> Verdict:
    given = f"the class {answer.__name__}" if isinstance(answer, type) else describe(answer)
    return wrong(
        tried=f"I asked whether your answer is {name} with something written anew.",
        saw=f"{given}, which does not derive from {name}.",
        expected=f"a class that derives from {name}, as in the cell above.",
        experiment="I looked through the classes that it derives from.",
        question="Which method of the patient must be another, and which may stay?",
        more=(
            "A whole new class would be right too, but it would not be a repair.",
            "Keep the first line of the cell as it was, and write the method below it.",
        ),
    )
