"""The layers that the contract puts adapters on, and what it measures on them."""

import contextvars
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..variant import VARIANTS

EPS32 = torch.finfo(torch.float32).eps


renamed: list[tuple[type, str | None]] = []  # classes that were registered for a check, and their own name before
_run = contextvars.ContextVar("seed of this run", default=0)


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Drawn in float64, so that a seed gives the same numbers, rounded, in every dtype."""
    generator = torch.Generator().manual_seed(seed + 1_000_003 * _run.get())
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


class Net(nn.Module):
    """Layers in a row: one, "proj", or two, "proj" and "last", with a tanh between them."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.proj = layers[0]
        self.last = layers[1] if len(layers) > 1 else None

    def forward(self, x):
        y = self.proj(x)
        return y if self.last is None else self.last(torch.tanh(y))


def paths(net: nn.Module) -> list[str]:
    return [name for name in ("proj", "last") if isinstance(getattr(net, name, None), nn.Module)]


def linear(d_in: int, d_out: int, *, bias: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Linear:
    """Outputs of about 1 for inputs of about 1, and a bias as large: one that is scaled by mistake shows."""
    layer = nn.Linear(d_in, d_out, bias=bias, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(randn(d_out, d_in, seed=seed) / d_in**0.5)
        if bias:
            layer.bias.copy_(randn(d_out, seed=seed + 1))
    return layer


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b| in float64; 0 for equal ones, NaN and infinity as they are."""
    if a.shape != b.shape:
        raise ValueError(f"a tensor of shape {tuple(a.shape)} where {tuple(b.shape)} was expected")
    a, b = a.detach().double(), b.detach().double()
    miss = (a - b).norm().item()
    return miss if miss == 0 else miss / max(b.norm().item(), 1e-300)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Byte for byte: -0 is not 0, and a NaN is itself."""

    def bits(t: Tensor) -> Tensor:
        return t.detach().cpu().contiguous().flatten().view(torch.uint8)

    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(bits(a), bits(b))


@torch.no_grad()
def move_far(parameters: dict[str, Tensor], seed: int = 0) -> None:
    """Every trained number to a random value far from its start: 0.1 and more of the weight's size.

    What has one dimension or none and no zero in it is a size, a gate or a strength, and is multiplied by 0.5 to 2;
    anything else gets noise whose rows are about as long as 1.
    """
    for i, p in enumerate(parameters.values()):
        noise = randn(*p.shape, seed=1000 * seed + i + 17).to(p.device)
        if p.dim() <= 1 and bool((p != 0).all()):
            p.mul_(2.0 ** noise.clamp(-1, 1))
        elif p.dim() <= 1:
            p.add_(0.5 * noise)
        else:
            p.add_(noise / p.shape[-1] ** 0.5)


@torch.no_grad()
def affine(function, d_in: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """W' (d_out, d_in) and b' (d_out,) of the affine map that a function is at 0 and at the unit vectors."""
    b = function(torch.zeros(1, d_in, dtype=dtype))[0]
    return (function(torch.eye(d_in, dtype=dtype)) - b).T, b


@contextmanager
def alone(seed: int) -> Iterator[None]:
    """Seeded, on one thread, with gradients, and without a trace: generators, threads, default dtype, grad mode, the
    registry of variants and warning filters are afterwards what they were."""
    threads, default, grad = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    registered, state = dict(VARIANTS), random.getstate()
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.inference_mode(False):
            warnings.simplefilter("ignore")
            torch.set_num_threads(1)
            torch.set_default_dtype(torch.float32)
            torch.set_grad_enabled(True)
            token = _run.set(seed)
            reseed(0)
            yield
            _run.reset(token)
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(default)
        torch.set_grad_enabled(grad)
        random.setstate(state)
        if numpy:
            numpy.random.set_state(numpy_state)
        while renamed:
            cls, name = renamed.pop()
            del cls.name
            if name is not None:
                cls.name = name
        VARIANTS.clear()
        VARIANTS.update(registered)


def reseed(seed: int) -> None:
    """The generators that adapters draw from."""
    seed += 1_000_003 * _run.get()
    torch.manual_seed(seed)
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)
