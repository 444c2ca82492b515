"""The base model answers in the page, with or without an adapter."""

import html
from collections.abc import Sequence

import torch
from safetensors.torch import load

from ..base import answer
from ..style import MARKS
from .base_model import AsksBaseModel, pack_adapter
from .figure import Figure


class _Answers:
    """The ready questions and their answers where no script runs."""

    def __init__(self, title: str, prompts: Sequence[str], answers: Sequence[str]):
        self.title, self.pairs = title, list(zip(prompts, answers))

    def html(self) -> str:
        items = "".join(f"<li><code>{html.escape(q)}</code> {html.escape(a)}</li>" for q, a in self.pairs)
        return f"<p><strong>{html.escape(self.title)}</strong></p><ul>{items}</ul>"

    def __repr__(self) -> str:
        return "\n".join([self.title, *(f"{q} {a}" for q, a in self.pairs)])


class Ask(AsksBaseModel, Figure, js="ask.js"):
    """The reader asks; the embedded base model answers in the page.

    Args:
        model, tokenizer: the base model, with or without adapters attached.
        prompts: questions to choose from; any other can be typed.

    Raises:
        ValueError: an adapter's difference is not of low rank, so it has no strength to be set.
    """

    def __init__(self, model, tokenizer, prompts: Sequence[str], title: str = "Ask the model"):
        answers = [answer(model, tokenizer, prompt) for prompt in prompts]
        names = dict.fromkeys(m.adapter.variant.name for m in model.modules() if hasattr(m, "adapter"))
        variant = " + ".join(MARKS[name].label if name in MARKS else name for name in names)
        adapter = pack_adapter(model, torch.float16) if names else None
        if adapter and not all(name.endswith((".A", ".B")) for name in load(adapter)):
            raise ValueError(f"what {variant} adds is not of low rank: it cannot be scaled in the page")
        super().__init__(
            {"prompts": list(prompts), "answers": answers, "adapter": adapter, "variant": variant, "title": title}
        )

    def still(self) -> _Answers:
        return _Answers(self.data["title"], self.data["prompts"], self.data["answers"])
