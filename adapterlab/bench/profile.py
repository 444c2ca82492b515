"""Where the time of a step goes: products with W, thin products, casts, and the rest."""

from torch.profiler import ProfilerActivity, profile

from .costs import WORK, silent
from .setting import Contender, Setting

PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}
THIN = 64  # a rank at most; the layers of a setting are wider
KINDS = ("products with W", "thin products", "casts and copies", "all else")


def where_time_goes(contender: Contender, setting: Setting, steps: int = 5) -> dict[str, float]:
    """Seconds of one training step by kind of work; a product is thin if one of its dimensions is an adapter's rank.

    Args:
        steps: over which the mean is taken, after one that is not counted.
    """
    run = WORK["step"](contender, setting)
    run()
    with silent(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(steps):
            run()
    seconds = dict.fromkeys(KINDS, 0.0)
    for event in profiler.key_averages(group_by_input_shape=True):
        seconds[_kind(event.key, event.input_shapes)] += event.self_cpu_time_total / 1e6 / steps
    return seconds


def _kind(name: str, shapes: list) -> str:
    if name in PRODUCTS:
        return "thin products" if min(size for shape in shapes for size in shape) <= THIN else "products with W"
    return "casts and copies" if name in ("aten::copy_", "aten::_to_copy") else "all else"
