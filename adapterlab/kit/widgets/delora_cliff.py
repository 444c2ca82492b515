"""DeLoRA's figure: from B = 0 the first step goes as far at any learning rate, and the narrower the layer, the further.

What the page computes is computed here with the package's own DeLoRA and LoRA, for the still and for the tests.
"""

import math

import torch

import adapterlab as al

from .. import style
from ..show import Picture
from .figure import Figure, rounded
from .lora_rates import normal, uniform

SETTING = {
    "d_out": 64,
    "batch": 8,
    "goal": 0.2,  # size of the random targets; the base's outputs are of size 0.6
    "steps": 20,
    "rates": [rounded(10 ** (-7 + k / 4), 2) for k in range(25)],
    "lambdas": [1, 4, 15],
    "ranks": [2, 8, 32],
    "widths": [128, 1024, 4096],
}


class DeloraCliff(Figure, js="delora_cliff.js"):
    """The reader sets learning rate, lambda, rank, width and start; the page trains 20 steps, and LoRA beside them."""

    def __init__(self, lambda0: int = 15, r: int = 8, d_in: int = 128, rate: float = 1e-3):
        chosen = {"lambdas": lambda0, "ranks": r, "widths": d_in, "rates": rate}
        for name, value in chosen.items():
            if value not in SETTING[name]:
                raise ValueError(f"{value!r} is none of the {name}: choose one of {SETTING[name]}")
        super().__init__({**SETTING, "lambda0": lambda0, "r": r, "d_in": d_in, "rate": rate})

    def still(self) -> Picture:
        data = self.data
        r, d_in, lambda0, rate = data["r"], data["d_in"], data["lambda0"], data["rate"]
        variants = {
            "lora": al.LoRA(r, alpha=2 * r),
            "delora": al.DeLoRA(r, lambda0=lambda0),
        }
        fig, (left, right) = style.figure(columns=2, height=3.0)
        firsts = {}
        for name, variant in variants.items():
            mark = style.MARKS[name]
            moved = rounded(train(data, variant, d_in, rate, data["steps"]))
            first = rounded([train(data, variant, d_in, lr, 1)[1] for lr in data["rates"]])
            firsts[name] = first[data["rates"].index(rate)]
            left.plot(moved, f"{mark.marker}-", color=mark.line, label=mark.label, markersize=3)
            right.loglog(data["rates"], first, color=mark.line)
        left.axhline(lambda0 / math.sqrt(d_in), color=style.MUTED, linewidth=1, label="bound")
        left.set(title="|ΔW| / |W| step by step", xlabel="step", ylim=(0, 1.4), xticks=range(0, 21, 5))
        left.legend(ncols=3, fontsize=8.5, columnspacing=1, handlelength=1.2)
        right.set(title="after one step, at every rate", xlabel="learning rate")
        return Picture(
            fig,
            f"Left: with lambda = {lambda0}, r = {r}, {d_in} inputs and a rate of {rate:g} DeLoRA jumps to "
            f"{firsts['delora']:.2g} of the weight's norm in its first step and stays about there, below its bound; "
            f"LoRA rises slowly from {firsts['lora']:.1g}. Right: after one step, at every rate: DeLoRA is flat over "
            "four of six decades, LoRA a straight line.",
            "From B = 0 the first step is the same at nearly every rate. Change the start, and it follows the rate.",
        )


def train(setting: dict, variant: al.Variant, d_in: int, rate: float, steps: int) -> list[float]:
    """|dW| / |W| before and after each step of AdamW, by the package in float64, on delora_cliff.js's task."""
    d_out, batch, r = setting["d_out"], setting["batch"], variant.r
    layer = torch.nn.Linear(d_in, d_out, bias=False, dtype=torch.float64)
    torch.nn.init.constant_(layer.weight, 1 / math.sqrt(3 * d_in))  # column norms are all that matters of it
    W = layer.weight.clone()
    x = torch.tensor(normal(1, batch * d_in)).reshape(batch, d_in)
    goal = layer(x).detach() + setting["goal"] * torch.tensor(normal(2, batch * d_out)).reshape(batch, d_out)
    adapter = al.attach(layer, variant, dtype=torch.float64)
    starts = {
        "lora_A": torch.tensor(2 * uniform(3, r * d_in) - 1).reshape(r, d_in) / math.sqrt(d_in),
        "lora_B": torch.tensor(2 * uniform(4, d_out * r) - 1).reshape(d_out, r) / math.sqrt(r),
    }
    with torch.no_grad():
        for name, start in starts.items():
            copied = getattr(layer.adapter, f"{name}0", None)
            if name == "lora_A" or copied is not None:
                getattr(layer.adapter, name).copy_(start)
            if copied is not None:
                copied.copy_(start)
    optimizer = torch.optim.AdamW(adapter.parameters(), rate, weight_decay=0.0)
    moved = [0.0]
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(x) - goal).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            moved.append(((al.effective_weight(layer)[0] - W).norm() / W.norm()).item())
    return moved
