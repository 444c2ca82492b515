"""Checks of what moves: gradients, steps, and what each number is good for."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bases import affine, randn, relative
from .finding import Broken, Finding, Worst
from .maths import F64, NAMES, far, sentence
from .subject import On, Subject

ALIVE = 0.25
GRADIENTS = (
    f"At the start at least {ALIVE:.0%} of the trained numbers have a gradient, after one step all tensors have one, "
    "each is the equation's, and the base has none."
)
FIRST_STEP = "A rate a hundred times smaller makes the first step of W' at least ten times smaller."


def loss_of(y: Tensor) -> Tensor:
    """Its gradient is different in every output, and for a zero output too."""
    target = randn(*y.shape, seed=11, dtype=F64).to(y)
    return (y.float() if y.dtype.itemsize < 4 else y).sub(target).square().mean()


def gradients_of(on: On, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
    """By parameter; zeros where there is none."""
    parameters = on.parameters()
    loss = loss_of(on(x) if y is None else y)
    if not loss.requires_grad:
        return {n: torch.zeros_like(p) for n, p in parameters.items()}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), found)}


@torch.no_grad()
def step(on: On, gradients: dict[str, Tensor], lr: float) -> None:
    """The first step of Adam: every number by the rate, down its gradient."""
    for name, p in on.parameters().items():
        p.sub_(lr * gradients[name].sign().to(p.dtype))


def gradients(subject: Subject) -> Finding:
    base = subject.base(dtype=F64)
    before = set(base.parameters())
    x = subject.inputs(base)
    on = subject.put_on(base, dtype=F64)
    on.model.train()  # some have numbers that act in training alone
    parameters = on.parameters()
    if not parameters:
        raise Broken("nothing is trained")
    if subject.trained is not None:
        names = {name.rpartition(".")[2] for name in parameters}
        if names != subject.trained:
            raise Broken(f"trains {', '.join(sorted(names))}, where {', '.join(sorted(subject.trained))} are to be")
    if theirs := [name for name, p in parameters.items() if p in before]:
        raise Broken(f"trains {theirs[0]}, which is the base's")
    worst = Worst()
    for when in ("at the start", "after one step", "far from it"):
        found = gradients_of(on, x)
        equation = on.equation("proj")
        if equation is not None:
            expected = gradients_of(on, x, F.linear(x, *equation))
            size = max(g.norm() for g in expected.values())
            for name, g in found.items():
                miss = (g - expected[name]).norm() / max(expected[name].norm(), 1e-3 * size)
                worst.add(miss.item(), max(subject.wide, 1e-9), f"{name} {when}, against the equation's")
        if when == "at the start":
            dead = {name: int((g == 0).sum()) for name, g in found.items()}
            share = sum(dead.values()) / sum(p.numel() for p in parameters.values())
            if share > 1 - ALIVE:
                names = ", ".join(name for name, n in dead.items() if n == parameters[name].numel())
                raise Broken(
                    f"{share:.0%} of the trained numbers have no gradient at the start ({names})", share, 1 - ALIVE
                )
            step(on, found, 1e-2)
        elif when == "after one step":
            if still := [name for name, g in found.items() if not g.any()]:
                raise Broken(f"{', '.join(still)}: no gradient, not even after a step")
            on.move_far()
    loss_of(on(x)).backward()
    if any(p.grad is not None for p in before):
        raise Broken("a parameter of the base has a gradient")
    found = worst.finding()
    if worst.figure > worst.limit:
        return found
    compared = "" if equation is None else f"; the equation's to {worst.figure:.1g}"
    return Finding(share, 1 - ALIVE, f"without a gradient at the start: {share:.0%} of the trained numbers{compared}")


def finite(subject: Subject) -> Finding:
    cases = 0
    for r in dict.fromkeys((subject.rank, 1, 2)):
        try:
            one = subject if r == subject.rank else subject.with_rank(r)
            one.put_on(one.base())
        except Exception:  # `ranks` judges refusals
            continue
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for stored in dict.fromkeys((torch.float32, dtype)):
                base = one.base(dtype=dtype)
                x = one.inputs(base)
                on = one.put_on(base, dtype=stored)
                for when in ("at the start", "after a step"):
                    y = on(x)
                    found = gradients_of(on, x, y)
                    where = f"{when}, base in {NAMES[dtype]}, adapter in {NAMES[stored]}{f', r = {r}' if r else ''}"
                    if not y.isfinite().all():
                        raise Broken(f"{_share(y)} of the outputs are not finite {where}")
                    for name, g in found.items():
                        if not g.isfinite().all():
                            raise Broken(f"{_share(g)} of the gradient of {name} are not finite {where}")
                    step(on, found, 1e-3)
                    cases += 1
    return Finding(0.0, 0.0, f"{cases} cases")


def _share(t: Tensor) -> str:
    return f"{1 - t.isfinite().float().mean().item():.0%}"


# ---- what each thing is good for ------------------------------------------------------------------


def fields(subject: Subject) -> Finding:
    """A field that matters only beside another value of another field, as an angle does where something turns, is tried
    beside those too."""
    idle, refused = [], []
    for name in subject.alternatives():
        felt, took = _is_felt(subject, name)
        if took and not felt:
            others = subject.alternatives()
            beside = (other for field in others if field != name for other, _ in _made(others[field]) if other)
            felt = any(_is_felt(other, name)[0] for other in beside)
        if not took:
            refused.append(name)
        elif not felt:
            idle.append(name)
    if idle:
        raise Broken(f"{', '.join(idle)}: another value changes nothing", float(len(idle)), 0.0)
    return Finding(0.0, 0.0, f"{', '.join(refused)}: every other value tried is refused" if refused else "")


def _is_felt(subject: Subject, name: str) -> tuple[bool, bool]:
    """Whether another value of this field changes anything, and whether another value is taken at all."""
    others = subject.alternatives()[name]
    if not others:
        raise Broken(f'{name}: no other value is known to try; field(metadata={{"other": [...]}}) names some')
    before, took, crashed = _fingerprint(subject), False, None
    for other, error in _made(others):
        if other is None:
            crashed = crashed if isinstance(error, (ValueError, NotImplementedError, ImportError)) else error
            continue
        took = True
        if not _same(before, _fingerprint(other)):
            return True, True
    if crashed is not None and not took:
        raise Broken(f"{name}: {sentence(crashed)}, which is no refusal") from crashed
    return False, took


def _made(others) -> Iterator[tuple[Subject | None, Exception | None]]:
    """Each, or the error with which it is refused, at once or when it is put on."""
    for make in others:
        try:
            other = make()
            other.put_on(other.base(dtype=F64, deep=True), dtype=F64)
        except Exception as error:
            yield None, error
        else:
            yield other, None


def _fingerprint(subject: Subject) -> list[Tensor]:
    """All that a hyperparameter may change: tensors at the start, from data too, and outputs and gradients far from
    it, in train mode."""
    found = []
    for data in (False, True) if subject.takes_data else (False,):
        base = subject.base(dtype=F64, deep=True)
        x = subject.inputs(base)
        on = subject.put_on(base, dtype=F64, data=data, seed=2)
        found += [t.detach().clone() for t in on.tensors().values()]
        on.move_far()
        on.model.train()
        torch.manual_seed(0)
        y = on(x)
        found += [y.detach(), *gradients_of(on, x, y).values()]
    return found


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(p.shape == q.shape and relative(p, q) < 1e-9 for p, q in zip(a, b))


@torch.no_grad()
def parameters(subject: Subject) -> Finding:
    base, on = far(subject)
    x = subject.inputs(base)
    y, idle = on(x), []
    for i, (name, p) in enumerate(on.parameters().items()):
        kept = p.detach().clone()
        p.copy_(p * 1.5 + 0.2 * randn(*p.shape, seed=40 + i).to(p))
        if not relative(on(x), y) > 1e-6:
            idle.append(name)
        p.copy_(kept)
    if idle:
        raise Broken(f"{', '.join(idle)}: another value changes no output", float(len(idle)), 0.0)
    k = len(on.parameters())
    return Finding(0.0, 0.0, f"{k} tensors in turn" if k > 1 else "one tensor")


# ---- eval mode ------------------------------------------------------------------------------------


def eval_train(subject: Subject) -> Finding:
    def trained(look: bool) -> list[Tensor]:
        base, on = far(subject, dtype=torch.float32)
        x = subject.inputs(base)
        seen = []
        for _ in range(3):
            if look:
                on.model.eval()
                with torch.no_grad():
                    on(x)
            on.model.train()
            torch.manual_seed(0)
            y = on(x)
            found = gradients_of(on, x, y)
            seen += [y.detach(), *found.values()]
            step(on, found, 1e-2)
        return seen

    worst = Worst()
    for k, (a, b) in enumerate(zip(trained(True), trained(False))):
        worst.compare(a, b, 0.0, "outputs" if k == 0 else "a later output or gradient")
    return worst.finding()


def in_place(subject: Subject) -> Finding:
    worst = Worst()

    def put_on() -> tuple[nn.Module, On]:
        base, on = far(subject, dtype=torch.float32)
        on.model.eval()
        return base, on

    def edit(on: On, through_data: bool) -> None:
        with torch.no_grad():
            for i, p in enumerate(on.parameters().values()):
                (p.data if through_data else p).mul_(1.5).add_(0.1 * randn(*p.shape, seed=60 + i).to(p))

    for way in ("in place", "through .data, which no version counter sees"):
        for look in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            base, on = put_on()
            x = subject.inputs(base)
            with look():
                first = on(x).clone()
            edit(on, way != "in place")
            _, fresh = put_on()
            edit(fresh, way != "in place")
            with torch.no_grad():
                expected = fresh(x)
                if not relative(expected, first) > 1e-6:
                    raise Broken("the edit changes nothing to begin with")
                worst.compare(on(x), expected, 0.0, f"edited {way}, first pass under {look.__name__}")
    return worst.finding()


# ---- steps ----------------------------------------------------------------------------------------

RATES = 1e-2, 1e-4  # the second is above every clamp of a norm that is in use, 1e-4 of a vector


def first_step(subject: Subject) -> Finding:
    from ..variants import LoRA
    from .subject import Ours

    moved = [_moved(subject, lr) for lr in RATES]
    lora = Ours(LoRA(r=subject.rank or 4, alpha=2 * (subject.rank or 4)))
    if not moved[0] > 0:
        raise Broken("the first step does not move W'")
    figure = moved[1] / moved[0] * RATES[0] / RATES[1]
    note = (
        f"at a rate of {RATES[0]:g} the first step moves W' by {moved[0]:.2g} of its norm (LoRA "
        f"{_moved(lora, RATES[0]):.2g}), at {RATES[1]:g} by {moved[1]:.2g}"
    )
    return Finding(figure, 10.0, note)


def _moved(subject: Subject, lr: float) -> float:
    """|W' after the first step - W' before| / |W'|."""
    base = subject.base(dtype=F64)
    x = subject.inputs(base)
    on = subject.put_on(base, dtype=F64)
    before, _ = affine(on, x.shape[-1])
    step(on, gradients_of(on, x), lr)
    return relative(affine(on, x.shape[-1])[0], before)


STEPS, STILL = 10, 0.1


def moves(subject: Subject) -> Finding:
    worst = Worst()
    for stored in (torch.float32, torch.bfloat16):
        base = subject.base(dtype=stored)
        x = subject.inputs(base)
        on = subject.put_on(base, dtype=stored)
        on.model.train()
        start = {name: p.detach().clone() for name, p in on.parameters().items()}
        optimizer = torch.optim.AdamW(on.parameters().values(), lr=subject.lr, weight_decay=0.0)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss_of(on(x)).backward()
            optimizer.step()
        still = sum(int((p == start[name]).sum()) for name, p in on.parameters().items())
        total = sum(p.numel() for p in start.values())
        worst.add(still / total, STILL, f"stored in {NAMES[stored]}")
    return worst.finding(f"{STEPS} steps of AdamW at {subject.lr:g}")
