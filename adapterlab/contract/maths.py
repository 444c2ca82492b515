"""Checks of what is computed: at the start, far from it, and in every shape."""

import contextlib
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bases import EPS32, Net, affine, linear, randn, relative
from .finding import Broken, Finding, Worst
from .subject import NotApplicable, On, Subject

F64 = torch.float64
NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def identity(subject: Subject) -> Finding:
    worst, seen = Worst(), []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        base = subject.base(dtype=dtype)
        x = subject.inputs(base, 256)
        before = base(x).detach()
        after = subject.put_on(base)(x)
        miss = _miss(after, before)
        seen.append(f"{NAMES[dtype]} {'bit for bit' if miss == 0 else f'{miss:.1g}'}")
        worst.add(miss, identity_limit(dtype), NAMES[dtype])
    return Finding(worst.figure, worst.limit, ", ".join(seen))


def identity_limit(dtype: torch.dtype) -> float:
    """What float32 arithmetic leaves, 40 of its steps. In lower precision that is below what an output can hold, but
    sends one in a few hundred across a rounding edge, by one step: a sixteenth of a step over all of them."""
    return 40 * EPS32 if dtype == torch.float32 else torch.finfo(dtype).eps / 16


def _miss(a: Tensor, b: Tensor) -> float:
    if a.dtype != b.dtype:
        raise Broken(f"the output is {a.dtype}, that of the base {b.dtype}")
    return relative(a, b)


# ---- the equation ---------------------------------------------------------------------------------


def far(subject: Subject, shape=None, *, bias=True, dtype=F64, seed=1, **options) -> tuple[nn.Module, On]:
    """A base with the adapter on, every trained number far from its start."""
    base = subject.base(shape, bias=bias, dtype=dtype, seed=seed, **options)
    on = subject.put_on(base, dtype=torch.promote_types(dtype, torch.float32), seed=seed)
    if not on.parameters():
        raise Broken("nothing is trained")
    on.move_far(seed)
    return base, on


def _against_equation(subject: Subject, shape, bias: bool) -> tuple[float, float]:
    """-> (miss of the equation, how far the output is from the base's)."""
    plain = subject.base(shape, bias=bias, dtype=F64, seed=1)
    base, on = far(subject, shape, bias=bias)
    x = 3 * subject.inputs(base)
    y, before = on(x), plain(x)
    equation = on.equation("proj")
    if equation is not None:
        W, b = equation
        expected = F.linear(x.to(W.dtype), W, b)
    else:  # the map that it is at zero and at the unit vectors, which must hold everywhere
        W, b = affine(on, x.shape[-1])
        expected = F.linear(x, W, b)
    miss = relative(y, expected)
    if equation is None:
        with contextlib.suppress(NotApplicable):
            miss = max(miss, relative(on.merge()(x), expected))
    return miss, relative(y, before)


def _equation(subject: Subject, bias: bool) -> Finding:
    worst, moved = Worst(), 1.0
    for shape in subject.shapes:
        miss, change = _against_equation(subject, shape, bias)
        worst.add(miss, subject.wide, f"{shape[0]} -> {shape[1]}")
        moved = min(moved, change)
    if not moved > 1e-3:
        raise Broken(
            f"with every parameter far from its start the output differs from the base's by {moved:.1g} only: there is "
            "nothing to compare"
        )
    return worst.finding()


def dense(subject: Subject) -> Finding:
    return _equation(subject, bias=False)


def bias(subject: Subject) -> Finding:
    return _equation(subject, bias=True)


def shapes(subject: Subject) -> Finding:
    base, on = far(subject)
    d_in = base.proj.in_features
    x = randn(12, d_in, seed=5)
    flat, worst = on(x), Worst()
    cases = {
        "(d,)": (x[0], flat[0]),
        "(n, d)": (x[:7], flat[:7]),
        "(a, b, d)": (x.view(3, 4, d_in), flat.view(3, 4, -1)),
        "(a, b, c, d)": (x.view(2, 3, 2, d_in), flat.view(2, 3, 2, -1)),
        "transposed in memory": (x.t().contiguous().t(), flat),
        "every other row": (x[::2], flat[::2]),
        "(0, d)": (x[:0], flat[:0]),
        "(2, 0, d)": (x[:0].view(2, 0, d_in), flat[:0].view(2, 0, flat.shape[-1])),
    }
    wrong = []
    for name, (given, expected) in cases.items():
        leaf = given.detach().requires_grad_()
        try:
            y = on(leaf)
            if y.shape != expected.shape:
                raise Broken(f"gives the shape {tuple(y.shape)}")
            y.sum().backward()
        except Exception as error:
            wrong.append(f"{name}: {sentence(error)}")
            continue
        worst.compare(y, expected, subject.wide, name)
    if wrong:
        raise Broken("; ".join(wrong))
    return worst.finding()


