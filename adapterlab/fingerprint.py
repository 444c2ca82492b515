"""Is this the base that the adapter was trained on? A digest that says yes, and a sketch that says how far off.

Both are taken per layer, of weight and bias in float32, of a quantised weight as it is dequantised:

- **the digest**, SHA-256, is equal exactly where all values are;
- **the sketch**, a linear map to 8 x 8 float64 sums: entry (i, j) times r_i c_j, seeded factors of about 1 or -1, is
  added to the sum of its block of rows and block of columns. The length of the difference of two sketches estimates
  that of the difference of the weights: to 9 % (one standard deviation) where it is spread over the matrix, to 35 %
  where it is of rank one. With it come the norm, and one such sum each of the weight rounded to bf16 and to fp16.

`judge` accepts another digest only where rounding explains it. **What gets through**: between copies of different
precision, any change that fits into what rounding may do (0.39 % of the norm against bf16, 5 % against int8, 33 %
against 4-bit), so a sibling that was fine-tuned lightly; between float64 bases, what float32 does not hold. The
factors are public and the digest is the file's word: this guards against mistakes, not against forgers.
"""

import base64
import functools
import hashlib
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .offload import at_hand
from .sharding import is_sharded, whole
from .weights import stored_weight

# How far a copy in this precision may be from the original, finest first: relative to the norm, and per entry.
# fp16, bf16: half the gap between neighbouring numbers, which no correct rounding exceeds (per entry: fp16 below 6e-5,
# where the gap is fixed), and 1 % for the factors. int8 (a scale per row), 4-bit (one per 64 entries): by measurement,
# over weights with heavy tails and outlying columns; nf4 stays below 0.16, fp4 comes to 0.31.
BOUNDS = {
    "fp32": (0.0, 0.0),
    "fp16": (1.01 * 2.0**-11, 1.01 * 2.0**-25),
    "bf16": (1.01 * 2.0**-8, 0.0),
    "int8": (0.05, 0.0),
    "4-bit": (0.33, 0.0),
}
ROUNDED = {"bf16": torch.bfloat16, "fp16": torch.float16}
SAME = 1e-12  # of the norm: float64 sums of the same numbers, added in another order
SUMS = 64
_CHUNK = 2**17  # entries: in float32 and float64 together they fit a processor's cache


# ---- measuring ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sketch:
    """Of a weight or a bias: number of entries, norm, a sum of it rounded for each of ROUNDED, and the 64 sums."""

    count: float
    norm: float
    rounded: tuple[float, ...]
    sums: tuple[float, ...]  # fewer than 64 where there are fewer entries

    def encode(self) -> str:
        numbers = (self.count, self.norm, *self.rounded, *self.sums)
        return base64.b64encode(struct.pack(f"<{len(numbers)}d", *numbers)).decode()

    @classmethod
    def decode(cls, text: str) -> "Sketch":
        """Raises ValueError if `text` is nothing that `encode` gives."""
        content = base64.b64decode(text, validate=True)
        if len(content) % 8 or not 1 <= len(content) // 8 - 2 - len(ROUNDED) <= SUMS:
            raise ValueError(f"a sketch of {len(content)} bytes")
        count, norm, *rest = struct.unpack(f"<{len(content) // 8}d", content)
        return cls(count, norm, tuple(rest[: len(ROUNDED)]), tuple(rest[len(ROUNDED) :]))


def measure(layers: Mapping[str, nn.Module], *functions: Callable) -> dict[str, list]:
    """path -> what each function (`digest`, `sketches`) makes of the layer's weight and bias.

    On threads. In units of one SHA-256 over the weights in float32, on two processors that compute SHA-256 in hardware:
    the digest alone, all that `load` needs for an equal base, 0.6 to 0.8; both together, as `save` needs them, 1.0 to
    1.2 for layers of a million weights and more, 1.6 for a third of that; twice that on one processor. Of a sharded
    model every rank must call this, for the gathering; without functions it does nothing else.

    Raises:
        ValueError: a layer's weight cannot be read.
    """
    found = {}
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for path, layer in layers.items():
            elsewhere = layer.weight.is_meta or is_sharded(layer.weight)
            with _naming(path), at_hand(layer, path):
                W, b = stored_weight(layer), None if layer.bias is None else layer.bias.detach()
                W, b = whole(W), None if b is None else whole(b)
            found[path] = [pool.submit(function, W, b) for function in functions]
            if elsewhere or W.numel() <= _CHUNK:  # what was brought here must not pile up; small ones gain nothing
                wait(found[path])
        for path, jobs in found.items():
            with _naming(path):
                found[path] = [job.result() for job in jobs]
    return found


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, RuntimeError) as error:  # stored in an unknown way
        raise ValueError(f"the weight of layer {path!r} cannot be read: {error}") from error


def digest(W: Tensor, b: Tensor | None) -> str:
    """SHA-256 of shapes and values, in which -0 is 0: a layer that multiplies by either is the same."""
    sha = hashlib.sha256()
    for tensor in (W, b):
        if tensor is not None:
            sha.update(repr(tuple(tensor.shape)).encode())
            for chunk in tensor.split(_step(tensor)):
                sha.update(chunk.cpu().float().contiguous().numpy() + 0.0)
    return sha.hexdigest()


