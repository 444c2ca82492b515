"""Checks of the places that adapters are used in: compiled, on quantised weights, offloaded."""

import contextlib
import importlib.util
import logging

import torch
from torch import Tensor, nn

from ..weights import dense_weight
from .bases import Net, relative
from .finding import Broken, Finding, Worst
from .maths import is_refusal, sentence
from .subject import NotApplicable, On, Subject
from .training import gradients_of, loss_of

# ---- torch.compile ----------------------------------------------------------------------------------


def compile(subject: Subject) -> Finding:
    """By the backend aot_eager: it traces forward and backward as inductor does, and needs no C compiler."""
    worst = Worst()
    for order in ("before", "after"):
        torch.compiler.reset()
        # Frozen from the start: requires_grad is guarded, and a base that is frozen only now is compiled again anyway.
        base = subject.base(deep=True).requires_grad_(False)
        x = subject.inputs(base)
        if order == "before":
            fast = torch.compile(base, backend="aot_eager")
            fast(x)
        on = subject.put_on(base)
        on.move_far()
        if order == "after":
            fast = torch.compile(on.model, backend="aot_eager")
        elif relative(base(x), on(x)) > 1e-6:
            continue  # a wrapper: the base goes on without the adapter, compiled or not
        for mode in (True, False):
            on.model.train(mode)
            base.train(mode)
            where = f"compiled {order} it was put on, {'train' if mode else 'eval'} mode"
            torch.manual_seed(0)
            expected = on(x)
            torch.manual_seed(0)
            y = fast(x)
            worst.compare(y, expected, 5e-6, where)
            for (name, a), b in zip(gradients_of(on, x, y).items(), gradients_of(on, x, expected).values()):
                worst.compare(a, b, 5e-6, f"gradient of {name}, {where}")
    torch.compiler.reset()
    return worst.finding()


# ---- quantised weights --------------------------------------------------------------------------------

# bitsandbytes rounds the inputs of an int8 layer to 8 bits as well.
KINDS = {"int8": 3e-2, "nf4": 1e-4, "fp4": 1e-4}


