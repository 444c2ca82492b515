"""A model of tensors that have a shape and no numbers: what it holds, and what a step keeps for the backward pass."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..layer import LayerAdapter, adapted_layers, buffers_of, specs_of
from ..runtime import install
from ..targets import Patterns, select
from ..variant import Variant

CAUSAL = "adapterlab_causal"


@dataclass(frozen=True)
class Held:
    """A tensor of the model.

    Attributes:
        times: how many of them the model has.
        part: "block", one of the repeated ones, or "rest".
        kind: "weight", of the base; "trained", the adapter's; "frozen", buffers of either, which no engine shards.
        linear: of a weight: whether quantisation applies to it.
    """

    shape: tuple[int, ...]
    itemsize: int
    times: int
    part: str
    kind: str
    linear: bool = False


@dataclass(frozen=True)
class Counted:
    """tensors: what the model holds; kept: bytes that one forward leaves for the backward pass, the loss included;
    kept_by_block: those of one block when nothing is computed again; blocks: how many there are."""

    tensors: tuple[Held, ...]
    kept: int
    kept_by_block: int
    blocks: int


def count(
    config,
    variant: Variant,
    targets: Patterns | None,
    dtype: torch.dtype,
    batch: int,
    tokens: int,
    checkpointing: bool = False,
) -> Counted:
    """Of the model with the adapter on it, in one forward of `batch` rows without padding, with its loss.

    Two blocks and three are run; each further one is as the third. (The first keeps less than the others: there is
    nothing below it to be trained.)

    Raises:
        ValueError: the variant does not fit the model's layers, or `targets` matches none.
    """

    def run(blocks: int, checkpointing: bool) -> tuple[tuple[Held, ...], int]:
        return _run(config, blocks, variant, targets, dtype, batch, tokens, checkpointing)

    (tensors, few), (_, more) = run(2, checkpointing), run(3, checkpointing)
    by_block = run(3, False)[1] - run(2, False)[1] if checkpointing else more - few
    blocks = config.num_hidden_layers
    tensors = tuple(replace(t, times=blocks * t.times // 2) if t.part == "block" else t for t in tensors)
    return Counted(tensors, few + (blocks - 2) * (more - few), by_block, blocks)


def _run(config, blocks: int, variant: Variant, targets, dtype, batch, tokens, checkpointing):
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AttentionInterface, AutoModelForCausalLM

    from ..kit.real_model import checkpoint

    # transformers' own attention makes a mask of tokens by tokens where tensors have no numbers.
    AttentionInterface.register(CAUSAL, _causal)
    small = type(config).from_dict(config.to_dict() | {"num_hidden_layers": blocks, "layer_types": None})
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(small, dtype=dtype, attn_implementation=CAUSAL).train()
        _attach(model, variant, targets)
        tensors = _tensors(model)
        if checkpointing:
            checkpoint(model)
        own = {StorageWeakRef(t.untyped_storage()) for t in (*model.parameters(), *model.buffers())}
        found = {}

        def pack(tensor):
            found[StorageWeakRef(tensor.untyped_storage())] = tensor
            return tensor

        ids = torch.zeros(batch, tokens, dtype=torch.long)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            _ = model(input_ids=ids, labels=ids, use_cache=False).loss
        own.add(StorageWeakRef(ids.untyped_storage()))
        return tensors, sum(t.untyped_storage().nbytes() for key, t in found.items() if key not in own)


def _causal(module, query, key, value, attention_mask=None, scaling=None, dropout=0.0, **_):
    """As transformers computes it with PyTorch's kernel where nothing is padded; (n, heads, t, d) each."""
    y = nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
    )
    return y.transpose(1, 2).contiguous(), None


def _attach(model: nn.Module, variant: Variant, targets: Patterns | None) -> None:
    """As `attach`, without the start from the base's values or from data: shapes do not depend on them."""
    adapters = {}
    for path, layer in select(model, targets, ("lm_head", "embed"), None).items():
        specs = specs_of(variant, path, layer)
        tensors = {name: spec.make_tensor(torch.float32, "cpu") for name, spec in specs.items()}
        adapters[path] = LayerAdapter(variant, path, tensors, buffers_of(specs), variant.layer_scale())
        with torch.no_grad():
            adapters[path].derive(layer)
    install(model, [adapters])


def _tensors(model: nn.Module) -> tuple[Held, ...]:
    """Each once, tied ones too; equal ones of the blocks together."""
    blocks = _blocks(model)
    trained = {id(p) for layer in adapted_layers(model) for p in layer.adapter.parameters()}
    found: dict[Held, int] = {}
    for part, owner in (("block", blocks), ("rest", model)):
        inside = {id(t) for t in _of(blocks)} if part == "rest" else set()
        linear = {id(m.weight) for m in blocks.modules() if isinstance(m, nn.Linear)}
        seen = set()
        for tensor, is_buffer in _of_kind(owner):
            if id(tensor) in inside | seen:
                continue
            seen.add(id(tensor))
            kind = "frozen" if is_buffer else "trained" if id(tensor) in trained else "weight"
            one = Held(tuple(tensor.shape), tensor.element_size(), 0, part, kind, id(tensor) in linear)
            found[one] = found.get(one, 0) + 1
    return tuple(replace(one, times=times) for one, times in found.items())


def _blocks(model: nn.Module) -> nn.ModuleList:
    """The list of the model's equal blocks: the longest there is."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len)


def _of(module: nn.Module) -> Iterable[torch.Tensor]:
    return (tensor for tensor, _ in _of_kind(module))


def _of_kind(module: nn.Module):
    yield from ((tensor, False) for tensor in module.parameters())
    yield from ((tensor, True) for tensor in module.buffers())