def sketches(W: Tensor, b: Tensor | None) -> tuple[Sketch, Sketch | None]:
    return sketch(W), None if b is None else sketch(b[None])


@torch.no_grad()
def sketch(W: Tensor) -> Sketch:
    """Of a matrix, in one pass; a bias counts as one row."""
    rows, columns = W.shape
    down = max(1, min(rows, SUMS // max(1, min(8, columns))))  # blocks of rows: 8, or more where columns are few
    across = max(1, min(columns, SUMS // down))
    row_block, column_block = torch.arange(rows) * down // rows, torch.arange(columns) * across // columns
    r, c = _factors("rows", rows), _factors("columns", columns)
    R = torch.zeros(down, rows, dtype=torch.float64).index_put_((row_block, torch.arange(rows)), r)

    lines = torch.zeros(down, columns, dtype=torch.float64)  # R W
    rounded = {name: torch.zeros_like(c) for name in ROUNDED}  # r^T W
    squares, step = 0.0, _step(W)
    exact = torch.empty(step, columns, dtype=torch.float64)  # memory used again is memory in the cache
    lower = {name: torch.empty(step, columns, dtype=dtype) for name, dtype in ROUNDED.items()}
    for start in range(0, rows, step):
        here = slice(start, start + step)
        chunk = W[here].cpu().float()
        n = len(chunk)
        exact[:n] = chunk
        squares += torch.dot(exact[:n].flatten(), exact[:n].flatten()).item()
        touched = slice(int(row_block[start]), int(row_block[start + n - 1]) + 1)
        lines[touched] += R[touched, here] @ exact[:n]
        for name in ROUNDED:
            lower[name][:n] = chunk
            exact[:n] = lower[name][:n]
            rounded[name] += r[here] @ exact[:n]
    sums = torch.zeros(down, across, dtype=torch.float64).index_add_(1, column_block, lines * c)
    return Sketch(
        W.numel(),
        math.sqrt(squares),
        tuple((rounded[name] @ c).item() for name in ROUNDED),
        tuple(sums.view(-1).tolist()),
    )


def _step(W: Tensor) -> int:
    """How many rows make a chunk."""
    return max(1, min(len(W), _CHUNK * len(W) // max(1, W.numel())))


@functools.lru_cache(32)  # a model has few widths, and many layers of each
def _factors(axis: str, size: int) -> Tensor:
    """(size,) float64: random signs, magnitudes from 0.999 to 1.001, not all 1 so that exchanged rows show."""
    # From a hash, whose values stay: a random generator's may change with the library's version.
    content = hashlib.shake_128(f"adapterlab {axis} {size}".encode()).digest(4 * size + 4)
    uniform = torch.frombuffer(bytearray(content), dtype=torch.int32)[:size].double() / 2**31  # -1 to 1
    return 0.002 * uniform + torch.where(uniform < 0, -0.999, 0.999)


# ---- judging --------------------------------------------------------------------------------------


def judge(
    recorded: tuple[Sketch, Sketch | None], trained_in: str, present: tuple[Sketch, Sketch | None], loaded_in: str
) -> tuple[float, bool]:
    """How far a layer's weight and bias are from those recorded, and whether rounding explains it.

    It does if the two precisions differ, or one side holds the other's values rounded to bf16 or fp16 (whatever they
    are stored in), and the distance is within the bound of the coarser precision, or of that rounding.

    Returns:
        The distance of the weights or of the biases, the larger, relative to the recorded norm; and the verdict.
    """
    pairs = [(a, b) for a, b in zip(recorded, present) if a is not None or b is not None]
    if any(a is None or b is None or (a.count, len(a.sums)) != (b.count, len(b.sums)) for a, b in pairs):
        return math.inf, False  # another shape, or a bias on one side alone
    names = [name for name in ROUNDED if _holds_rounded(pairs, name) or _holds_rounded([p[::-1] for p in pairs], name)]
    if trained_in != loaded_in:
        names.append(max(trained_in, loaded_in, key=list(BOUNDS).index))
    distances = [math.dist(a.sums, b.sums) for a, b in pairs]
    bounds = {name: [_bound(name, a, is_bias) for is_bias, (a, _) in enumerate(pairs)] for name in names}
    explained = any(all(d <= bound for d, bound in zip(distances, bounds[name])) for name in names)
    relative = [d / a.norm if a.norm else (math.inf if d else 0.0) for d, (a, _) in zip(distances, pairs)]
    return max(math.inf if math.isnan(d) else d for d in relative), explained


def _holds_rounded(pairs: list[tuple[Sketch, Sketch]], name: str) -> bool:
    """Whether the second of each pair is the first, rounded. One of them may be as it was: at a forward pass
    bitsandbytes rounds the bias alone."""
    i = list(ROUNDED).index(name)
    changed = [(a, b) for a, b in pairs if not math.dist(a.sums, b.sums) <= SAME * a.norm]
    return bool(changed) and all(abs(a.rounded[i] - math.fsum(b.sums)) <= SAME * a.norm for a, b in changed)


def _bound(name: str, sketch: Sketch, is_bias: bool) -> float:
    if is_bias and name in ("int8", "4-bit"):
        name = "bf16"  # a quantised layer's bias is not quantised
    relative, per_entry = BOUNDS[name]
    return relative * sketch.norm + per_entry * math.sqrt(sketch.count)
