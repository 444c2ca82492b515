"""Time and memory of all contenders for one variant, in turns."""

import os
import statistics
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from importlib import util
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime import merge
from ..variant import Variant
from .setting import Contender, Setting, contenders, put_on

WARM_UP, PATIENCE = 2, 20.0  # rounds not counted; seconds after which three rounds of one contender are enough

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
        # Short calls are timed in groups: the clock's own call costs as much, and one interruption would be all.
        repeats[name] = max(1, min(200, round(1e-2 / max(_seconds(run, device), 1e-7))))
    times: dict[str, list[float | None]] = {name: [] for name in runs}
    names = list(runs)
    for k in range(-WARM_UP, rounds):
        # None is always the first. But two that changed places would run twice in a row each, once on warm caches.
        first = k % len(names) if len(names) > 2 else 0
        for name in names[first:] + names[:first]:
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
    tensors = saved(contender.model, setting.inputs().requires_grad_())
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def saved(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What model(x) leaves for its backward pass beside parameters and buffers: one tensor per storage."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    packed: list[weakref.ref[_Saved]] = []

    def pack(tensor: Tensor) -> _Saved:
        held = _Saved(tensor)
        packed.append(weakref.ref(held))
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        y = model(x)
    # Not what was saved on the way and let go of, as PEFT's DoRA does with B A once the norm is detached.
    alive = [held.tensor for reference in packed if (held := reference()) is not None]
    found = {tensor.untyped_storage().data_ptr(): tensor for tensor in alive}
    del y
    return [tensor for address, tensor in found.items() if address not in own]


class _Saved:
    """A tensor in the graph, which lives as long as the graph holds it."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


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

    with silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    level = highest = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        level += event.nbytes()
        highest = max(highest, level)
    return highest


@contextmanager
def silent() -> Iterator[None]:
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
