"""The contract: every check by name, in the order of a report, and `check`, which runs them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..variant import Variant
from . import corners, elsewhere, life, maths, training
from .bases import alone
from .finding import Broken, Finding
from .report import Report, Result
from .subject import Foreign, NotApplicable, Ours, Subject, Wrapped


@dataclass(frozen=True)
class Check:
    """Attributes:
    name: in reports.
    proves: in one sentence, what a pass says.
    function: of a Subject; returns a Finding, or raises Broken or NotApplicable.
    """

    name: str
    proves: str
    function: Callable[[Subject], Finding]


def _all(*checks: Check) -> dict[str, Check]:
    return {check.name: check for check in checks}


CHECKS = _all(
    Check("identity", "At the start the outputs are the base's, to what float32 arithmetic leaves.", maths.identity),
    Check("dense", "Far from the start it is one affine map: the one that its equation says.", maths.dense),
    Check("bias", "The same on a layer whose bias is as large as its output.", maths.bias),
    Check("cancels", "Where the update undoes most of a row, the rest is right.", corners.cancels),
    Check("start", "Where a definition fixes the start, it starts there.", corners.start),
    Check("shapes", "It takes inputs of any leading shape, an empty batch among them.", maths.shapes),
    Check("gradients", training.GRADIENTS, training.gradients),
    Check("finite", "Outputs and gradients are finite in fp32, bf16 and fp16.", training.finite),
    Check("fields", "Every hyperparameter changes something, or its value is refused.", training.fields),
    Check("parameters", "Every trained tensor changes the output.", training.parameters),
    Check("restores", "Disabled or taken off, it leaves the base bit for bit.", life.restores),
    Check("reload", "Saved and loaded on a fresh base, without data, it gives the same bits.", life.reload),
    Check("wrong_base", "It is not loaded on a base with other weights without a word.", life.wrong_base),
    Check("file", "Its file holds finite numbers, each for a layer that there is.", life.file),
    Check("merge", "Merged into the weights it is the same map, in every dtype.", life.merge),
    Check(
        "cycles",
        "Merging, and unmerging where there is such a thing, leaves the base's own tensors bit for bit.",
        life.cycles,
    ),
    Check("eval_train", "A pass in eval mode leaves no trace on the training after it.", training.eval_train),
    Check("in_place", "Parameters edited in place are seen by the next pass in eval mode.", training.in_place),
    Check("deterministic", "The same seed gives the same tensors and outputs.", life.deterministic),
    Check("ranks", "Any rank is right at the start and far from it, or refused by name.", maths.ranks),
    Check("first_step", training.FIRST_STEP, training.first_step),
    Check("moves", "At the rate it is trained at, its numbers move, stored in fp32 and in bf16.", training.moves),
    Check("layers", "Every kind of layer is right, or refused with a sentence.", maths.layers),
    Check(
        "quantised",
        "On weights of 8 and 4 bits it does what it does on the weight they stand for.",
        elsewhere.quantised,
    ),
    Check("compile", "Compiled before or after it is put on, a model does what it does eagerly.", elsewhere.compile),
    Check("offload", "Under accelerate's offloading it gives the same outputs.", elsewhere.offload),
)


def check(
    subject: Any,
    *,
    only: Iterable[str] | None = None,
    reference: Variant | None = None,
    trained: Iterable[str] | None = None,
    lr: float | None = None,
    by_design: dict[str, str] | None = None,
    seed: int = 0,
    progress: Callable[[str], Any] = lambda name: None,
) -> Report:
    """Whether an adapter keeps the contract.

    All of it happens in memory and in a temporary folder, on small random layers; generators, threads, the default
    dtype and the registry of variants are afterwards what they were.

    Args:
        subject: a variant, an instance or a class with defaults; "peft:NAME" or a PeftConfig; a `Foreign`.
        only: names of checks out of `CHECKS`; by default all of them.
        reference: a variant whose equation judges in place of the subject's own.
        trained: names of the tensors that must be trained; by default the reference's.
        lr: the rate that it is trained at, for `moves`.
        by_design: check -> a sentence with its source, for a deviation that the method's authors state.
        seed: of everything random.
        progress: called with the name of each check before it runs.

    Raises:
        ValueError: an unknown name; the message lists what there is.
        TypeError: nothing that can be judged.
    """
    names = chosen(only)
    judged = subject_of(subject, reference)
    judged.reference = reference
    if trained is not None:
        judged.trained = frozenset(trained)
    if lr is not None:
        judged.lr = lr
    judged.by_design = {**judged.by_design, **(by_design or {})}
    chosen(judged.by_design)
    results = {}
    for name in names:
        progress(name)
        start = time.perf_counter()
        with alone(seed):
            results[name] = _run(CHECKS[name], judged, start)
    return Report(judged.label, results)


def chosen(only: Iterable[str] | None) -> list[str]:
    """In the order of `CHECKS`.

    Raises:
        ValueError: one of them is no check.
    """
    wanted = list(CHECKS) if only is None else [only] if isinstance(only, str) else list(only)
    if unknown := [name for name in wanted if name not in CHECKS]:
        raise ValueError(f"there is no check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    return [name for name in CHECKS if name in wanted]


def _run(check: Check, subject: Subject, start: float) -> Result:
    figure = limit = None
    try:
        if check.name in subject.unfit:
            raise NotApplicable(subject.unfit[check.name])
        found = check.function(subject)
        figure, limit, note = found.figure, found.limit, found.note
        status = "pass" if figure is None or limit is None or figure <= limit else "fail"
    except NotApplicable as reason:
        status, note = "n/a", str(reason)
    except Broken as error:
        status, note, figure, limit = "fail", str(error), error.figure, error.limit
    except Exception as error:
        status, note = "fail", maths.sentence(error, 300)
    if status == "fail" and check.name in subject.by_design:
        status, note = "by design", f"{subject.by_design[check.name]}. {note}".rstrip()
    return Result(check.name, status, figure, limit, note, time.perf_counter() - start)


def subject_of(thing: Any, reference: Variant | None = None) -> Subject:
    """What `check` takes, as a Subject."""
    if isinstance(thing, Subject):
        return thing
    if isinstance(thing, Foreign):
        return Wrapped(thing)
    if isinstance(thing, str):
        if not thing.startswith("peft:"):
            raise ValueError(f"{thing!r} names no adapter: pass a variant, or 'peft:NAME'")
        from .of_peft import of_peft  # PEFT takes seconds to import

        return of_peft(thing.removeprefix("peft:"))
    if isinstance(thing, type) and issubclass(thing, Variant):
        try:
            thing = thing()
        except TypeError as error:
            raise TypeError(f"{thing.__name__} has fields without defaults: pass an instance ({error})") from error
    if isinstance(thing, Variant):
        return Ours(thing, reference)
    if hasattr(thing, "peft_type"):
        from .of_peft import of_config

        return of_config(thing)
    raise TypeError(f"{thing!r} is nothing that can be judged: pass a variant, 'peft:NAME', a PeftConfig or a Foreign")
