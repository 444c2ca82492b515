"""What may show a failure with PEFT alone, by check; the first that does is kept.

A line of imports, then three where that is possible: the method on a layer, what is done to it, what is seen. More
where the method needs a preparation of its own, or where a fault shows only beside a second model.
"""

import re
from collections.abc import Iterator

from ..contract.of_peft import OfPeft
from ..peft_methods import METHODS, Method
from .lines import FAR, FOLDER, OFF, Lines, Reproducer


class Unshown(Exception):
    """A check fails a method of PEFT's, and no lines show it with PEFT alone."""


ACCIDENTS = "RuntimeError", "AttributeError", "KeyError", "IndexError", "NotImplementedError"
ERRORS = *ACCIDENTS, "ValueError", "TypeError"  # which may be refusals


def _either(code: str, kinds: tuple[str, ...] = ERRORS, **fault) -> Iterator[Reproducer]:
    """What it prints is wrong, or it never gets there."""
    yield Reproducer(code, **fault)
    for kind in kinds:
        yield Reproducer(code, raises=kind)


def _identity(method: Method, note: str = "", ranks=(4,), dtypes=("float32", "bfloat16", "float16")):
    limits = {"float32": 5e-6, "bfloat16": 2**-12, "float16": 2**-15}
    for r in ranks:
        for dtype in dtypes:
            lines = Lines(method, r, dtype)
            head = f"base = {lines.base}; {lines.x}; y = base(x)"
            yield Reproducer(lines.code(head, *lines.put_on("base"), OFF), limit=limits[dtype])


