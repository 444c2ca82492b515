"""Lines of code with torch and PEFT alone: a method of PEFT's on one layer, and what shows a fault of it."""

import contextlib
import dataclasses
import io
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..contract.bases import alone
from ..contract.elsewhere import as_strict
from ..peft_methods import Method


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
            named = error is not None and error.__name__ == self.raises
            return dataclasses.replace(self, shown=f"{error.__name__}: {said}"[:200]) if named else None
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


# ---- PEFT in lines of code ------------------------------------------------------------------------

FAR = "[p.data.add_(0.1 * torch.randn_like(p)) for p in model.parameters() if p.requires_grad]"  # as if trained
OFF = "print(((model(x) - y).norm() / y.norm()).item())"
FOLDER = "folder = tempfile.mkdtemp()"
TASKS = "lambda m, a, k: (a, {'task_ids': torch.zeros(len(a[0]), dtype=int)})"


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
    """A method of PEFT's on one layer, as code.

    Args:
        layer: code that makes the layer, and `width` of its inputs behind a batch of 2 x 8.
        upcast: PEFT's autocast_adapter_dtype.
    """

    CASTS = {"float32": "", "bfloat16": ".bfloat16()", "float16": ".half()"}

    def __init__(self, method: Method, r=4, dtype="float32", layer="nn.Linear(24, 16)", width="24", upcast=True):
        layer = "nn.LayerNorm(24)" if method.layer == "norm" else layer
        self.method, self.layer, self.upcast = method, layer, upcast
        cast = self.CASTS[dtype]
        self.base, self.x = f"nn.Sequential({layer}){cast}", f"x = torch.randn(2, 8, {width}){cast}"
        fields = {"target_modules": ["0"], **method.fields(r, ["0"])}
        self.fields = _arguments(fields)
        self.start = method.start.__name__ if method.start else ""

    def config(self, more: str = "") -> str:
        return f"peft.{self.method.kind}({self.fields}{more})"

    def code(self, *lines: str, imports: tuple[str, ...] = (), then: str = "") -> str:
        """`imports` beside PEFT's and torch's, and what `then` belongs to their line."""
        modules = ", ".join(sorted({"peft", "torch", *imports}))
        more = {
            "_start_corda": "from peft.tuners.lora.corda import preprocess_corda",
            "_start_lora_ga": "from peft.tuners.lora.loraga import preprocess_loraga",
        }.get(self.start, "")
        if "Conv1D(" in self.layer:
            more = "from transformers.pytorch_utils import Conv1D"
        parts = [f"import {modules}", "from torch import nn", more, "torch.manual_seed(0)", then]
        return "\n".join(["; ".join(filter(None, parts)), *lines]) + "\n"

    def put_on(self, base: str, name: str = "model") -> list[str]:
        """Where the start needs data, `base` is a name, and so is x."""
        more = "" if self.upcast else ", autocast_adapter_dtype=False"
        made = f"{name} = peft.get_peft_model({base}, {{}}{more}).eval()"
        if self.start == "_start_corda":
            prepared = f"preprocess_corda({base}, config, lambda: {base}(x.flatten(0, 1)))"
        elif self.start == "_start_lora_ga":
            prepared = f"preprocess_loraga({base}, config, lambda: {base}(x).square().mean().backward())"
        else:
            lines = [made.format(self.config())]
            if self.start == "_start_eva":
                lines.append(
                    f"peft.initialize_lora_eva_weights({name}, [x], forward_fn=lambda m, b: m(b), "
                    "prepare_model_inputs_fn=None, prepare_layer_inputs_fn=lambda i, *_: i[0].flatten(0, 1), "
                    "show_progress_bar=False)"
                )
            if self.method.name == "poly":
                hook = f"register_forward_pre_hook({TASKS}, with_kwargs=True)"
                lines.append(f"{name}.get_base_model()[0].{hook}")
            return lines
        return [f"config = {self.config()}; {prepared}", made.format("config")]

    def model(self) -> list[str]:
        """`model`; and x where its start has used one."""
        return [f"base = {self.base}; {self.x}", *self.put_on("base")] if self.start else self.put_on(self.base)

    @property
    def then_x(self) -> str:
        """What defines x after `model`, where that has not."""
        return "" if self.start else f"{self.x}; "
