"""What a training run looks like from inside: answers, gradients and singular values by step."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import adapterlab as al

from .base import answer

SINGULAR_VALUES = 12  # as many of the largest are kept


@dataclass
class Trace:
    """What the run scrubber shows beside the curves; see `train(trace=...)`.

    Attributes:
        layer: name of the layer whose change is followed.
        answers: (steps done, the model's greedy answer to the prompt).
        spectra: (steps done, largest singular values of W' - W, norm(W' - W) / norm(W)).
        gradients: for each kind of parameter the gradient's norm over all layers, step by step, before clipping.
    """

    prompt: str
    wanted: str
    layer: str
    answers: list[tuple[int, str]] = field(default_factory=list)
    spectra: list[tuple[int, list[float], float]] = field(default_factory=list)
    gradients: dict[str, list[float]] = field(default_factory=dict)


class Tracer:
    """Fills a Trace. `gradients` is called after each backward pass, `look` with each number of steps done."""

    def __init__(self, model: nn.Module, tokenizer, prompt: str, wanted: str, every: int = 2):
        self.model, self.tokenizer, self.every = model, tokenizer, every
        name, self.layer = _layer_to_follow(model)
        self.trace = Trace(prompt, wanted, name)
        self.start = self._weight().clone()

    @torch.no_grad()
    def gradients(self) -> None:
        squares: dict[str, float] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                kind = name.rsplit(".", 1)[-1]
                squares[kind] = squares.get(kind, 0.0) + parameter.grad.double().square().sum().item()
        for kind, square in squares.items():
            self.trace.gradients.setdefault(kind, []).append(square**0.5)

    @torch.no_grad()
    def look(self, done: int, last: bool = False) -> None:
        if done % self.every and not last:
            return
        training = self.model.training
        self.model.eval()
        self.trace.answers.append((done, answer(self.model, self.tokenizer, self.trace.prompt)))
        self.model.train(training)
        change = self._weight() - self.start
        values = torch.linalg.svdvals(change)[:SINGULAR_VALUES].tolist()
        self.trace.spectra.append((done, values, (change.norm() / self.start.norm()).item()))

    @torch.no_grad()
    def _weight(self) -> Tensor:
        weight = al.effective_weight(self.layer)[0] if hasattr(self.layer, "adapter") else self.layer.weight
        return weight.detach().double()


def _layer_to_follow(model: nn.Module) -> tuple[str, nn.Module]:
    """The second q_proj, among the adapted layers where there are any; without a q_proj the second layer."""
    layers = [(name, m) for name, m in model.named_modules() if hasattr(m, "adapter")]
    layers = layers or [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    chosen = [(name, m) for name, m in layers if name.endswith("q_proj")] or layers
    return chosen[min(1, len(chosen) - 1)]
