"""Bytes on the GPU that holds most, part by part."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

from ..variant import Variant
from .shapes import Counted, Held, count
from .shards import held

ENGINES = ("ddp", "fsdp2")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Bytes for a number, and for a row of d_in, of what bitsandbytes stores: nf4 with a float32 scale for every 64
# numbers and a table of 16; int8 with a float32 scale for each row.
NF4_BLOCK, NF4_TABLE = 64, 16


@dataclass(frozen=True)
class Setup:
    """How one trains: `batch` rows of `tokens` on each of `processes` GPUs; `dtype` of the base, the adapter and its
    optimiser being in float32.

    Raises:
        ValueError: a value is not possible.
    """

    processes: int = 1
    engine: str = "ddp"
    dtype: str = "bf16"
    quantize: str | None = None
    batch: int = 1
    tokens: int = 2048
    checkpointing: bool = False

    def __post_init__(self):
        for name in ("processes", "batch", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: it must be at least 1")
        for name, known in (("engine", ENGINES), ("dtype", DTYPES), ("quantize", (None, "4bit", "8bit"))):
            if getattr(self, name) not in known:
                choices = ", ".join(str(one) for one in known if one)
                raise ValueError(f"{name} = {getattr(self, name)!r}: choose one of {choices}")
        if self.quantize and self.engine == "fsdp2":
            raise ValueError("bitsandbytes' weights are copied to every GPU here, not sharded: plan them with ddp")


@dataclass(frozen=True)
class Plan:
    """Bytes of one GPU, the one with the largest share.

    Attributes:
        weights: of the base, and what a variant or the model keeps frozen beside it; FSDP2 shards no buffers.
        adapter, gradients, optimizer: of what is trained: values, gradients, Adam's two moments.
        activations: what a forward leaves for the backward pass, logits and loss included; with checkpointing each
            block's input, and the inside of one.
        transient: what comes and goes: the gradient of the logits, DDP's buckets, FSDP2's gathered blocks.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    transient: int

    @property
    def total(self) -> int:
        return sum(getattr(self, f.name) for f in fields(self))


def plan(config, variant: Variant, setup: Setup, targets=None) -> Plan:
    """For a model of that configuration (transformers') with `variant` on its linear layers.

    Not in it: what CUDA itself takes, about 1 GB, and what its allocator cannot use. Attention is PyTorch's, which
    keeps no square of the length; rows have no padding.

    Raises:
        ValueError: the variant does not fit the model.
    """
    counted = count(config, variant, targets, DTYPES[setup.dtype], setup.batch, setup.tokens, setup.checkpointing)
    return estimate(counted, config, setup)


def estimate(counted: Counted, config, setup: Setup) -> Plan:
    sharded = setup.engine == "fsdp2"

    def bytes_of(kind: str, share: Callable[[tuple[int, ...]], int] = math.prod) -> int:
        return sum(t.times * t.itemsize * share(t.shape) for t in counted.tensors if t.kind == kind)

    def share(shape: tuple[int, ...]) -> int:
        return held(shape, setup.processes) if sharded else math.prod(shape)

    weights = sum(t.times * _stored(t, setup, share) for t in counted.tensors if t.kind == "weight")
    adapter = bytes_of("trained", share)
    itemsize = DTYPES[setup.dtype].itemsize
    logits = setup.batch * setup.tokens * config.vocab_size
    activations = counted.kept + (counted.kept_by_block if setup.checkpointing else 0)
    transient = logits * (4 + itemsize)  # of the loss by the logits in float32, and back in the model's own type
    if setup.processes > 1:
        transient += gathered(counted, setup.processes) if sharded else adapter
    return Plan(weights + bytes_of("frozen"), adapter, adapter, 2 * adapter, activations, transient)


def _stored(tensor: Held, setup: Setup, share: Callable[[tuple[int, ...]], int]) -> int:
    """Bytes of a base weight on one GPU."""
    numbers = math.prod(tensor.shape)
    if not (setup.quantize and tensor.linear):
        return share(tensor.shape) * tensor.itemsize
    if setup.quantize == "4bit":
        return -(-numbers // 2) + 4 * -(-numbers // NF4_BLOCK) + 4 * NF4_TABLE
    return numbers + 4 * tensor.shape[0]


def gathered(counted: Counted, processes: int, at_once: int = 2) -> int:
    """What is whole at once, padding included: all outside the blocks, which FSDP2 leaves gathered between forward and
    backward, and blocks: the one at work and the next one on its way."""

    def whole(part: str) -> int:
        some = (t for t in counted.tensors if t.part == part and t.kind != "frozen")
        return sum(t.times * t.itemsize * processes * held(t.shape, processes) for t in some)

    return whole("rest") + at_once * whole("block") // counted.blocks
