"""AntiPaSTO's slider: a coefficient and a cap, the axes that turn and stretch, and what the model answers."""

from collections.abc import Sequence
from dataclasses import replace
from math import atan, cos, pi, sin, tan, tanh

import torch
from torch import Tensor, nn

from ... import effective_weight
from .. import style
from ..base import answer, evaluate
from ..show import Picture
from .figure import Figure, rounded

COEFFICIENTS = [k / 4 for k in range(-8, 9)]
CAPS = (0.05, 0.15, 0.5)
SKILLS = {"add_rev": ["add_rev"], "add, sub": ["add", "sub"], "sort": ["sort"]}


def tips(pair: dict, cap: float, c: float) -> tuple[float, list[list[float]]]:
    """The angle by which two axes turn, and where W' takes v_1 and v_2, in (u_1, u_2); as antipasto_steer.js has it.

    Args:
        pair: S and dS of the two axes, and t, their trained entry of lora_rot_T.
    """
    limit = 2 * tan(cap / 2)
    angle = 2 * atan(limit * tanh(c * pair["t"] / 2 / limit) / 2)
    one, two = (s + c * ds for s, ds in zip(pair["S"], pair["dS"]))
    return angle, [[one * cos(angle), -two * sin(angle)], [one * sin(angle), two * cos(angle)]]


class AntipastoSteer(Figure, js="antipasto_steer.js"):
    """A trained AntiPaSTO, steered: geometry in the page, answers and scores computed here for a grid.

    Args:
        model, tokenizer: with AntiPaSTO attached and trained; as they were afterwards.
        adapter: the handle of that attach.
        layer: whose two most turned axes are drawn.
        prompts: questions whose answers are shown.
        caps: values of max_angle to be tried on the same trained numbers.
        n: held-out examples of each task that a score is taken on.
    """

    def __init__(self, model, tokenizer, adapter, layer: nn.Module, prompts: Sequence[str], caps=CAPS, n: int = 64):
        trained = layer.adapter.variant.max_angle
        found = {"answers": [], "cosines": [], "scores": {name: [] for name in SKILLS}}
        before = adapter.coefficient, {path: model.get_submodule(path).adapter.variant for path in adapter.targets}
        try:
            for cap in caps:
                for path, variant in before[1].items():
                    model.get_submodule(path).adapter.variant = replace(variant, max_angle=cap)
                _look(model, tokenizer, adapter, prompts, n, found)
        finally:
            adapter.coefficient = before[0]
            for path, variant in before[1].items():
                model.get_submodule(path).adapter.variant = variant
        told = {"caps": list(caps), "trained": trained, "coefficients": COEFFICIENTS, "prompts": list(prompts)}
        super().__init__(rounded({"pair": _pair(layer), **told, **found}))

    def still(self) -> Picture:
        data, mark = self.data, style.MARKS["antipasto"]
        k, coefficients = data["caps"].index(data["trained"]), data["coefficients"]
        fig, (plane, behaviour, weights) = style.figure(columns=3, height=2.9)
        for c, colour, width in ((0, style.MUTED, 1.2), (-1, mark.line, 1.0), (1, mark.line, 2.6)):
            _, (v, w) = tips(data["pair"], data["trained"], c)
            ring = [
                (v[0] * cos(a) + w[0] * sin(a), v[1] * cos(a) + w[1] * sin(a)) for a in (k * pi / 40 for k in range(81))
            ]
            plane.plot(*zip(*ring), color=colour, linewidth=0.8)
            for tip in (v, w):
                arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
                plane.annotate("", tip, (0, 0), arrowprops=arrow)
        plane.set(title="two axes: -1, 0 and 1", aspect="equal", xticks=[], yticks=[])
        plane.spines[:].set_visible(False)
        for name, colour, width in zip(SKILLS, (mark.line, style.INK, style.MUTED), (2.8, 2.0, 2.0)):
            behaviour.plot(coefficients, data["scores"][name][k], color=colour, linewidth=width, label=name)
        behaviour.set(title="exact match", xlabel="coefficient", ylim=(-0.03, 1.03))
        behaviour.legend(fontsize=8, loc="upper left")
        for cap, cosines in zip(data["caps"], data["cosines"]):
            chosen = cap == data["trained"]
            weights.plot(coefficients[9:], cosines, color=mark.line, linewidth=2.6 if chosen else 0.8)
            weights.text(
                2.05, cosines[-1], f"{cap:g}", color=style.INK if chosen else style.MUTED, va="center", fontsize=8
            )
        weights.set(title="cosine, dW(c) and dW(-c)", xlabel="c; one line a cap", ylim=(-1.03, 0.03))
        best = {name: coefficients[rows[k].index(max(rows[k]))] for name, rows in data["scores"].items()}
        peaks = ", ".join(f"{name} at {c:g}" for name, c in best.items())
        return Picture(
            fig,
            "Left, the two axes of W that turn most, as arrows on their ellipse, at coefficients -1, 0 and 1: the two "
            f"turned pairs lie on either side of the base. Middle, exact match by the coefficient: best are {peaks}. "
            "Right, the cosine between the differences at c and at -c: near -1 for small c, rising with c.",
            "The first frame. In the book, in JupyterLab and in Colab the coefficient and the cap can be moved.",
        )


@torch.no_grad()
def _look(model, tokenizer, adapter, prompts, n, found) -> None:
    """Under the present cap: answers, scores and cosines for all coefficients, put into `found`."""
    answers, scores, differences = [], {name: [] for name in SKILLS}, {}
    with adapter.frozen():
        for c in COEFFICIENTS:
            adapter.coefficient = c
            answers.append([answer(model, tokenizer, prompt, max_new_tokens=8) for prompt in prompts])
            for name, tasks in SKILLS.items():
                each = [evaluate(model, tokenizer, task, n)["exact_match"] for task in tasks]
                scores[name].append(sum(each) / len(each))
            differences[c] = _difference(model, adapter)
    found["answers"].append(answers)
    for name in SKILLS:
        found["scores"][name].append(scores[name])
    pairs = [(differences[c], differences[-c]) for c in COEFFICIENTS if c > 0]
    found["cosines"].append([torch.cosine_similarity(plus, minus, dim=0).item() for plus, minus in pairs])


def _difference(model, adapter) -> Tensor:
    """W' - W of all adapted layers, end to end."""
    layers = [model.get_submodule(path) for path in adapter.targets]
    return torch.cat([(effective_weight(layer)[0] - layer.weight).flatten() for layer in layers])


def _pair(layer: nn.Module) -> dict:
    """The two axes whose turn moves W most: their numbers."""
    p, size = layer.adapter, layer.adapter.variant.block_size
    i, j = torch.triu_indices(size, size, 1)
    S = p.lora_S.view(-1, size)
    moved = p.lora_rot_T.detach().abs() * (S[:, i] * S[:, j]).sqrt()
    block, k = divmod(int(moved.argmax()), len(i))
    axes = [block * size + int(i[k]), block * size + int(j[k])]
    numbers = {"S": p.lora_S[axes].tolist(), "dS": p.lora_delta_s.detach()[axes].tolist()}
    return {**numbers, "t": p.lora_rot_T[block, k].item(), "axes": [axis + 1 for axis in axes]}
