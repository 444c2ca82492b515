"""PEFT's methods under the contract: `python -m adapterlab.scoreboard --json FILE`.

What fails comes with a few lines that show it with PEFT alone. A reproducer is kept only if it has just shown what it
is there to show; a failure for which none does is an error here: it would be this library's word against PEFT's.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .contract import CHECKS, Report, check
from .contract.bases import alone
from .contract.elsewhere import as_strict
from .files import write
from .peft_methods import EXCLUDED, METHODS, Method


@dataclass(frozen=True)
class Reproducer:
    """Lines that need torch and PEFT only, and what they do that they should not.

    Args:
        code: its last line prints, or raises.
        raises: the exception's class, where that is the fault; else None.
        limit: the number printed should be at most this.
        expected: or this is what should be printed.
        shown: what it printed or raised when it was made.
    """

    code: str
    raises: str | None = None
    limit: float | None = None
    expected: str | None = None
    shown: str = ""

    def run(self) -> tuple[type[Exception] | None, str]:
        """The exception, and its message or what was printed."""
        printed = io.StringIO()
        with _own_folder(), alone(0), as_strict(), warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                try:
                    exec(compile(self.code, "<reproducer>", "exec"), {"__name__": "reproducer"})
                except Exception as error:
                    return type(error), " ".join(str(error).split())
        return None, (printed.getvalue().strip().splitlines() or [""])[-1]

    def shows(self) -> "Reproducer | None":
        """Itself with what it has shown now; None if all is well, or if something else went wrong."""
        error, said = self.run()
        if self.raises is not None:
            return (
                dataclasses.replace(self, shown=f"{error.__name__}: {said}"[:200])
                if _named(error, self.raises)
                else None
            )
        if error is not None or not said:
            return None
        wrong = not float(said) <= self.limit if self.limit is not None else said != self.expected
        return dataclasses.replace(self, shown=said) if wrong else None


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    """What makes temporary folders inside makes them in one that goes afterwards."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


class Unshown(Exception):
    """A check fails a method of PEFT's, and no lines show it with PEFT alone."""


def _named(error: type[Exception] | None, name: str) -> bool:
    return error is not None and error.__name__ == name


# ---- PEFT in lines of code ------------------------------------------------------------------------

IMPORTS = "import peft, torch; from torch import nn; torch.manual_seed(0)"
FAR = "[p.data.add_(0.1 * torch.randn_like(p)) for p in model.parameters() if p.requires_grad]  # as if trained"
OFF = "print(((model(x) - y).float().norm() / y.float().norm()).item())"


def _text(value: Any) -> str:
    """A value as code; of PEFT's nested configurations what differs from their defaults."""
    if dataclasses.is_dataclass(value):
        import peft

        kind = type(value).__name__
        where = f"peft.{kind}" if hasattr(peft, kind) else f"{type(value).__module__}.{kind}"
        given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        plain = type(value)()
        return f"{where}({_arguments({k: v for k, v in given.items() if v != getattr(plain, k)})})"
    return repr(value)


def _arguments(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_text(value)}" for name, value in fields.items())