def sentence(error: BaseException, length: int = 160) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    text = text if len(text) <= length else text[: length - 3] + "..."
    return text if isinstance(error, Broken) else f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_refusal(error: Exception) -> bool:
    """Raised on purpose, and it says why."""
    return isinstance(error, (ValueError, TypeError, NotImplementedError)) and len(str(error).split()) >= 3


# ---- hyperparameters of the shape -----------------------------------------------------------------


def ranks(subject: Subject) -> Finding:
    worst, refused, took = Worst(), [], []
    for r in dict.fromkeys((1, 2, 3, 4, 5, 6, subject.rank or 1)):
        try:
            other = subject.with_rank(r)
            base, on = far(other)
        except NotApplicable:
            raise
        except Exception as error:
            if not re.search(r"\br\b|\brank", str(error)):
                raise Broken(f"r = {r}: {sentence(error)}, which does not name the rank") from error
            refused.append(r)
            continue
        took.append(r)
        for miss, limit, where in _holds(other):
            worst.add(miss, limit, f"{where} at r = {r}")
    if not took:
        raise Broken(f"refuses every rank of {refused}")
    refusals = f"refuses r = {', '.join(map(str, refused))}" if refused else ""
    return worst.finding(refusals)


def _holds(subject: Subject):
    base = subject.base()
    x = subject.inputs(base)
    before = base(x).detach()
    if "identity" not in subject.by_design:
        yield _miss(subject.put_on(base)(x), before), identity_limit(torch.float32), "identity"
    yield _against_equation(subject, subject.shape, True)[0], subject.wide, "equation"


# ---- kinds of layers ------------------------------------------------------------------------------


class Subclass(nn.Linear):
    """A linear layer of somebody's own."""


def _kinds(subject: Subject):
    """Name -> a base of one layer, and the shape of its inputs."""
    d_in, d_out = subject.shape

    def linear_like(make):
        layer = make(d_in, d_out)
        layer.load_state_dict(linear(d_in, d_out, dtype=F64, seed=4).state_dict())
        return Net(layer.to(F64)).eval()

    yield "a subclass of nn.Linear", lambda: linear_like(Subclass), (d_in,)
    try:
        from transformers.pytorch_utils import Conv1D
    except ImportError:
        pass
    else:

        def conv1d():
            layer, like = Conv1D(d_out, d_in).to(F64), linear(d_in, d_out, dtype=F64, seed=4)
            with torch.no_grad():
                layer.weight.copy_(like.weight.T)
                layer.bias.copy_(like.bias)
            return Net(layer).eval()

        yield "transformers' Conv1D", conv1d, (d_in,)

    def convolution(kernel):
        def make():
            layer = nn.Conv2d(d_in // 2, d_out // 2, kernel, padding=kernel // 2, dtype=F64)
            with torch.no_grad():
                layer.weight.copy_(randn(*layer.weight.shape, seed=4) / (d_in // 2 * kernel**2) ** 0.5)
                layer.bias.copy_(randn(d_out // 2, seed=5))
            return Net(layer).eval()

        return make

    for kernel in (1, 3):
        yield f"nn.Conv2d {kernel} x {kernel}", convolution(kernel), (d_in // 2, 4, 3)


def layers(subject: Subject) -> Finding:
    """Each kind is either refused with a sentence, or holds what `dense`, `bias` and `merge` ask of a linear layer."""
    worst, took, refused = Worst(), [], []
    for name, make, shape in _kinds(subject):
        try:
            base = make()
            on = subject.put_on(base, dtype=F64)
        except Exception as error:
            if not is_refusal(error):
                raise Broken(f"{name}: {sentence(error)}, which is no refusal in words") from error
            refused.append(name)
            continue
        took.append(name)
        x, plain = randn(5, *shape, seed=6), make()
        if "identity" not in subject.by_design:
            worst.add(_at_most_rounding(on(x), plain(x), subject), 0.0, f"{name}: identity")
        on.move_far(2)
        y = on(x)
        if not relative(y, plain(x)) > 1e-3:
            raise Broken(f"{name}: the adapter changes nothing")
        size = x[0].numel()

        def flat(rows, on=on, shape=shape):
            return on(rows.view(-1, *shape)).flatten(1)

        W, b = affine(flat, size)
        worst.compare(y.flatten(1), F.linear(x.flatten(1), W, b), subject.wide, f"{name}: affine")
        with contextlib.suppress(NotApplicable):
            worst.compare(on.merge()(x), y, subject.wide, f"{name}: merged")
    said = [f"takes {', '.join(took)}" if took else "", f"refuses {', '.join(refused)}" if refused else ""]
    return worst.finding("; ".join(filter(None, said)))


def _at_most_rounding(y: Tensor, before: Tensor, subject: Subject) -> float:
    """0 within 40 steps of float32, the miss where it is more."""
    miss = relative(y, before)
    return 0.0 if miss <= 40 * EPS32 else miss
