"""What is measured on, and what stands on it: the bare base, a variant of ours, PEFT's."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import peft
from ..runtime import Adapter, attach
from ..variant import Variant

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