def quantised(subject: Subject) -> Finding:
    """The outputs on a quantised weight are those on the weight that it stands for; and a pass in eval mode, which may
    repack the weight on some processors, leaves gradients as they are."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise NotApplicable("bitsandbytes is not installed")
    worst, refused, raised = Worst(), [], []
    with _quiet("bitsandbytes"):
        for kind, limit in KINDS.items():
            base, twin = _quantised(subject, kind)
            x = subject.inputs(base).unflatten(0, (4, -1))  # as in a language model: some work on rows alone
            try:
                on = subject.put_on(base)
            except Exception as error:
                if not is_refusal(error):
                    raise Broken(f"{kind}: {sentence(error)}, which is no refusal in words") from error
                refused.append(kind)
                continue
            try:
                _one(subject, kind, limit, on, twin, x, worst)
            except Exception as error:  # said after the others, which may be wrong without a word
                raised.append(f"{kind}: {sentence(error)}")
    if len(refused) == len(KINDS):
        raise NotApplicable(f"refuses {', '.join(refused)}")
    if raised:
        silent = [f"{worst.where}: off by {worst.figure:.2g}"] if worst.figure > worst.limit else []
        raise Broken("; ".join(silent + raised), worst.figure, worst.limit)
    return worst.finding(f"refuses {', '.join(refused)}" if refused else "")


def _one(subject: Subject, kind: str, limit: float, on: On, twin: nn.Module, x: Tensor, worst: Worst) -> None:
    on.model.train()
    on.move_far()
    like = subject.put_on(twin)
    like.model.train()
    like.move_far()
    trained, wanted = ({name: tuple(p.shape) for name, p in o.parameters().items()} for o in (on, like))
    if trained != wanted:
        raise Broken(f"trains {_named(trained)} instead of {_named(wanted)}, without a word")
    with torch.no_grad():  # the start may have followed the weight's last digits
        for name, p in like.parameters().items():
            p.copy_(on.parameters()[name])
    y, expected = _seeded(on, x), _seeded(like, x)
    worst.compare(y, expected, limit, f"{kind}, against the dense weight")
    before = gradients_of(on, x, y)
    for name, g in gradients_of(like, x, expected).items():
        worst.compare(before[name], g, 10 * limit, f"{kind}, gradient of {name}")
    passed_on = _input_gradient(on, x)
    on.model.eval()
    like.model.eval()
    with torch.no_grad():
        worst.compare(on(x), like(x), limit, f"{kind}, in eval mode")
    on.model.train()
    try:
        after = gradients_of(on, x, _seeded(on, x))
        worst.compare(
            _input_gradient(on, x), passed_on, limit, f"{kind}, gradient of the input after a pass in eval mode"
        )
    except RuntimeError as error:
        raise Broken(f"no gradient after a pass in eval mode: {sentence(error)}") from error
    for name, g in after.items():
        worst.compare(g, before[name], limit, f"{kind}, gradient of {name} after a pass in eval mode")


def _named(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _seeded(on: On, x: Tensor) -> Tensor:
    """Some draw numbers in training."""
    torch.manual_seed(0)
    return on(x)


def _input_gradient(on: On, x: Tensor) -> Tensor:
    """What the layer passes on to the layers before it."""
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(loss_of(_seeded(on, leaf * 1)), leaf)[0]  # the output of another layer is no leaf


def _quantised(subject: Subject, kind: str) -> tuple[nn.Module, nn.Module]:
    """A base whose layer is stored so, with the flag that transformers sets; and one of the weight it stands for."""
    import bitsandbytes as bnb

    plain = subject.base(subject.in_blocks)
    d_in, d_out = plain.proj.in_features, plain.proj.out_features
    if kind == "int8":
        layer = bnb.nn.Linear8bitLt(d_in, d_out, has_fp16_weights=False)
    else:
        layer = bnb.nn.Linear4bit(d_in, d_out, quant_type=kind, compress_statistics=False, compute_dtype=torch.float32)
    layer.load_state_dict(plain.proj.state_dict())
    layer = layer.to("cpu")
    layer.bias.data = layer.bias.data.float()
    base = Net(layer).requires_grad_(False)
    base.is_loaded_in_8bit, base.is_loaded_in_4bit = kind == "int8", kind != "int8"
    twin = subject.base((d_in, d_out))
    with torch.no_grad():
        twin.proj.weight.copy_(dense_weight(layer))
    return base, twin


@contextlib.contextmanager
def _quiet(name: str):
    """Without the warnings that it logs: bitsandbytes says at each call that it casts its inputs."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


# ---- offloading -----------------------------------------------------------------------------------------


def offload(subject: Subject) -> Finding:
    """accelerate keeps the weights elsewhere and lends them to each module for its own call: what is kept in a
    container that is never called is read without them, unless accelerate is told to lend all of a class at once."""
    if importlib.util.find_spec("accelerate") is None:
        raise NotApplicable("accelerate is not installed")
    try:
        found = _offloaded(subject)
        failed = None if found.figure <= found.limit else "reads memory that nobody has written"
    except Exception as error:
        failed = sentence(error)
    if failed is None:
        return found
    cure = ""
    if classes := getattr(subject, "lent_at_once", None):
        with contextlib.suppress(Exception):
            told = _offloaded(subject, classes)
            cure = "; right with preload_module_classes" if told.figure <= told.limit else ""
    raise Broken(failed + cure)


@contextlib.contextmanager
def as_strict():
    """What is set of torch.use_deterministic_algorithms inside is taken back."""
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


def _offloaded(subject: Subject, classes: list[str] | None = None) -> Finding:
    from accelerate import cpu_offload

    base = subject.base(deep=True)
    x = subject.inputs(base)
    on = subject.put_on(base)
    on.move_far()
    worst = Worst()
    with torch.no_grad():
        expected = on(x)
        with as_strict():
            # Memory that nobody has written may hold the right numbers by chance: so it holds NaN.
            torch.use_deterministic_algorithms(True, warn_only=True)
            cpu_offload(on.model, execution_device="cpu", preload_module_classes=classes)
            worst.compare(_real(on(x)), expected, 5e-6, "outputs")
            if subject.onto_offloaded:
                on = subject.put_on(cpu_offload(subject.base(deep=True), execution_device="cpu"))
                on.move_far()
                worst.compare(_real(on(x)), expected, 5e-6, "outputs, put on after")
    return worst.finding()


def _real(y: Tensor) -> Tensor:
    if y.is_meta:
        raise Broken("the output is on the meta device: something ran without its numbers")
    return y
