"""What each variant costs: `adapterlab bench`, or `python -m adapterlab.bench`.

Time and memory of a training step, of inference and of decoding one token, of attach and of merge: of the bare
layer, of each variant, and of PEFT's where PEFT is installed. All that one row compares takes turns in one run, and a
ratio is the median over the rounds of the quotient within a round, so that a slow moment of the machine falls on both
sides alike.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import peft
from .files import write
from .runtime import Adapter, attach, merge
from .variant import VARIANTS, Variant

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MIB = 2**20
WARM_UP, PATIENCE = 2, 20.0  # rounds not counted; seconds after which three rounds of one contender are enough


@dataclass(frozen=True)
class Setting:
    """What is measured on: one linear layer, or a whole decoder with every linear layer of its blocks adapted.

    Args:
        kind: "layer": nn.Linear(width, width) with bias, tokens in one row of the batch; "model": a Llama of hidden
            size `width` with `blocks` blocks, tokens in rows of 128.
        dtype: of the base; the adapter's parameters are `adapter_dtype`.
    """

    kind: str = "layer"
    width: int = 1024
    tokens: int = 512
    blocks: int = 8
    dtype: str = "float32"
    adapter_dtype: str = "float32"
    device: str = "cpu"
    rounds: int = 15
    seed: int = 0

    def __post_init__(self):
        if self.kind not in ("layer", "model"):
            raise ValueError(f"kind = {self.kind!r}: choose 'layer' or 'model'")
        for name in ("width", "tokens", "blocks", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: it must be at least 1")
        for name in ("dtype", "adapter_dtype"):
            if getattr(self, name) not in DTYPES:
                raise ValueError(f"{name} = {getattr(self, name)!r}: choose one of {', '.join(DTYPES)}")
        if self.kind == "model" and self.tokens % 128:
            raise ValueError(f"tokens = {self.tokens}: a model takes them in rows of 128, so choose a multiple of 128")

    def base(self) -> nn.Module:
        """The frozen base, the same each time. Adapted are the layers whose names end in "_proj"."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            body = _Layer(self.width) if self.kind == "layer" else _decoder(self.width, self.blocks)
        return body.to(self.device, DTYPES[self.dtype]).requires_grad_(False)

    def inputs(self, tokens: int | None = None) -> Tensor:
        """(1, tokens, width), or (tokens / 128, 128, width)."""
        n = self.tokens if tokens is None else tokens
        shape = (1, n, self.width) if self.kind == "layer" or n < 128 else (n // 128, 128, self.width)
        draw = torch.Generator().manual_seed(self.seed)
        return torch.randn(shape, generator=draw).to(self.device, DTYPES[self.dtype])


class _Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.q_proj = nn.Linear(width, width)

    def forward(self, x):
        return self.q_proj(x)


def _decoder(width: int, blocks: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaModel

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            config = LlamaConfig(
                vocab_size=8,
                hidden_size=width,
                intermediate_size=width * 43 // 16,  # 1376 at 512: the 8/3 of Llama, rounded as it does
                num_hidden_layers=blocks,
                num_attention_heads=max(1, width // 64),
                use_cache=False,
            )
            self.body = LlamaModel(config)

        def forward(self, x):
            return self.body(inputs_embeds=x).last_hidden_state

    return Decoder()


# ---- the contenders -------------------------------------------------------------------------------


@dataclass
class Contender:
    """The bare base, or the base with a variant put on by this library or by PEFT."""

    by: str  # "bare", "adapterlab" or "peft"
    model: nn.Module
    adapter: Adapter | None = None

    def ready(self, train: bool) -> None:
        self.model.train(train)


def put_on(by: str, base: nn.Module, variant: Variant, setting: Setting) -> Contender:
    """Adapts `base` in place."""
    if by == "bare":
        return Contender(by, base)
    data = [setting.inputs()] if variant.data == "required" else None
    if by == "adapterlab":
        adapter = attach(base, variant, targets="_proj$", calibration_data=data, dtype=DTYPES[setting.adapter_dtype])
        return Contender(by, base, adapter)
    paths = [path for path, _ in base.named_modules() if path.endswith("_proj")]
    return Contender(by, peft.wrap(base, variant, paths, data))


def contenders(variant: Variant, with_peft: bool) -> list[str]:
    return ["bare", "adapterlab"] + (["peft"] if with_peft and peft.knows(variant) else [])


# ---- time -----------------------------------------------------------------------------------------


def _step(contender: Contender, setting: Setting) -> Callable[[], None]:
    """Forward and backward: gradients for the adapter's parameters and for the input."""
    contender.ready(train=True)
    x = setting.inputs().requires_grad_()
    g = torch.randn_like(x)
    parameters = [x, *(p for p in contender.model.parameters() if p.requires_grad)]

    def run():
        for p in parameters:
            p.grad = None
        contender.model(x).backward(g)

    return run


def _infer(contender: Contender, setting: Setting) -> Callable[[], None]:
    contender.ready(train=False)
    x = setting.inputs()

    @torch.no_grad()
    def run():
        contender.model(x)

    return run


def _decode(contender: Contender, setting: Setting) -> Callable[[], None]:
    """One token. `_rows` enters `frozen`, which is a state and not a call."""
    contender.ready(train=False)
    x = setting.inputs(tokens=1)

    @torch.no_grad()
    def run():
        contender.model(x)

    return run


WORK = {"step": _step, "infer": _infer, "decode": _decode}


def _seconds(run: Callable[[], None], device: str, repeats: int = 1) -> float:
    synchronise = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    synchronise()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronise()
    return (time.perf_counter() - start) / repeats


def take_turns(runs: dict[str, Callable[[], None]], device: str, rounds: int) -> dict[str, list[float | None]]:
    """Seconds of each in each round; None where one so slow was left out after three rounds."""
    repeats, spent = {}, dict.fromkeys(runs, 0.0)
    for name, run in runs.items():
        run()
        # Calls of microseconds are timed in groups: the clock's own call costs as much.
        repeats[name] = max(1, min(200, round(2e-3 / max(_seconds(run, device), 1e-7))))
    times: dict[str, list[float | None]] = {name: [] for name in runs}
    names = list(runs)
    for k in range(-WARM_UP, rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:  # none is always the first
            if k >= 3 and spent[name] > PATIENCE or k < 0 and spent[name] > PATIENCE / 4:
                if k >= 0:
                    times[name].append(None)
                continue
            seconds = _seconds(runs[name], device, repeats[name])
            spent[name] += seconds * repeats[name]
            if k >= 0:
                times[name].append(seconds)
    return times


def ratio(times: list[float | None], to: list[float | None]) -> float:
    """The median over the rounds of the quotient within a round."""
    return statistics.median(a / b for a, b in zip(times, to) if a is not None and b is not None)


# ---- memory ---------------------------------------------------------------------------------------


def kept(contender: Contender, setting: Setting) -> int:
    """Bytes that the forward pass keeps for the backward pass, beside parameters, buffers and the gradients' own."""
    contender.ready(train=True)
    x = setting.inputs().requires_grad_()
    own = {t.untyped_storage().data_ptr() for t in (*contender.model.parameters(), *contender.model.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()  # alive with the graph, so no address stands for two
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = contender.model(x)
    total = sum(saved.values())
    del y
    return total


def peak(contender: Contender, setting: Setting) -> int:
    """Bytes that a training step has allocated at most, beyond what stood before it."""
    run = _step(contender, setting)
    run()
    for p in contender.model.parameters():
        p.grad = None
    if setting.device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    level = highest = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        level += event.nbytes()
        highest = max(highest, level)
    return highest


@contextmanager
def _silent() -> Iterator[None]:
    """Without standard error's file: the profiler writes lines of its own there, past Python."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


# ---- rows -----------------------------------------------------------------------------------------


def measure(
    variants: list[Variant],
    setting: Setting,
    *,
    with_peft: bool | None = None,
    progress: Callable[[str], Any] = lambda what: None,
) -> Iterator[dict[str, Any]]:
    """One row per variant and contender: raw seconds, and what follows from them.

    A row holds variant, fields, by, and: `seconds` {work: one per round}, `ratio` {work: to the bare base}, `kept`
    and `peak` (bytes of a training step; kept beyond what the bare base keeps), `attach` and `merge` (seconds, the
    median of three).

    Args:
        with_peft: measure PEFT too; None: if it is installed.
        progress: called with what is measured next.
    """
    if with_peft is None:
        with_peft = util.find_spec("peft") is not None
    for variant in variants:
        yield from _rows(variant, setting, contenders(variant, with_peft), progress)


def _rows(variant: Variant, setting: Setting, names: list[str], progress: Callable[[str], Any]) -> list[dict]:
    progress(f"{variant.name}: attach")
    attached, merged = _attach_and_merge(variant, setting, names)
    made = {by: put_on(by, setting.base(), variant, setting) for by in names}
    seconds: dict[str, dict[str, list]] = {by: {} for by in names}
    for work, prepare in WORK.items():
        progress(f"{variant.name}: {work}")
        runs = {by: prepare(contender, setting) for by, contender in made.items()}
        with made["adapterlab"].adapter.frozen() if work == "decode" else nullcontext():
            times = take_turns(runs, setting.device, setting.rounds)
        for by in names:
            seconds[by][work] = times[by]
    progress(f"{variant.name}: memory")
    memory = {by: (kept(contender, setting), peak(contender, setting)) for by, contender in made.items()}
    rows = []
    for by in names:
        rows.append(
            {
                "variant": variant.name,
                "fields": asdict(variant),
                "by": by,
                "ratio": {work: ratio(seconds[by][work], seconds["bare"][work]) for work in WORK},
                "kept": memory[by][0] - memory["bare"][0],
                "peak": memory[by][1],
                "attach": attached.get(by),
                "merge": merged.get(by),
                "seconds": seconds[by],
            }
        )
    return rows


def _attach_and_merge(variant: Variant, setting: Setting, names: list[str], times: int = 3):
    """Median seconds of each, by contender."""
    attached: dict[str, list[float]] = {by: [] for by in names if by != "bare"}
    merged: dict[str, list[float]] = {by: [] for by in attached}
    for _ in range(times):
        for by in attached:
            attach_time, merge_time = _attach_and_merge_once(by, variant, setting)
            attached[by].append(attach_time)
            merged[by].append(merge_time)
    return tuple({by: statistics.median(values) for by, values in found.items()} for found in (attached, merged))


def _attach_and_merge_once(by: str, variant: Variant, setting: Setting) -> tuple[float, float]:
    base = setting.base()
    made = []
    attach_time = _seconds(lambda: made.append(put_on(by, base, variant, setting)), setting.device)
    fold = made[0].model.merge_and_unload if by == "peft" else lambda: merge(base)
    return attach_time, _seconds(fold, setting.device)


# ---- the record and the table ---------------------------------------------------------------------


def record(command: str, setting: Setting, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All that a reader needs to judge the rows, or to measure them again."""
    return {
        "command": command,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "versions": {"python": platform.python_version(), **_versions("adapterlab", "torch", "transformers", "peft")},
        "machine": machine(setting.device),
        "setting": asdict(setting),
        "rows": rows,
    }


def _versions(*packages: str) -> dict[str, str]:
    return {name: metadata.version(name) for name in packages if util.find_spec(name) is not None}


def _commit() -> str | None:
    """Of the checkout that this file lies in, "+" if it is changed; None where there is none."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def machine(device: str) -> str:
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    name = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        models = [
            line.partition(":")[2].strip() for line in cpus.read_text().splitlines() if line.startswith("model n")
        ]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} processors, {torch.get_num_threads()} threads used"


COLUMNS = ["", "", "step", "infer", "decode", "kept MiB", "peak MiB", "attach ms", "merge ms"]


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Of `measure`'s rows: ratios to the bare base, the bare base's own in milliseconds."""
    lines = []
    for row in rows:
        if row["by"] == "bare":
            medians = {
                work: statistics.median(t for t in times if t is not None) for work, times in row["seconds"].items()
            }
            cells = [f"{1000 * medians[work]:.3g} ms" for work in WORK]
            lines.append(["", "bare", *cells, "", f"{row['peak'] / MIB:.1f}", "", ""])
            continue
        cells = [f"{row['ratio'][work]:.2f}" for work in WORK]
        rank = f" r={row['fields']['r']}" if "r" in row["fields"] else ""
        lines.append(
            [
                row["variant"] + rank,
                row["by"],
                *cells,
                f"{row['kept'] / MIB:.1f}",
                f"{row['peak'] / MIB:.1f}",
                f"{1000 * row['attach']:.0f}",
                f"{1000 * row['merge']:.0f}",
            ]
        )
    return lines


def _print(lines: list[list[str]]) -> None:
    widths = [max(len(line[i]) for line in [COLUMNS, *lines]) for i in range(len(COLUMNS))]
    for line in [COLUMNS, *lines]:
        left = [cell.ljust(width) for cell, width in zip(line[:2], widths)]
        print("  ".join([*left, *(cell.rjust(width) for cell, width in zip(line[2:], widths[2:]))]).rstrip())


def variants_of(names: list[str], ranks: list[int]) -> list[Variant]:
    """Each variant at each rank; once where it has none."""
    found = []
    for name in names:
        if name not in VARIANTS:
            raise ValueError(f"there is no variant {name!r}; there are {', '.join(VARIANTS)}")
        cls = VARIANTS[name]
        has_rank = "r" in cls.__dataclass_fields__
        found += [cls(r=r) for r in ranks] if has_rank else [cls()]
    return found


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="adapterlab bench", description="What each variant costs.")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="default: all nine")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8], metavar="R")
    parser.add_argument("--kind", choices=["layer", "model"], default="layer")
    for name, what in (
        ("width", "of the layer, or hidden size of the model"),
        ("tokens", "in a step"),
        ("blocks", "of the model"),
        ("rounds", "that each time is taken"),
        ("seed", "of weights and inputs"),
    ):
        parser.add_argument(f"--{name}", type=int, default=getattr(Setting, name), help=what)
    parser.add_argument("--dtype", default=Setting.dtype, help=f"of the base: {', '.join(DTYPES)}")
    parser.add_argument("--adapter-dtype", default=Setting.adapter_dtype, help="of the adapter's parameters")
    parser.add_argument("--device", default=Setting.device)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; default 1")
    parser.add_argument("--no-peft", action="store_true", help="leave PEFT out")
    parser.add_argument("--json", metavar="FILE", help="write all raw times there; - for standard output")
    parser.add_argument("--plot", metavar="FILE", help="draw the ratios there (.svg or .png)")
    options = parser.parse_args(given)
    try:
        fields = {name: getattr(options, name) for name in Setting.__dataclass_fields__}
        setting = Setting(**fields)
        variants = variants_of(options.variants or list(VARIANTS), options.ranks)
        torch.empty(0, device=setting.device)
        for file in filter(None, (options.json, options.plot)):
            if file != "-" and not Path(file).absolute().parent.is_dir():
                raise ValueError(f"there is no folder {Path(file).absolute().parent} to write {Path(file).name} to")
    except (ValueError, RuntimeError, AssertionError) as error:
        print(f"adapterlab bench: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        rows = _with_progress(variants, setting, False if options.no_peft else None)
        found = record(" ".join(["adapterlab bench", *given]), setting, rows)
    finally:
        torch.set_num_threads(threads)
    if options.json == "-":
        json.dump(found, sys.stdout, indent=1)
    else:
        print(f"{setting.kind} of width {setting.width}, {setting.tokens} tokens, {setting.dtype}; {found['machine']}")
        _print(table(rows))
    if options.json and options.json != "-":
        write(Path(options.json), (json.dumps(found, indent=1) + "\n").encode())
    if options.plot:
        from .kit import plots

        plots.costs(found).save(options.plot)
    return 0


def _with_progress(variants: list[Variant], setting: Setting, with_peft: bool | None) -> list[dict]:
    from tqdm import tqdm

    rows = []
    with tqdm(total=len(variants), file=sys.stderr, disable=None) as bar:
        for variant in variants:
            rows += measure([variant], setting, with_peft=with_peft, progress=bar.set_description_str)
            bar.update()
    return rows


if __name__ == "__main__":
    sys.exit(main())
