"""Judge of one layer's LoRA that somebody builds without the package: its tensors, and what it does to x and y."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..evidence import NOTHING, describe, draw, figure, isolate, relative
from ..verdict import Verdict, right, wrong
from .probes import ALPHA, D_IN, D_OUT, R, X, layer_of


def lora(answer: Any) -> Verdict:
    if not (isinstance(answer, type) and issubclass(answer, nn.Module)):
        return not_a("Lora", "a class that derives from nn.Module", answer)
    if bad := misfit("Lora", answer, 3) or misfit("Lora.forward", answer.forward, 3):
        return bad
    return (
        _parts(answer)
        or _at_start(answer)
        or _equation(answer)
        or _shapes(answer)
        or _flow(answer)
        or right(
            "It is x W'^T + b with W' = W + s B A to the last digits, far from the start, for any leading shape, and a "
            "gradient reaches A, B and x. At the start it adds an exact zero."
        )
    )


def module_of(cls: type[nn.Module], r: int = R, alpha: float = ALPHA, far: bool = True) -> nn.Module:
    torch.manual_seed(0)
    made = cls(layer_of().float(), r, alpha).double()
    if far:
        with torch.no_grad():
            made.A.copy_(draw(3, *made.A.shape) / D_IN**0.5)
            made.B.copy_(draw(4, *made.B.shape))
    return made


def failed(tried: str, saw: str, expected: str, experiment: str, question: str, *more: str) -> Verdict:
    return wrong(tried=tried, saw=saw, expected=expected, experiment=experiment, question=question, more=more)


def _parts(cls: type[nn.Module]) -> Verdict | None:
    made = cls(layer_of().float(), R, ALPHA)
    found = {name: tuple(p.shape) for name, p in made.named_parameters()}
    wanted = {"A": (R, D_IN), "B": (D_OUT, R)}
    frozen = [name for name, p in made.named_parameters() if not p.requires_grad]
    if found == wanted and not frozen:
        return None
    listed = ", ".join(f"{name} {shape}" for name, shape in found.items()) or "none"
    extra = [name for name in found if name not in wanted]
    return failed(
        f"I made one for a layer of {D_IN} inputs and {D_OUT} outputs, r = {R}, and asked for its parameters.",
        f"{', '.join(frozen)} takes no gradient." if found == wanted else f"{listed}.",
        f"A {wanted['A']} and B {wanted['B']}, both trained, and nothing else.",
        f"I looked for A and B as attributes: A is {_kind(made, 'A')}, B is {_kind(made, 'B')}.",
        "What does a module count among its parameters, and what becomes of a module that is its attribute?"
        if extra
        else "Which of the two is to learn, and who has told it not to?"
        if frozen
        else "What does an optimiser see of a tensor that is a plain attribute?",
        "A parameter is an nn.Parameter; a tensor that is set as an attribute is none.",
        "Only A and B are kept. Of the layer you need its two widths, and not the layer.",
    )


def _kind(module: nn.Module, name: str) -> str:
    value = getattr(module, name, None)
    return "missing" if value is None else "a parameter" if isinstance(value, nn.Parameter) else describe(value)


def _at_start(cls: type[nn.Module]) -> Verdict | None:
    y = layer_of()(X).detach()
    out = module_of(cls, far=False)(X.clone(), y.clone())
    if isinstance(out, Tensor) and torch.equal(out, y):
        return None

    def miss(zero: bool = False) -> float:
        given = torch.zeros_like(y) if zero else y
        return relative(module_of(cls, far=False)(X.clone(), given.clone()), given)

    odd = not isinstance(out, Tensor) or out.shape != y.shape
    return failed(
        "I called it at its start with an x and the y that the layer gives.",
        f"{describe(out)}." if odd else f"y moved by {figure(miss())} of its size.",
        f"{describe(y)}." if odd else "y, bit for bit.",
        isolate(miss, {"gave it y = 0": {"zero": True}}),
        "What is to be left of y where s B A x is zero?",
        "It gives the new output of the layer, not only what it adds.",
        "y comes in, and y plus something must come out.",
    )


def _equation(cls: type[nn.Module]) -> Verdict | None:
    def miss(r: int = R, alpha: float = ALPHA) -> float:
        made, layer = module_of(cls, r, alpha), layer_of()
        expected = F.linear(X, layer.weight + alpha / r * made.B @ made.A, layer.bias)
        return relative(made(X.clone(), layer(X)), expected)

    if miss() < 1e-7:  # s may be a float32 number
        return None
    made = module_of(cls)
    y = layer_of()(X)
    adds = (made(X.clone(), y.clone()) - y).norm() / (ALPHA / R * X @ made.A.T @ made.B.T).norm()
    return failed(
        f"I moved A and B far from their start, in float64, with r = {R} and alpha = {ALPHA}, on a layer with a bias.",
        f"the output misses x W'^T + b by {figure(miss())}; it adds {adds.item():.2g} times as much as s B A x.",
        "the same to the last digits.",
        isolate(miss, {"set alpha = r": {"alpha": R}, "set r = 1": {"r": 1}}),
        "Where do alpha and r come in, how often, and which index of A does x run along?",
        "If the miss goes with alpha = r, it is the scale; if it goes with r = 1, it is how A or B is turned.",
        "Write s B A x as two products, first with A and then with B, each with the transpose of what is stored.",
    )


def _shapes(cls: type[nn.Module]) -> Verdict | None:
    made, layer = module_of(cls), layer_of()
    flat = made(X.clone(), layer(X))
    for shape in ((D_IN,), (2, 4, 4, D_IN), (0, D_IN), (2, 0, D_IN)):
        rows = X[: max(1, torch.Size(shape[:-1]).numel())]
        x = rows.reshape(shape) if 0 not in shape else X.new_zeros(shape)
        expected = flat[: len(rows)].reshape(*shape[:-1], D_OUT) if 0 not in shape else X.new_zeros(*shape[:-1], D_OUT)
        try:
            out = made(x.clone(), layer(x))
        except Exception as error:
            said = f"it raised {type(error).__name__}"
        else:
            if isinstance(out, Tensor) and out.shape == expected.shape and torch.allclose(out, expected):
                continue
            said = describe(out)
        return failed(
            f"I gave it an x of shape {shape}.",
            f"{said}.",
            f"{describe(expected)}.",
            f"I gave it the same numbers as {len(flat)} plain rows, and it gave {describe(flat)}, which is right.",
            "Which axis of x does the product with A run along, and what is the rest to it?",
            "A model passes (batch, position, d_in); a single x is legal, and so is a batch of none.",
            "A product with a transposed matrix on the right, or F.linear, takes any leading shape as it is.",
        )
    return None


def _flow(cls: type[nn.Module]) -> Verdict | None:
    def gradients(own: bool) -> dict[str, Tensor | None]:
        made, x = module_of(cls), X.clone().requires_grad_()
        y = torch.zeros(len(X), D_OUT, dtype=torch.float64)
        out = made(x, y) if own else y + ALPHA / R * x @ made.A.T @ made.B.T
        if out.requires_grad:
            (out * draw(8, *out.shape)).sum().backward()
        return {"A": made.A.grad, "B": made.B.grad, "x": x.grad}

    seen, expected = gradients(True), gradients(False)
    off = {name: relative(seen[name], g) for name, g in expected.items() if not relative(seen[name], g) < NOTHING}
    if not off:
        return None
    name = next(iter(off))
    return failed(
        "I sent a gradient back through it, far from the start.",
        f"{name} {'has none' if seen[name] is None else f'has one that is off by {figure(off[name])}'}.",
        "for A, for B and for x the gradient of s B A x.",
        "I wrote the two products out with the same A and B, and all three had one; through yours "
        + ", ".join(f"{key}: {'none' if g is None else 'one'}" for key, g in seen.items())
        + ".",
        "Where on the way from the output back to it does the graph end?",
        "Something detaches, copies a value out, or runs without gradients.",
        "x needs its gradient as well: the layers below learn through it.",
    )


def misfit(name: str, function: Callable, count: int) -> Verdict | None:
    """The verdict on a function that cannot be called with so many arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError as error:
        return failed(
            f"I called {name} with {count} arguments, as the cell above has it.",
            f"it cannot be called so: {error}.",
            f"a {name} that takes {count}.",
            f"I read its signature: {inspect.signature(function)}.",
            "Which of its arguments were given, and which are yours?",
            "The first line was given; only the dots are to be filled in.",
            "Take the line with its name from the folded solution, and keep your own lines below it.",
        )
    return None


def not_a(name: str, kind: str, answer: Any) -> Verdict:
    return failed(
        f"I looked at what {name} is.",
        f"{describe(answer)}.",
        f"{kind}.",
        "I tried to call it as its docstring says, and there was nothing to call.",
        "Did another cell take the name for something else?",
        "Run the exercise's cell once more, then grade again.",
        "The first line of the cell, as it was given, makes it what it should be.",
    )
