"""Judge of an adapter that somebody puts on a whole model by hooks, without the package."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..evidence import NOTHING, draw, figure, relative
from ..verdict import Verdict, right
from .built import failed, misfit, not_a
from .probes import ALPHA, R

ADAPTED = ("wide", "tall", "again")  # of the model below; the head is no target
NUMBERS = sum(R * (d_in + d_out) for d_in, d_out in ((24, 16), (16, 24), (24, 16)))


class Model(nn.Module):
    """Two layers of one shape, one of another without a bias, and a head."""

    def __init__(self):
        super().__init__()
        self.wide, self.tall = nn.Linear(24, 16), nn.Linear(16, 24, bias=False)
        self.again, self.lm_head = nn.Linear(24, 16), nn.Linear(16, 8)
        with torch.no_grad():
            for k, p in enumerate(self.parameters()):
                p.copy_(draw(20 + k, *p.shape) / p.shape[-1] ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.wide, self.tall, self.again):
            x = torch.tanh(layer(x))
        return self.lm_head(x)


X = draw(30, 16, 24, dtype=torch.float32)
calls: list[nn.Module] = []


def somebody_elses(layer: nn.Module, args: tuple, y: Tensor) -> None:
    calls.append(layer)


def adapter(answer: Any) -> Verdict:
    if not isinstance(answer, type):
        return not_a("Adapter", "a class", answer)
    if not callable(getattr(answer, "detach", None)):
        return not_a("Adapter.detach", "a method", getattr(answer, "detach", None))
    if bad := misfit("Adapter", answer, 3) or misfit("Adapter.detach", answer.detach, 1):
        return bad
    for judge in (_targets, _runs, _frozen, _at_start, _far, _copied, _detached):
        if bad := judge(answer):
            return bad
    return right(
        "At the start it is the base bit for bit; far from it every layer but the head passes through its `lora`; the "
        "base is frozen, a deep copy has numbers of its own, and detach leaves nothing behind."
    )


def put_on(cls: type, far: bool = False) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = Model()
    on = cls(model, R, ALPHA)
    if far:
        _move(model, 40)
    return model, on


@torch.no_grad()
def _move(model: nn.Module, seed: int) -> None:
    for k, name in enumerate(ADAPTED):
        part = model.get_submodule(name).lora
        part.A.copy_(draw(seed + k, *part.A.shape) / part.A.shape[1] ** 0.5)
        part.B.copy_(draw(seed + 5 + k, *part.B.shape))


def _targets(cls: type) -> Verdict | None:
    model, _ = put_on(cls)
    base, names = Model().state_dict(), [name for name, _ in model.named_modules(remove_duplicate=False)]
    if missing := [key for key in base if key not in model.state_dict()]:
        return failed(
            "I put it on a small model and looked for the base's own tensors.",
            f"{missing[0]} is gone from its state_dict.",
            f"all {len(base)} keys of the base, as they were.",
            f"I tried to load a checkpoint of the base: {len(missing)} of its {len(base)} keys found no place.",
            "What has happened to the layer that was there before?",
            "The layer stays what it is and where it is; it only gains a child.",
            "A hook changes what a layer gives without taking its place.",
        )
    have = [name.removesuffix(".lora") for name in names if name.endswith("lora")]
    complete = all(hasattr(getattr(model.get_submodule(n), "lora", None), "B") for n in ADAPTED)
    own = {p for n, p in model.named_parameters() if n not in base}
    numbers = sum(p.numel() for p in own)
    if sorted(have) == sorted(ADAPTED) and complete and numbers == NUMBERS:
        return None
    if sorted(have) == sorted(ADAPTED) and complete:
        same = model.wide.lora is model.again.lora or model.wide.lora.B is model.again.lora.B
        return failed(
            f"I put it on a model of three layers with r = {R}, and counted what is trained.",
            f"{numbers} numbers.",
            f"{NUMBERS}, which is r (d_in + d_out) over the layers.",
            f"I asked whether the two layers of one shape have one and the same B: {'yes' if same else 'no'}.",
            "How many A and B are there, and who made each?",
            "Every layer has matrices of its own, even where the shapes agree.",
            "Each turn of the loop over the layers makes a Lora.",
        )
    return failed(
        "I put it on a model of three linear layers and a head, `lm_head`.",
        f"a child `lora` on {', '.join(have) or 'no layer'}.",
        f"one, a Lora, on each of {', '.join(ADAPTED)}, and none on the head.",
        f"I listed the modules that the model has now: {', '.join(name for name in names if name)}.",
        "Which modules of a model are linear layers, and what sets the head apart from the rest?",
        "named_modules gives every module with its path; the head is known by its name alone.",
        "List the layers first and change them afterwards: a loop over a model that grows visits what it has grown.",
    )


def _runs(cls: type) -> Verdict | None:
    model, _ = put_on(cls)
    try:
        model(X)
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    else:
        return None
    try:
        by_hand(model)
        alone = "they ran: it is the hook"
    except Exception:
        alone = "that raised too: it is Lora, and its own grader says more"
    return failed(
        "I put it on and ran the model.",
        f"it raised {said}.",
        "an output.",
        f"I called the layers and their `lora` by hand, without a hook, and {alone}.",
        "What is your hook given, in which order, and what does it hand on to the layer's `lora`?",
        "A hook is called with the layer, the tuple of its inputs, and its output.",
        "The input is the first of that tuple, and not the tuple.",
    )


def _frozen(cls: type) -> Verdict | None:
    model, _ = put_on(cls)
    base = Model().state_dict()
    free = [n for n, p in model.named_parameters() if n in base and p.requires_grad]
    dead = [n for n, p in model.named_parameters() if n not in base and not p.requires_grad]
    if not free and not dead:
        return None
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad] or [torch.zeros(1)], 0.1)
    if free or len(dead) < 2 * len(ADAPTED):
        model(X).square().sum().backward()
    optimiser.step()
    moved = [n for n, p in model.named_parameters() if n in base and not torch.equal(p, base[n])]
    return failed(
        "I put it on and asked every parameter whether it takes a gradient.",
        f"{len(free)} of the base's {len(base)} do; of A and B {len(dead)} do not.",
        "none of the base's, and every A and B.",
        f"I took one step with an optimiser: {len(moved)} of the base's tensors moved.",
        "Who is to move, who is not, and in which order do you say so?",
        "A new nn.Parameter takes gradients; what was there before must be told not to.",
        "Freeze the whole model, and then put A and B on it.",
    )


def _at_start(cls: type) -> Verdict | None:
    model, _ = put_on(cls)
    expected = Model()(X)
    out = model(X)
    if isinstance(out, Tensor) and torch.equal(out, expected):
        return None
    with torch.no_grad():
        for name in ADAPTED:
            model.get_submodule(name).lora.B.zero_()
    zero = model(X)
    return failed(
        "I put it on and ran the model before any step.",
        f"an output off the base's by {figure(relative(out, expected))}.",
        "the base's output, bit for bit.",
        f"I set every B to zero, and the miss went to {figure(relative(zero, expected))}.",
        "What does the hook give back, and what happens to what it gives?",
        "What a hook returns takes the place of the layer's output.",
        "If the miss stays with B at zero, what comes back is not y plus something.",
    )


def by_hand(model: nn.Module) -> Tensor:
    """The adapted model's output without any hook, each layer's `lora` called on what the layer gives."""
    base, x = Model(), X
    for name in ADAPTED:
        layer = base.get_submodule(name)
        x = torch.tanh(model.get_submodule(name).lora(x, layer(x)))
    return base.lm_head(x)


def _far(cls: type) -> Verdict | None:
    model, _ = put_on(cls, far=True)
    out, base, expected = model(X), Model(), by_hand(model)
    if relative(out, expected) < NOTHING:
        return None
    x = draw(50, 3, 24, dtype=torch.float32)
    alone = {n: len(model.get_submodule(n)._forward_hooks) for n in ADAPTED}
    inert = torch.equal(out, base(X))
    said = "the base's, bit for bit" if inert else f"off by {figure(relative(out, expected))}"
    hooks = ", ".join(f"{n} has {k}" for n, k in alone.items())
    by_layer = torch.equal(model.wide(x), F.linear(x, base.wide.weight, base.wide.bias))
    return failed(
        "I moved every A and B far from their start and ran the model.",
        f"the output is {said}.",
        "the output that the layers and their `lora` give when they are called by hand, one after the other.",
        f"I counted the hooks that run after a layer ({hooks}) and ran the first layer alone: it "
        f"{'adds nothing' if by_layer else 'adds something'}.",
        "When is your hook called, with what, and what does it return?" if inert else "How often is y added to?",
        "register_forward_hook calls it as hook(layer, args, y), once per hook that is there.",
        "A hook that returns nothing leaves the output as it was.",
    )


def _copied(cls: type) -> Verdict | None:
    model, _ = put_on(cls, far=True)
    before = model(X)
    try:
        other = copy.deepcopy(model)
        same = other(X)
        _move(other, 60)
        moved, kept = not torch.equal(other(X), same), torch.equal(model(X), before)
    except Exception as error:
        moved, kept, same = False, True, f"{type(error).__name__}: {error}"
    if isinstance(same, Tensor) and moved and kept and torch.equal(same, before):
        return None
    with torch.no_grad():
        for name in ADAPTED:
            model.get_submodule(name).lora.B.zero_()
    try:
        follows = "moved with them" if not torch.equal(other(X), same) else "did not move"
    except Exception:
        follows = "could not be run"
    return failed(
        "I made a deep copy of the adapted model and moved the A and B of the copy.",
        f"{same}." if isinstance(same, str) else f"the copy's output {'moved' if moved else 'did not move'}.",
        "an output of the copy that follows its own A and B, and an original that stays.",
        f"I set the original's B to zero, and the copy {follows}.",
        "Which A and B does your hook use: those of the layer it is called with, or those it met when it was made?",
        "A function is not copied, and neither is what it has closed over: a lambda keeps the old matrices.",
        "A hook is told which layer it runs for. Everything it needs can be found from there.",
    )


def _detached(cls: type) -> Verdict | None:
    model, base = Model(), Model()
    handles = [model.get_submodule(name).register_forward_hook(somebody_elses) for name in ADAPTED]
    torch.manual_seed(0)
    on = cls(model, R, ALPHA)
    _move(model, 40)
    on.detach()
    calls.clear()
    try:
        out: Any = model(X)
    except Exception as error:
        out = f"{type(error).__name__}: {error}"
    ran, miss = len(calls), relative(out, base(X))
    calls.clear()
    for handle in handles:
        handle.remove()
    left = [name for name, _ in model.named_modules() if name.endswith("lora")]
    hooks = sum(len(model.get_submodule(name)._forward_hooks) for name in ADAPTED)
    if miss == 0 and torch.equal(out, base(X)) and not left and not hooks and ran == len(ADAPTED):
        return None
    before = base.state_dict()
    changed = [n for n, p in model.named_parameters() if n in before and not torch.equal(p, before[n])]
    if changed:
        question = "Which tensors may putting on, training and taking off write to?"
    elif hooks or left:
        question = "What did putting it on add to each layer, and which of it is still there?"
    else:
        question = "Whose hooks are on a layer, and which of them are yours to take off?"
    return failed(
        "I hung a hook of my own on every layer, put the adapter on, moved its numbers, and called detach.",
        f"{f'the model raised {out}' if isinstance(out, str) else f'the output misses the base by {figure(miss)}'}"
        f"; left behind: {len(left)} children `lora`, {hooks} hooks; of my own {len(ADAPTED)} hooks {ran} ran.",
        "the base bit for bit, nothing left behind, and my hooks untouched.",
        f"I compared the base's own tensors with what they had been: {len(changed)} have changed.",
        question,
        "register_forward_hook returns a handle, and the handle can remove that hook and no other.",
        "Two things were added to each layer: a hook and a child. Keep the handles of the one, delete the other.",
    )