def _shapes(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    for shape in ((24,), (2, 3, 4, 24), (0, 24)):
        x = f"torch.randn({', '.join(map(str, shape))})"
        code = lines.code(*lines.model(), f"print(tuple(model({x}).shape))")
        yield from _either(code, expected=str((*shape[:-1], 16)))


def _finite(method: Method, note: str) -> Iterator[Reproducer]:
    for upcast in (True, False):
        for dtype in ("bfloat16", "float16"):
            lines = Lines(method, dtype=dtype, upcast=upcast)
            end = f"{lines.then_x}print(model(x).isfinite().all().item())"
            yield Reproducer(lines.code(*lines.model(), end), expected="True")


def _fields(method: Method, note: str) -> Iterator[Reproducer]:
    names = note.partition(":")[0].split(", ")
    others = OfPeft(method).alternatives()
    values = [{name: others[name][0]().changes[name]} for name in names]
    lines = Lines(method)
    code = lines.code(
        "def run(**more):",
        f"    torch.manual_seed(0); model = peft.get_peft_model({lines.base}, {lines.config(', **more')})",
        f"    torch.manual_seed(1); {FAR}; return model.train()(torch.ones(2, 24))",
        f"print(*[torch.equal(run(), run(**one)) for one in {values}])",
    )
    yield Reproducer(code, expected=" ".join(["False"] * len(values)))


def _reload(method: Method, note: str) -> Iterator[Reproducer]:
    for far in ("", f"{FAR}; "):
        for dtype in ("float32", "bfloat16"):
            lines = Lines(method, dtype=dtype)
            code = lines.code(
                f"base = {lines.base}; fresh = copy.deepcopy(base); {lines.x}",
                *lines.put_on("base"),
                f"{far}y = model(x); model.save_pretrained(folder)",
                f"model = peft.PeftModel.from_pretrained(fresh, folder).eval(); {OFF}",
                imports=("copy", "tempfile"),
                then=FOLDER,
            )
            yield from _either(code, limit=1e-6)


def _wrong_base(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    code = lines.code(
        *lines.model(),
        "model.save_pretrained(folder)",
        f"peft.PeftModel.from_pretrained(nn.Sequential({lines.layer}), folder); print('loaded on other weights')",
        imports=("tempfile",),
        then=FOLDER,
    )
    yield Reproducer(code, expected="an error")


def _cycles(method: Method, note: str) -> Iterator[Reproducer]:
    fifty = "[(model.merge_adapter(), model.unmerge_adapter()) for _ in range(50)]"
    for dtype in ("bfloat16", "float32"):
        lines = Lines(method, dtype=dtype)
        for far in (FAR, FAR.replace("0.1 * ", "")):
            outputs = f"{far}; {lines.then_x}y = model(x)"
            yield Reproducer(lines.code(*lines.model(), outputs, f"{fifty}; {OFF}"), limit=0.0)
            weight = f"{far}; w = model.get_base_model()[0].weight; y = w.clone()"
            off = OFF.replace("model(x)", "model.get_base_model()[0].weight")
            yield Reproducer(lines.code(*lines.model(), weight, f"{fifty}; {off}"), limit=0.0)


def _ranks(method: Method, note: str) -> Iterator[Reproducer]:
    worst = re.search(r"r = (\d+)", note)
    r = int(worst.group(1)) if worst else 1
    yield from _identity(method, ranks=(r,))
    lines = Lines(method, r)
    yield Reproducer(lines.code(*lines.model()), raises="ValueError")


def _first_step(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    code = lines.code(
        *lines.model(),
        f"{lines.then_x}y = model(x).detach(); model(x).square().sum().backward()",
        f"[p.data.sub_(1e-4 * p.grad.sign()) for p in model.parameters() if p.requires_grad]; {OFF}  # a step at 1e-4",
    )
    yield Reproducer(code, limit=1e-2)


def _moves(method: Method, note: str) -> Iterator[Reproducer]:
    """Numbers without a gradient never move; others may be too small a step away from where they are."""
    lines = Lines(method)
    share = "print((g == 0).float().mean().item())"
    code = lines.code(
        *lines.model(),
        f"{FAR}; {lines.then_x}model.train()(x).square().sum().backward()",
        f"g = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]); {share}",
    )
    yield Reproducer(code, limit=0.1)
    for dtype, upcast in (("float32", True), ("bfloat16", False)):
        lines = Lines(method, dtype=dtype, upcast=upcast)
        step = f"{lines.then_x}(model.train()(x) - 1).square().mean().backward(); print('a gradient')"
        for kind in ERRORS:
            yield Reproducer(lines.code(*lines.model(), step), raises=kind)
        code = lines.code(
            *lines.model(),
            f"{lines.then_x}trained = [p for p in model.parameters() if p.requires_grad]",
            "start = [p.clone() for p in trained]; optimizer = torch.optim.AdamW(trained, lr=5e-3, weight_decay=0)",
            "for _ in range(10): (model.train()(x) - 1).square().mean().backward(); optimizer.step(); "
            "optimizer.zero_grad()",
            "print(sum((a == b).sum().item() for a, b in zip(trained, start)) / sum(p.numel() for p in trained))",
        )
        yield Reproducer(code, limit=0.1)


def _layers(method: Method, note: str) -> Iterator[Reproducer]:
    kinds = {
        "a subclass of nn.Linear": ("nn.Linear(24, 16)", "24"),
        "transformers' Conv1D": ("Conv1D(16, 24)", "24"),
        "nn.Conv2d 1 x 1": ("nn.Conv2d(8, 8, 1)", "6, 6"),
        "nn.Conv2d 3 x 3": ("nn.Conv2d(8, 8, 3)", "6, 6"),
    }
    where = note.rpartition("worst: ")[2]
    for kind in [kind for kind in kinds if kind in where] or kinds:
        layer, width = kinds[kind]
        lines = Lines(method, layer=layer, width=width)
        head = f"base = {lines.base}; {lines.x}; y = base(x)"
        yield from _either(lines.code(head, *lines.put_on("base"), OFF), ACCIDENTS, limit=1e-5)
        trains = "print(any(p.requires_grad for p in model.parameters()))  # something is trained"
        yield Reproducer(lines.code(*lines.model(), trains), expected="True")


def _quantised(method: Method, note: str) -> Iterator[Reproducer]:
    kinds = {
        "8": (
            "Linear8bitLt(64, 96, has_fp16_weights=False)",
            "int8_vectorwise_dequant(base[0].weight.data, base[0].weight.SCB)",
        ),
        "4": (
            "Linear4bit(64, 96, quant_type='nf4')",
            "dequantize_4bit(base[0].weight.data, base[0].weight.quant_state)",
        ),
    }
    plain = Lines(method, layer="nn.Linear(64, 96)", width="64")
    clean = all(one.shows() is None for one in _identity(method, dtypes=("float32",)))
    for bits, (layer, dense) in kinds.items():
        lines = Lines(method, layer=f"bnb.nn.{layer}", width="64")
        head = f"base = {lines.base}.to('cpu'); base.is_loaded_in_{bits}bit = True; {lines.x}"

        def code(*more: str, head=head, lines=lines) -> str:
            return lines.code(head, *more, imports=("bitsandbytes as bnb",))

        if clean:  # what is off at the start on a dense weight is `identity`'s
            yield Reproducer(code(*lines.put_on("base"), OFF, head=f"{head}; y = base(x)"), limit=3e-2)
        trains = "[model.train()(x * 1).sum().backward() for _ in range(2)]; print('trains')"
        for kind in ("RuntimeError", "AttributeError"):
            yield Reproducer(code(*lines.put_on("base")), raises=kind)
            yield Reproducer(code(*lines.put_on("base"), trains), raises=kind)
        shapes = "print([tuple(p.shape) for p in model.parameters() if p.requires_grad])"
        _, wanted = Reproducer(plain.code(*plain.model(), shapes)).run()
        yield Reproducer(code(*lines.put_on("base"), shapes), expected=wanted)
        both = [
            f"twin = nn.Sequential(nn.Linear(64, 96)); twin[0].weight.data = bnb.functional.{dense}.float(); "
            "twin[0].bias.data = base[0].bias.data.float()  # the same weights, dense",
            *lines.put_on("base"),
            *lines.put_on("twin", "dense"),
            f"{FAR}; dense.load_state_dict({{n: p.data for n, p in model.named_parameters() if p.requires_grad}}, "
            "strict=False)",
        ]
        yield Reproducer(code(*both, f"y = dense(x); {OFF}"), limit=3e-2)
        worst = "print(max(((p.grad - q.grad).norm() / q.grad.norm()).item() for p, q in zip(*trained)))"
        gradient = [
            "[m.train()(x * 1).square().sum().backward() for m in (model, dense)]",
            f"trained = [[p for p in m.parameters() if p.requires_grad] for m in (model, dense)]; {worst}",
        ]
        yield Reproducer(code(*both, *gradient), limit=0.3)


def _offload(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    body = [
        *lines.model(),
        f"{FAR}; {lines.then_x}y = model(x).detach()",
        f"accelerate.cpu_offload(model, execution_device='cpu'); {OFF}",
    ]
    for kind in ERRORS:
        yield Reproducer(lines.code(*body, imports=("accelerate",)), raises=kind)
    fill = "torch.use_deterministic_algorithms(True, warn_only=True)  # memory that nobody has written is NaN"
    yield Reproducer(lines.code(*body, imports=("accelerate",), then=fill), limit=1e-5)


CANDIDATES = {
    "identity": _identity,
    "shapes": _shapes,
    "finite": _finite,
    "fields": _fields,
    "reload": _reload,
    "wrong_base": _wrong_base,
    "cycles": _cycles,
    "ranks": _ranks,
    "first_step": _first_step,
    "moves": _moves,
    "layers": _layers,
    "quantised": _quantised,
    "offload": _offload,
}


def reproducer(name: str, failed: str, note: str) -> Reproducer:
    """The first that shows the failure of this check.

    Raises:
        Unshown: none does.
    """
    for candidate in CANDIDATES.get(failed, lambda *_: ())(METHODS[name], note):
        if found := candidate.shows():
            return found
    raise Unshown(f"peft:{name} fails {failed} ({note[:160]}), and nothing here shows it with PEFT alone")
