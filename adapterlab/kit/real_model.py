"""A model from the hub where there is a GPU for it, and what it will need, told beforehand."""

import functools
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import adapterlab as al

from .base import load_base

TARGETS = r"_proj$"
TOKENS = 64  # of a row that is run on shapes


def load(name: str | None):
    """The model of that name on the GPU, or the embedded base and why.

    In bfloat16 where the GPU computes in it, else in float32: in float16 activations of such models can overflow.

    Returns:
        (model, tokenizer, a sentence that says what was loaded, and why)
    """
    if name is None:
        return *load_base(), "MODEL is None, so this is the embedded base model, on the CPU."
    if not torch.cuda.is_available():
        return *load_base(), f"There is no GPU here for {name}, so this is the embedded base model, on the CPU."
    fast = torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        model, tokenizer = load_base(name, dtype=torch.bfloat16 if fast else torch.float32)
    except (ConnectionError, FileNotFoundError) as error:
        return *load_base(), f"{error}. So this is the embedded base model, on the CPU."
    said = f"{name}, in {'bfloat16' if fast else 'float32'}, on {torch.cuda.get_device_name()}."
    return model.to("cuda"), ready(tokenizer), said


def ready(tokenizer):
    """With a pad token: some base models have none. Padding is masked, so any token will do."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


# ---- on shapes alone ------------------------------------------------------------------------------


def shapes() -> dict[str, Callable]:
    """Configurations of hub models by name, as their config.json says: numbers, no weights. Both are Apache 2.0."""
    from transformers import LlamaConfig, Qwen3Config

    return {
        "Qwen/Qwen3-0.6B": lambda layers=28: Qwen3Config(
            vocab_size=151_936,
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=layers,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            tie_word_embeddings=True,
        ),
        "HuggingFaceTB/SmolLM2-135M": lambda layers=30: LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=layers,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        ),
    }


@dataclass(frozen=True)
class Sizes:
    """What a plan is made of.

    Attributes:
        parameters: of the base; trained: of the adapter.
        kept: bytes that one token leaves for the backward pass, the loss aside.
        vocabulary: logits of one token.
    """

    parameters: int
    trained: int
    kept: int
    vocabulary: int


def sizes(name: str, variant: al.Variant, targets=TARGETS, checkpointing: bool = False) -> Sizes:
    """Of a model of `shapes()` with an adapter on it, in float32, without its weights: tensors that have a shape and
    no numbers run through two blocks and through three, and the rest is a straight line.

    With checkpointing, kept holds what one block keeps too, the one that is being computed again, as if it were there
    while the logits are: a bound from above.
    """
    plain, block = _line(name, variant, targets, False)
    if not checkpointing:
        return plain
    return replace(plain, kept=_line(name, variant, targets, True)[0].kept + block.kept)


@functools.lru_cache
def _line(name: str, variant: al.Variant, targets, checkpointed: bool) -> tuple[Sizes, Sizes]:
    """The whole model's sizes, and those of one block."""
    config = shapes()[name]
    few, more = (astuple(_on_shapes(config(n), variant, targets, checkpointed)) for n in (2, 3))
    block = [b - a for a, b in zip(few, more)]
    whole = [a + (config().num_hidden_layers - 2) * b for a, b in zip(few, block)]
    return Sizes(*whole), Sizes(*block)


def of(model: nn.Module, adapter: al.Adapter) -> Sizes:
    """Of a model that is there, with its adapter on."""
    parameters = sum(p.numel() for p in model.parameters()) - adapter.num_parameters
    training = model.training
    model.train()
    one, two = _kept(model, 1), _kept(model, 2)  # their difference: what depends on no token drops out
    model.train(training)
    return Sizes(parameters, adapter.num_parameters, (two - one) // TOKENS, model.config.vocab_size)


def _on_shapes(config, variant: al.Variant, targets, checkpointing: bool) -> Sizes:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM

    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(config)
        adapter = al.attach(model, variant, targets=targets)
        if checkpointing:
            checkpoint(model)
        return of(model, adapter)


def _kept(model: nn.Module, rows: int) -> int:
    """As `bench.costs.saved` counts, by storages instead of addresses: tensors without numbers have none."""
    own = {StorageWeakRef(t.untyped_storage()) for t in (*model.parameters(), *model.buffers())}
    found = {}

    def pack(tensor):
        found[StorageWeakRef(tensor.untyped_storage())] = tensor
        return tensor

    ids = torch.zeros(rows, TOKENS, dtype=torch.long, device=model.device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _ = model(input_ids=ids, attention_mask=padded(ids), use_cache=False).logits
    return sum(tensor.untyped_storage().nbytes() for key, tensor in found.items() if key not in own)


def padded(ids: torch.Tensor) -> torch.Tensor:
    """A mask with a pad in it, as batches have: attention without any keeps less."""
    mask = torch.ones_like(ids)
    mask[:, -1] = 0
    return mask


def checkpoint(model: nn.Module) -> None:
    """Keep the input of each block alone, and compute the rest again in the backward pass."""
    model.config.use_cache = False
    # Its name since transformers 5.2, and the one before.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


# ---- measured -------------------------------------------------------------------------------------


def peak(model: nn.Module, batch: dict) -> int:
    """Bytes that a training step on the batch allocates at most, beyond the parameters."""
    from ..bench.costs import Contender
    from ..bench.costs import peak as measured
    from .batches import answer_loss

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            return x + answer_loss(logits, batch["labels"])

    class Setting:
        device = model.device.type

        def inputs(self):
            return torch.zeros((), device=self.device)

    training = model.training
    found = measured(Contender("adapterlab", Step()), Setting())
    model.train(training)
    return found
