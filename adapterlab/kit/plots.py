"""The chapters' still pictures: data in, a Picture with its alt text out."""

import json
from importlib import resources

import torch
from torch import Tensor

from . import style
from .show import Picture
from .tasks import SKILLS, pair_is_held_out


def held_out_pairs() -> Picture:
    """Which pairs of two-digit numbers no training batch shows."""
    numbers = range(10, 100)
    grid = [[pair_is_held_out(a, b) for b in numbers] for a in numbers]
    fig, axes = style.figure(width=4.2, height=4.0)
    axes.imshow(grid, origin="lower", extent=(10, 100, 10, 100), cmap="Blues", vmin=-0.1, vmax=1.2)
    axes.plot(28.5, 57.5, "o", markersize=13, fillstyle="none", color=style.MARKS["hra"].line)
    axes.annotate(
        "57+28",
        (28.5, 57.5),
        (34, 62),
        color=style.MARKS["hra"].light,
        bbox={"facecolor": style.CARD, "edgecolor": "none", "pad": 2},
    )
    axes.set(title="held-out pairs", xlabel="second number", ylabel="first number")
    axes.grid(False)
    return Picture(
        fig,
        "A 90 by 90 grid of pairs of numbers. The held-out pairs are spread over it without a visible pattern, "
        "mirrored about the diagonal; 57+28 is one of them.",
        "Each dark cell is a pair that no training batch shows.",
    )


def pretraining_log() -> Picture:
    """The base model's skills while it was pretrained, from the log that ships with its weights."""
    log = json.loads((resources.files("adapterlab.kit") / "data/base/pretraining.json").read_text())
    steps = [row["step"] for row in log["rows"]]
    order = sorted(SKILLS, key=lambda name: -sum(row[name] for row in log["rows"]))  # earliest first
    fig, axes = style.figure(height=3.2)
    for name, mark in zip(order, style.MARKS.values()):
        axes.plot(steps, [row[name] for row in log["rows"]], color=mark.line, label=name)
    axes.set(title="held-out exact match while it was pretrained", xlabel="step", ylim=(-0.03, 1.03))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return Picture(
        fig,
        f"Exact match of the eight skills over {steps[-1]} steps of pretraining. "
        f"First to come is {order[0]}, last is {order[-1]}.",
        f"From the log: {log['command']}, torch {log['versions']['torch']}, {log['machine']}.",
    )


def thin_product(A: Tensor, B: Tensor, s: float, k: int = 16) -> Picture:
    """A (r, d_in), B (d_out, r) and s B A drawn to one scale, and the first k singular values of s B A."""
    A, B = A.detach().double(), B.detach().double()
    product = s * B @ A
    (d_out, d_in), r = product.shape, len(A)
    values = torch.linalg.svdvals(product)[:k]
    fig, axes = style.figure(columns=4, height=2.5)
    for ax, matrix, title in zip(axes, (A, B, product), ("A", "B", "s B A")):
        limit = matrix.abs().quantile(0.99)
        ax.set_facecolor(style.GRID)  # what a full-sized matrix would fill
        ax.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit)
        ax.set(title=title, xticks=[], yticks=[], xlim=(-0.5, d_in - 0.5), ylim=(d_out - 0.5, -0.5))
        ax.grid(False)
    axes[3].semilogy(range(1, k + 1), values.clamp(min=1e-18), "o", color=style.MARKS["lora"].line, markersize=4)
    axes[3].axvline(r + 0.5, color=style.MUTED, linestyle=":")
    axes[3].set(title="singular values", xlabel="index")
    return Picture(
        fig,
        f"Three matrices drawn to one scale: A is a flat strip of {r} rows, B a narrow strip of {r} columns, their "
        f"product fills the whole {d_out} by {d_in}. Beside them the product's singular values: {r} of one size, "
        "then nothing but rounding.",
        f"Left to right: A, B, their product, its singular values on a logarithmic axis; the dotted line is at {r}.",
    )
