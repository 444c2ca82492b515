"""IA3's figure: sixteen gates in float32 and in bfloat16, and where one step from 1 rounds to."""

import torch

from .. import style
from ..show import Picture
from .figure import Figure

# Where each gate wants to go, in units of 1 / 1000 from 1: eight up, eight down, no two alike.
WANTED = [48, -31, 26, -62, 71, -44, 33, -27, 57, -70, 41, -36, 64, -52, 29, -58]
RATES = [0.0005, 0.001, 0.0015, 0.0025, 0.003, 0.0035, 0.005, 0.007, 0.01, 0.015]
STEPS = 40


def run(rate: float, steps: int, dtype: torch.dtype) -> torch.Tensor:
    """The gates after so many steps of torch's own Adam on sum (g - target)^2 / 2, as ia3_gates.js computes them."""
    targets = 1 + torch.tensor(WANTED, dtype=torch.float64) / 1000
    gates = torch.ones(len(WANTED), dtype=dtype).requires_grad_()
    adam = torch.optim.Adam([gates], rate, foreach=False)
    for _ in range(steps):
        gates.grad = (gates.detach() - targets).to(dtype)
        adam.step()
    return gates.detach().double()


class Ia3Gates(Figure, js="ia3_gates.js"):
    """The reader sets the learning rate and the step, and sees which of sixteen gates have moved in which format."""

    def __init__(self):
        super().__init__({"wanted": WANTED, "rates": RATES, "steps": STEPS})

    def still(self) -> Picture:
        ia3, muted, ink = style.MARKS["ia3"].line, style.MUTED, style.INK
        fig, axes = style.figure(columns=3, height=3.0)
        for ax, (name, dtype) in zip(axes, {"float32": torch.float32, "bfloat16": torch.bfloat16}.items()):
            gates = run(0.003, 12, dtype)
            if dtype == torch.bfloat16:
                below, above = (1 - k / 256 for k in range(1, 20)), (1 + k / 128 for k in range(1, 10))
                ax.hlines([*below, *above], -0.5, 15.5, color=style.GRID, linewidth=0.7)
            ax.axhline(1, color=muted, linewidth=1)
            ax.plot([1 + w / 1000 for w in WANTED], "_", color=ink, markersize=7)
            moved = gates != 1
            k = torch.arange(len(gates))
            ax.plot(k[moved], gates[moved], "s", color=ia3, markersize=5)
            ax.plot(k[~moved], gates[~moved], "s", color=muted, fillstyle="none", markersize=5)
            ax.set(title=name, ylim=(0.92, 1.08), xticks=[], xlabel="12 steps of 0.003")
            ax.grid(False)
        line = axes[2]
        line.axvspan(-0.5, 1, color=style.GRID)
        line.plot([-3, -2, -1, 0, 2, 4], [0] * 6, "|", color=ink, markersize=14)
        line.axhline(0, color=ink, linewidth=1)
        for sense in (-1, 1):
            arrow = {"arrowstyle": "-|>", "color": ia3, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
            line.annotate("", (sense * 0.003 * 256, 0.35), (0, 0.35), arrowprops=arrow)
        line.plot([-1, 0], [0, 0], "o", color=ia3)
        line.text(0.25, 0.7, "rounds to 1", ha="center", color=ink)
        line.set(title="one step from 1", xlim=(-3.4, 4.4), ylim=(-1, 1), yticks=[], xticks=[-2, 0, 2, 4])
        line.set_xticklabels(["1-1/128", "1", "1+1/128", "1+1/64"], fontsize=8)
        line.grid(False)
        return Picture(
            fig,
            "Sixteen gates after 12 steps of 0.003. In float32 eight have risen and eight have sunk. In bfloat16 the "
            "eight that should rise are still exactly 1, the others have sunk. Right: near 1 the numbers of bfloat16 "
            "lie twice as far apart above as below, so a step of 0.003 rounds back to 1 upwards and not downwards.",
            "Dashes: where each gate wants to go. Hollow: still exactly 1.",
        )
