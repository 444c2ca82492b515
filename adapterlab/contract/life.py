"""Checks of what happens to it: disabled, taken off, saved, merged, compiled, quantised, offloaded."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from .bases import relative, same_bits
from .finding import Broken, Finding, Worst
from .maths import F64, NAMES, far, sentence
from .subject import NotApplicable, On, Subject


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items() if isinstance(t, Tensor)}


def _changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    """What is not as it was, in words; empty if all is."""
    if gone := sorted(before.keys() - after.keys()):
        return f"{gone[0]!r} is gone"
    if added := sorted(after.keys() - before.keys()):
        return f"{added[0]!r} has stayed behind"
    other = [name for name in before if not same_bits(before[name], after[name])]
    if not other:
        return ""
    return f"{other[0]!r} is off by {relative(after[other[0]], before[other[0]]):.2g}"


def restores(subject: Subject) -> Finding:
    worst, ways = Worst(), []
    for dtype in (torch.float32, torch.bfloat16):
        base = subject.base(dtype=dtype, deep=True)
        x = subject.inputs(base)
        before, flags = _snapshot(base), {name: p.requires_grad for name, p in base.named_parameters()}
        y = base(x).detach()
        on = subject.put_on(base)
        on.move_far()
        adapted = on(x).detach()
        on(x).float().square().mean().backward()
        try:
            with on.disabled():
                worst.compare(on(x), y, 0.0, f"outputs while disabled, {NAMES[dtype]}")
            worst.compare(on(x), adapted, 0.0, f"outputs enabled again, {NAMES[dtype]}")
            ways.append("disabled")
        except NotApplicable as reason:
            ways.append(f"not disabled: {reason}")
        try:
            plain = on.remove()
        except NotApplicable as reason:
            ways.append(f"not removed: {reason}")
            continue
        ways.append("removed")
        worst.compare(plain(x), y, 0.0, f"outputs after removal, {NAMES[dtype]}")
        if changed := _changed(before, _snapshot(plain)):
            raise Broken(f"after removal {changed} ({NAMES[dtype]})")
        if flags != {name: p.requires_grad for name, p in plain.named_parameters()} and subject.restores_flags:
            raise Broken("after removal other parameters require a gradient than before")
    if not {"disabled", "removed"} & set(ways):
        raise NotApplicable("; ".join(dict.fromkeys(ways)))
    return worst.finding(", ".join(dict.fromkeys(ways)))


def reload(subject: Subject) -> Finding:
    worst = Worst()
    for data in (False, True) if subject.takes_data else (False,):
        for dtype in (torch.float32, torch.bfloat16):
            base = subject.base(dtype=dtype, deep=True)
            x = subject.inputs(base)
            on = subject.put_on(base, data=data, seed=1)
            on.move_far()
            with tempfile.TemporaryDirectory() as folder:
                on.save(Path(folder))
                again = subject.load(subject.base(dtype=dtype, deep=True), Path(folder))
            where = f"{NAMES[dtype]}{', started from data' if data else ''}"
            with torch.no_grad():
                worst.compare(again(x), on(x), 0.0, where)
    return worst.finding(subject.on_reload)


def file(subject: Subject) -> Finding:
    return subject.file()


def wrong_base(subject: Subject) -> Finding:
    base = subject.base(deep=True)
    on = subject.put_on(base, seed=1)
    on.move_far()
    with tempfile.TemporaryDirectory() as folder:
        on.save(Path(folder))
        try:
            subject.load(subject.base(deep=True, seed=7), Path(folder))
        except NotApplicable:
            raise
        except Exception as error:
            return Finding(None, None, f"refused: {sentence(error)}")
    raise Broken("a base with other weights is accepted without a word")


# ---- merge ----------------------------------------------------------------------------------------

CYCLES = 50


def merge(subject: Subject) -> Finding:
    """In bf16 the sum is rounded once more than the two that were added: by a step at most."""
    worst = Worst()
    limits = {F64: subject.wide, torch.float32: 5e-6, torch.bfloat16: torch.finfo(torch.bfloat16).eps}
    for dtype, limit in limits.items():
        base, on = far(subject, dtype=dtype)
        x = subject.inputs(base)
        y = on(x).detach()
        worst.compare(on.merge()(x), y, limit, NAMES[dtype])
    return worst.finding()


def cycles(subject: Subject) -> Finding:
    worst = Worst()
    for dtype in (torch.float32, torch.bfloat16):
        base = subject.base(dtype=dtype)
        x, held = subject.inputs(base), base.proj.weight
        on = subject.put_on(base)
        on.move_far()
        before, y = held.detach().clone(), on(x).detach()
        if on.one_way:
            on.merge()
        else:
            for _ in range(CYCLES):
                on.cycle()
            worst.compare(on(x), y, 0.0, f"outputs, {NAMES[dtype]}")
        worst.compare(held, before, 0.0, f"the base's weight, {NAMES[dtype]}")
    return worst.finding("one way, into new tensors" if on.one_way else f"{CYCLES} cycles")


def deterministic(subject: Subject) -> Finding:
    def once() -> tuple[dict[str, Tensor], Tensor, On]:
        base = subject.base(deep=True)
        on = subject.put_on(base, seed=5)
        tensors = {name: t.detach().clone() for name, t in on.tensors().items()}
        return tensors, on(subject.inputs(base)).detach(), on

    (first, y, _), (second, z, on) = once(), once()
    if changed := _changed(first, second):
        raise Broken(f"put on again with the same seed {changed}")
    worst = Worst()
    worst.compare(z, y, 0.0, "outputs of the second")
    on.move_far()
    x = subject.inputs(on.base)
    worst.compare(on(x), on(x), 0.0, "the same input twice")
    return worst.finding()