class Lines:
    """A method of PEFT's, put on one layer, as code."""

    def __init__(self, method: Method, r: int = 4):
        self.method, self.r = method, r

    def config(self, more: str = "") -> str:
        fields = {"target_modules": ["0"], **self.method.fields(self.r, ["0"])}
        return f"peft.{self.method.kind}({_arguments(fields)}{more})"

    def base(self, dtype: str = "float32", layer: str = "nn.Linear(24, 16)", width: str = "24") -> list[str]:
        if self.method.layer == "norm":
            layer = "nn.LayerNorm(24)"
        cast = "" if dtype == "float32" else f".to(torch.{dtype})"
        kind = "" if dtype == "float32" else f", dtype=torch.{dtype}"
        return [IMPORTS, f"base = nn.Sequential({layer}){cast}.eval(); x = torch.randn(2, 8, {width}{kind})"]

    def put_on(self, upcast: bool = True, name: str = "model", base: str = "base") -> list[str]:
        """`model` is then what is called."""
        more = "" if upcast else ", autocast_adapter_dtype=False"
        start = self.method.start.__name__ if self.method.start else ""
        rows = "x.flatten(0, 1)" if start == "_start_corda" else "x"
        if not start.startswith(("_start_corda", "_start_lora_ga")):
            lines = [f"{name} = peft.get_peft_model({base}, {self.config()}{more}).eval()"]
        else:
            lines = [f"config = {self.config()}"]
        if start == "_start_corda":
            lines += [
                "from peft.tuners.lora.corda import preprocess_corda",
                f"preprocess_corda({base}, config, lambda: {base}({rows}))",
            ]
        if start == "_start_lora_ga":
            lines += [
                "from peft.tuners.lora.loraga import preprocess_loraga",
                f"preprocess_loraga({base}, config, lambda: {base}(x).square().mean().backward())",
            ]
        if len(lines) > 1:
            lines += [f"{name} = peft.get_peft_model({base}, config{more}).eval()"]
        if start == "_start_eva":
            lines += [
                f"peft.initialize_lora_eva_weights({name}, [x], forward_fn=lambda m, b: m(b), prepare_model_inputs_fn="
                "None, prepare_layer_inputs_fn=lambda i, *_: i[0].flatten(0, 1), show_progress_bar=False)"
            ]
        if self.method.name == "poly":
            lines += [
                "tasks = lambda m, a, k: (a, {'task_ids': torch.zeros(len(a[0]), dtype=int)})",
                f"{name}.get_base_model()[0].register_forward_pre_hook(tasks, with_kwargs=True)",
            ]
        return lines


def _made(*parts: list[str] | str) -> str:
    return "\n".join(line for part in parts for line in ([part] if isinstance(part, str) else part)) + "\n"


# ---- what may show a failure, by check --------------------------------------------------------------


ACCIDENTS = "RuntimeError", "AttributeError", "KeyError", "IndexError", "NotImplementedError"
ERRORS = *ACCIDENTS, "ValueError", "TypeError"  # which may be refusals


def _either(code: str, kinds: tuple[str, ...] = ERRORS, **fault) -> Iterator[Reproducer]:
    """What it prints is wrong, or it never gets there."""
    yield Reproducer(code, **fault)
    for kind in kinds:
        yield Reproducer(code, raises=kind)


def _identity(method: Method, note: str, ranks=(4,)) -> Iterator[Reproducer]:
    limits = {"float32": 5e-6, "bfloat16": 2**-12, "float16": 2**-15}
    for r in ranks:
        lines = Lines(method, r)
        for dtype, limit in limits.items():
            yield Reproducer(_made(lines.base(dtype), "y = base(x)", lines.put_on(), OFF), limit=limit)


