"""The chapters' still pictures: data in, a Picture with its alt text out."""

import json
from importlib import resources

import torch
from torch import Tensor

from .. import effective_weight
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


def mirror_triangle(U: Tensor) -> Picture:
    """HRA's compact WY form for the rows of U (r, d_in): what the mirrors know of each other, and its inverse T."""
    Q = torch.nn.functional.normalize(U.detach().double(), dim=1)
    gram = Q @ Q.t()
    triangle = gram.triu(1) + gram.diagonal().diag() / 2
    parts = {
        "$Q\\,Q^T$": gram,
        "$T^{-1}$: above, and half the diagonal": triangle,
        "$T$": torch.linalg.inv(triangle),
    }
    fig, axes = style.figure(columns=3, height=2.7)
    for ax, (title, matrix) in zip(axes, parts.items()):
        shown = [[round(value, 1) + 0.0 for value in row] for row in matrix.tolist()]  # + 0.0: no minus zero
        ax.imshow(shown, cmap="RdBu", vmin=-8, vmax=8)  # pale: the numbers stay legible
        for i, row in enumerate(shown):
            for j, value in enumerate(row):
                empty = j < i and matrix is not gram
                words = "·" if empty else f"{value:.1f}".replace("-", "\N{MINUS SIGN}")
                ax.text(j, i, words, ha="center", va="center", color=style.MUTED if empty else style.INK)
        ax.set(title=title, xticks=[], yticks=[])
        ax.grid(False)
    return Picture(
        fig,
        f"Three {len(U)} by {len(U)} matrices with their numbers: the products of all pairs of rows with ones on the "
        "diagonal; the same with nothing below the diagonal and halves on it; and the inverse of that, again with "
        "nothing below the diagonal and twos on it.",
        f"For {len(U)} unit rows: their products, the triangle that is kept of them, and T, the triangle's inverse. "
        "The 2 of each single mirror stands on T's diagonal, what the mirrors do to each other above it.",
    )


def what_is_kept(W: Tensor, after: dict[str, Tensor]) -> Picture:
    """Singular values, row norms and cosines between rows of W against those of W' for each variant in `after`."""

    def measures(weight: Tensor) -> dict[str, list[float]]:
        weight = weight.detach().double()
        rows = torch.nn.functional.normalize(weight, dim=1)
        above = torch.triu_indices(len(rows), len(rows), 1)[:, ::64]  # of so many pairs a part is enough
        return {
            "singular values": torch.linalg.svdvals(weight).tolist(),
            "lengths of rows": weight.norm(dim=1).tolist(),
            "cosines between rows": (rows @ rows.t())[above[0], above[1]].tolist(),
        }

    before = measures(W)
    fig, axes = style.figure(columns=3, height=3.0)
    for name, weight in after.items():
        mark = style.MARKS[name]
        for ax, (title, values) in zip(axes, measures(weight).items()):
            ax.plot(before[title], values, mark.marker, markersize=3, color=mark.line, label=mark.label, alpha=0.8)
            ax.set(title=title, xlabel="of W")
    for ax, values in zip(axes, before.values()):
        ax.axline((values[0], values[0]), slope=1, color=style.MUTED, linewidth=0.8, zorder=0)
    axes[0].set_ylabel("of W'")
    axes[0].legend()
    far = {
        name: max(abs(a - b) for key in before for a, b in zip(measures(weight)[key], before[key]))
        for name, weight in after.items()
    }
    told = " ".join(
        f"{style.MARKS[name].label}'s dots {'lie on' if off < 1e-4 else 'scatter about'} the diagonal."
        for name, off in far.items()
    )
    return Picture(
        fig,
        "Three plots of W' against W: singular values, lengths of rows, cosines between rows. " + told,
        "On the diagonal: the same after training as before.",
    )


def sizes_and_turns(layers: dict[str, torch.nn.Module]) -> Picture:
    """How far each row of an adapted layer has turned (degrees) and how its length has changed, per variant."""
    fig, ax = style.figure(width=5.6, height=3.2)
    widest = {}
    for name, layer in layers.items():
        W, mark = layer.weight.detach().double(), style.MARKS[name]
        adapted = effective_weight(layer)[0].detach().double()
        turn = torch.rad2deg(torch.cosine_similarity(W, adapted, dim=1).clamp(-1, 1).acos())
        size = 100 * (adapted.norm(dim=1) / W.norm(dim=1) - 1)
        ax.plot(turn, size, mark.marker, color=mark.line, markersize=4, alpha=0.8, label=mark.label)
        widest[mark.label] = (turn.max().item(), size.abs().max().item())
    ax.axhline(0, color=style.INK, linewidth=0.8)
    ax.set(
        title="every row of W, trained", xlabel="turned by (degrees)", ylabel="length changed by (%)", xlim=(0, None)
    )
    ax.legend(frameon=False)
    return Picture(
        fig,
        "Each dot is a row of the weight: how far it turned, and how its length changed. "
        + " ".join(
            f"{label}'s rows turn by up to {turn:.0f} degrees and change length by up to {size:.0f} %."
            for label, (turn, size) in widest.items()
        ),
        "Each dot is a row of W, of one layer of one model. Length and turn are read off the trained W'.",
    )
