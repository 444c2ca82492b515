"""LoRA's figure: rank, alpha and learning rate are one knob, by sweeps that the page trains itself."""

import numpy as np

from .. import style
from ..show import Picture
from .figure import Figure, rounded

SETTING = {
    "d": 16,
    "rank": 4,
    "steps": 80,
    "batch": 8,
    "noise": 0.5,
    "seeds": [1, 2, 3],
    "rates": [rounded(10 ** (-4 + 4 * k / 14), 4) for k in range(15)],
    "ranks": [1, 2, 4, 8, 16, 32],
    "alphas": [1, 2, 4, 8, 16, 32, 64, 128],
    "watched": 6,  # first steps in which A and B are followed
}


class LoraRates(Figure, js="lora_rates.js"):
    """The reader sets r, alpha and the scale's rule; 45 small LoRAs are trained anew, and the U of loss slides."""

    def __init__(self, r: int = 8, alpha: int = 16):
        for name, value, allowed in (("r", r, SETTING["ranks"]), ("alpha", alpha, SETTING["alphas"])):
            if value not in allowed:
                raise ValueError(f"{name} = {value}: choose one of {allowed}")
        super().__init__({**SETTING, "r": r, "alpha": alpha})

    def still(self) -> Picture:
        rates, (r, alpha) = self.data["rates"], (self.data["r"], self.data["alpha"])
        losses = rounded(list(sweep(self.data, r, alpha / r)))
        best = int(np.argmin(losses))
        fig, ax = style.figure(height=3.2)
        ax.loglog(rates, losses, "o-", color=style.MARKS["lora"].line, markersize=5)
        ax.plot(rates[best], losses[best], "o", color=style.MARKS["lora"].line, markersize=13, fillstyle="none")
        ax.set(ylim=(0.01, 2), xlabel="learning rate", title="share of the difference not learnt")
        return Picture(
            fig,
            f"Loss against learning rate on logarithmic axes, for r = {r} and alpha = {alpha}: a U that falls to its "
            f"lowest point between {rates[best - 1]:.2g} and {rates[best + 1]:.2g}, and rises after it.",
            f"Each dot is a small LoRA, r = {r}, alpha = {alpha}, the median of three seeds. Change r, alpha or the "
            "scale's rule, and the U slides.",
        )


def sweep(setting: dict, r: int, s: float) -> np.ndarray:
    """Median loss at each rate, as lora_rates.js trains it: all rates and seeds at once."""
    d, steps, batch, rates = setting["d"], setting["steps"], setting["batch"], np.array(setting["rates"])
    D = _difference(d, setting["rank"])
    losses = []
    for seed in setting["seeds"]:
        X = normal(3 * seed, steps * batch * d).reshape(steps, batch, d)
        noise = setting["noise"] * normal(3 * seed + 1, steps * batch * d).reshape(steps, batch, d)
        A = np.tile((2 * uniform(3 * seed + 2, r * d) - 1).reshape(r, d) / np.sqrt(d), (len(rates), 1, 1))
        B = np.zeros((len(rates), d, r))
        moments = [[np.zeros_like(p), np.zeros_like(p)] for p in (A, B)]
        for t in range(steps):
            error = X[t] @ (s * B @ A - D).transpose(0, 2, 1) - noise[t]  # (rates, batch, d)
            G = error.transpose(0, 2, 1) @ X[t]  # the gradient of W'
            for p, g, (m, v) in zip((A, B), (s * B.transpose(0, 2, 1) @ G, s * G @ A.transpose(0, 2, 1)), moments):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                c, root = 1 - 0.9 ** (t + 1), 1 - 0.999 ** (t + 1)
                p -= rates[:, None, None] * m / c / (np.sqrt(v / root) + 1e-8)
        losses.append(((s * B @ A - D) ** 2).sum((1, 2)) / (D**2).sum())
    return np.median(losses, axis=0)


def _difference(d: int, rank: int) -> np.ndarray:
    uv = normal(0, 2 * d * rank).reshape(rank, 2, d)
    return np.einsum("ki,kj->ij", uv[:, 0], uv[:, 1]) / np.sqrt(d * rank)


def uniform(seed: int, n: int) -> np.ndarray:
    """The first n numbers of blocks.js's random(seed).uniform: mulberry32."""
    with np.errstate(over="ignore"):
        a = np.uint32(seed) + np.arange(1, n + 1, dtype=np.uint32) * np.uint32(0x6D2B79F5)
        t = (a ^ (a >> np.uint32(15))) * (a | np.uint32(1))
        t ^= t + (t ^ (t >> np.uint32(7))) * (t | np.uint32(61))
        return (t ^ (t >> np.uint32(14))) / 2**32


def normal(seed: int, n: int) -> np.ndarray:
    """The first n numbers of random(seed).normal: Box and Muller's, each from two uniform ones."""
    u = uniform(seed, 2 * n).reshape(n, 2)
    return np.sqrt(-2 * np.log(1 - u[:, 0])) * np.cos(2 * np.pi * u[:, 1])