def _shapes(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    for shape in ((24,), (2, 3, 4, 24), (0, 24)):
        code = _made(
            lines.base(), lines.put_on(), f"print(tuple(model(torch.randn{shape}).shape))".replace(",)", ")", 1)
        )
        yield from _either(code, expected=str((*shape[:-1], 16)))


def _finite(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    for upcast in (True, False):
        for dtype in ("bfloat16", "float16"):
            end = "print(model(x).isfinite().all().item())"
            yield Reproducer(_made(lines.base(dtype), lines.put_on(upcast), end), expected="True")


def _fields(method: Method, note: str) -> Iterator[Reproducer]:
    from .contract.of_peft import OfPeft

    names = note.partition(":")[0].split(", ")
    others = OfPeft(method).alternatives()
    values = {name: others[name][0]().changes[name] for name in names}
    lines = Lines(method)
    code = _made(
        IMPORTS,
        "def run(**more):",
        "    torch.manual_seed(0); base = nn.Sequential(nn.Linear(24, 16))",
        f"    model = peft.get_peft_model(base, {lines.config(', **more')}).train()",
        f"    torch.manual_seed(1); {FAR.partition('  #')[0]}",
        "    torch.manual_seed(2); return model(torch.ones(2, 24))",
        f"print(*[torch.equal(run(), run(**one)) for one in {[{k: v} for k, v in values.items()]}])",
    )
    yield Reproducer(code, expected=" ".join(["False"] * len(values)))


def _reload(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    for dtype in ("float32", "bfloat16"):
        code = _made(
            lines.base(dtype),
            "import copy, tempfile; fresh, folder = copy.deepcopy(base), tempfile.mkdtemp()",
            lines.put_on(),
            FAR,
            "y = model(x); model.save_pretrained(folder)",
            "model = peft.PeftModel.from_pretrained(fresh, folder).eval()",
            OFF,
        )
        yield from _either(code, limit=1e-6)


def _wrong_base(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    layer = "nn.LayerNorm(24)" if method.layer == "norm" else "nn.Linear(24, 16)"
    code = _made(
        lines.base(),
        "import tempfile; folder = tempfile.mkdtemp()",
        lines.put_on(),
        "model.save_pretrained(folder)",
        f"peft.PeftModel.from_pretrained(nn.Sequential({layer}), folder); print('loaded on other weights')",
    )
    yield Reproducer(code, expected="refused")


def _cycles(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    for dtype in ("bfloat16", "float32"):
        code = _made(
            lines.base(dtype),
            lines.put_on(),
            FAR.replace("0.1 * ", ""),
            "y = model(x)",
            "for _ in range(50): model.merge_adapter(); model.unmerge_adapter()",
            OFF,
        )
        yield Reproducer(code, limit=0.0)
        weight = "model.get_base_model()[0].weight.data"
        weights = code.replace("y = model(x)\n", f"y = {weight}.clone()\n").replace("model(x) - y", f"{weight} - y")
        yield Reproducer(weights, limit=0.0)


def _ranks(method: Method, note: str) -> Iterator[Reproducer]:
    worst = re.search(r"r = (\d+)", note)
    r = int(worst.group(1)) if worst else 1
    yield from _identity(method, note, ranks=(r,))
    lines = Lines(method, r)
    yield Reproducer(_made(lines.base(), lines.put_on()), raises="ValueError")


def _first_step(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    code = _made(
        lines.base(),
        lines.put_on(),
        "y = model(x).detach(); model(x).square().sum().backward()",
        "[p.data.sub_(1e-4 * p.grad.sign()) for p in model.parameters() if p.requires_grad]  # one step at 1e-4",
        OFF,
    )
    yield Reproducer(code, limit=1e-2)


def _moves(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    step = "(model.train()(x) - 1).square().mean().backward(); optimizer.step(); optimizer.zero_grad()"
    for dtype, upcast in (("float32", True), ("bfloat16", False)):
        code = _made(
            lines.base(dtype),
            lines.put_on(upcast),
            "trained = [p for p in model.parameters() if p.requires_grad]",
            "start = [p.detach().clone() for p in trained]",
            "optimizer = torch.optim.AdamW(trained, lr=5e-3, weight_decay=0)",
            f"for _ in range(10): {step}",
            "print(sum((a == b).sum().item() for a, b in zip(trained, start)) / sum(p.numel() for p in trained))",
        )
        yield from _either(code, limit=0.1)


def _layers(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    kinds = {
        "a subclass of nn.Linear": ("", "nn.Linear(24, 16)", "24"),
        "transformers' Conv1D": ("from transformers.pytorch_utils import Conv1D", "Conv1D(16, 24)", "24"),
        "nn.Conv2d 1 x 1": ("", "nn.Conv2d(8, 8, 1)", "6, 6"),
        "nn.Conv2d 3 x 3": ("", "nn.Conv2d(8, 8, 3)", "6, 6"),
    }
    where = note.rpartition("worst: ")[2]
    for kind in [kind for kind in kinds if kind in where] or kinds:
        more, layer, width = kinds[kind]
        head = ([more] if more else []) + lines.base(layer=layer, width=width)
        yield from _either(_made(head, "y = base(x)", lines.put_on(), OFF), ACCIDENTS, limit=1e-5)
        some = "print(any(p.requires_grad for p in model.parameters()))  # something is trained"
        yield Reproducer(_made(head, lines.put_on(), some), expected="True")


def _quantised(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    kinds = {
        "int8": (
            "Linear8bitLt(64, 96, has_fp16_weights=False)",
            "8",
            "int8_vectorwise_dequant(q.weight.data, q.weight.SCB)",
        ),
        "nf4": ("Linear4bit(64, 96, quant_type='nf4')", "4", "dequantize_4bit(q.weight.data, q.weight.quant_state)"),
    }
    shapes = "shapes = lambda m: [tuple(p.shape) for p in m.parameters() if p.requires_grad]"
    for layer, bits, dense in kinds.values():
        head = [
            IMPORTS,
            f"import bitsandbytes as bnb; q = bnb.nn.{layer}",
            "q.load_state_dict(nn.Linear(64, 96).state_dict()); base = nn.Sequential(q.to('cpu'))",
            f"base.is_loaded_in_{bits}bit = True; x = torch.randn(2, 8, 64)",
            f"twin = nn.Sequential(nn.Linear(64, 96)); twin[0].weight.data = bnb.functional.{dense}.float()",
            "twin[0].bias.data = q.bias.data.float()  # the same weights, dense",
        ]
        both = [*lines.put_on(), *lines.put_on(name="dense", base="twin")]
        yield Reproducer(_made(head, both, shapes, "print(shapes(model) == shapes(dense))"), expected="True")
        train = "model.train()(x * 1).sum().backward(); model.train()(x * 1).sum().backward(); print('trains')"
        for kind in ("RuntimeError", "AttributeError"):
            yield Reproducer(_made(head[:4], lines.put_on()), raises=kind)
            yield Reproducer(_made(head[:4], lines.put_on(), train), raises=kind)
        far = [FAR, "ours, theirs = ([p for p in m.parameters() if p.requires_grad] for m in (model, dense))"]
        copy = "for p, d in zip(ours, theirs): d.data = p.data.clone()"
        yield Reproducer(_made(head, both, far, copy, "y = dense(x)", OFF), limit=3e-2)
        gradient = [
            "[m.train()(x * 1).square().sum().backward() for m in (model, dense)]",
            "print(max(((p.grad - d.grad).norm() / d.grad.norm()).item() for p, d in zip(ours, theirs)))",
        ]
        yield Reproducer(_made(head, both, far, copy, gradient), limit=0.3)


def _offload(method: Method, note: str) -> Iterator[Reproducer]:
    lines = Lines(method)
    code = _made(
        lines.base(),
        lines.put_on(),
        FAR,
        "y = model(x).detach(); torch.use_deterministic_algorithms(True, warn_only=True)  # unwritten memory is NaN",
        "from accelerate import cpu_offload; cpu_offload(model, execution_device='cpu')",
        OFF,
    )
    yield from _either(code, limit=1e-5)


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


# ---- the record -----------------------------------------------------------------------------------


def row(name: str, seed: int = 0) -> dict[str, Any]:
    """One method: the contract's results, and for each failure its reproducer."""
    report: Report = check(f"peft:{name}", seed=seed)
    method = METHODS[name]
    shown = {failed: asdict(reproducer(name, failed, report[failed].note)) for failed in report.failed}
    return {
        "method": name,
        "kind": method.kind,
        "paper": method.paper,
        "source": method.source,
        "results": report.record()["results"],
        "quotes": {c: {"words": q.words, "link": q.link} for c, q in method.by_design.items()},
        "reproducers": shown,
    }


def main(arguments: list[str] | None = None) -> int:
    from .provenance import provenance

    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m adapterlab.scoreboard", description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of weights, inputs and starts")
    parser.add_argument("--json", metavar="FILE", required=True, help="write the record there; - for standard output")
    options = parser.parse_args(given)
    if unknown := [name for name in options.methods if name not in METHODS]:
        print(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}", file=sys.stderr)
        return 2
    from tqdm import tqdm

    rows, unshown = [], []
    bar = tqdm(options.methods or list(METHODS), file=sys.stderr, disable=None)
    for name in bar:
        bar.set_description_str(name)
        try:
            rows.append(row(name, options.seed))
        except Unshown as error:
            unshown.append(str(error))
    if unshown:
        print("\n".join(unshown), file=sys.stderr)
        return 1
    found = provenance(" ".join(["python -m adapterlab.scoreboard", *given]), options.seed) | {
        "checks": {name: one.proves for name, one in CHECKS.items()},
        "excluded": EXCLUDED,
        "rows": rows,
    }
    text = json.dumps(found, indent=1) + "\n"
    if options.json == "-":
        print(text, end="")
    else:
        write(Path(options.json), text.encode())
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
