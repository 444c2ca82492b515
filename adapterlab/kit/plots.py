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
    axes.set(title="held-out exact match", xlabel="step", ylim=(-0.03, 1.03))
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
            look = {"markersize": 4, "markeredgewidth": 0, "alpha": 0.8}  # an edge would be a third of the file
            ax.plot(before[title], values, mark.marker, color=mark.line, label=mark.label, **look)
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


def energy_by_layer(model: torch.nn.Module, r: int = 8) -> Picture:
    """The share of each weight's energy that its top r singular directions hold, by kind of layer, beside chance."""

    def share(W: Tensor) -> float:
        squares = torch.linalg.svdvals(W.detach().double()).square()
        return round(100 * (squares[:r].sum() / squares.sum()).item(), 1)

    kinds: dict[str, list[Tensor]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith("_proj"):
            kinds.setdefault(name.rsplit(".", 1)[1], []).append(layer.weight)
    shares = {kind: [share(W) for W in weights] for kind, weights in kinds.items()}
    draw = torch.Generator().manual_seed(0)
    chance = {kind: share(torch.randn(weights[0].shape, generator=draw)) for kind, weights in kinds.items()}
    fig, ax = style.figure(width=5.6, height=2.9)
    for k, kind in enumerate(kinds):
        ax.plot(shares[kind], [k] * len(shares[kind]), "s", color=style.MARKS["pissa"].line, markersize=6)
        ax.plot(chance[kind], k, "x", color=style.INK, markersize=7)
    ax.set(
        yticks=range(len(kinds)), yticklabels=list(kinds), xlim=(0, 100), title=f"energy in the top {r} directions, %"
    )
    ax.invert_yaxis()
    told = "; ".join(f"{kind} {min(found):.0f} to {max(found):.0f}" for kind, found in shares.items())
    return Picture(
        fig,
        f"The share of the energy that the top {r} directions hold, in per cent, for each kind of layer: {told}. In "
        f"random matrices of the same shapes it is {min(chance.values()):.0f} to {max(chance.values()):.0f}.",
        "A square is a layer of one block of the base model; a cross is a random matrix of the same shape.",
    )


def base_drift(curves: dict[str, list[float]]) -> Picture:
    """norm(W_n - W) / norm(W) after n rounds of taking something out of a weight and putting it back, by its dtype."""
    fig, ax = style.figure(width=5.6, height=2.9)
    lines = dict(zip(curves, ("-", "-.", ":")))
    for name, errors in curves.items():
        ax.loglog(range(1, len(errors) + 1), errors, lines[name], color=style.MARKS["pissa"].line)
        ax.annotate(name, (len(errors), errors[-1]), (6, 0), textcoords="offset points", va="center", color=style.INK)
    ax.set(title="how far the base has drifted", xlabel="rounds", ylabel="norm(W_n - W) / norm(W)")
    return Picture(
        fig,
        "How far a weight is from itself after so many rounds of attaching and detaching, on two logarithmic axes. "
        + " ".join(
            f"{name}: {errors[0]:.0e} after one round, {errors[-1]:.0e} at the end." for name, errors in curves.items()
        ),
        "Each round takes the top of the weight's SVD out and adds it again. The difference form would lie at 0.",
    )


def rank_of_difference(layers: dict[str, torch.nn.Module], k: int = 24) -> Picture:
    """The first k singular values of W' - W of an adapted layer, per variant."""
    fig, ax = style.figure(width=5.6, height=2.9)
    ends = {}
    for name, layer in layers.items():
        mark = style.MARKS[name]
        difference = (effective_weight(layer)[0] - layer.weight).detach().double()
        values = torch.linalg.svdvals(difference)[:k]
        seen = values[values > 1e-5 * values[0]]  # the rest is the rounding of float32
        ax.semilogy(range(1, len(seen) + 1), seen, mark.marker, color=mark.line, markersize=5, label=mark.label)
        ends[mark.label] = len(seen)
    ax.set(title="singular values of W' - W, trained", xlabel="index", xlim=(0, k + 1))
    ax.legend()
    return Picture(
        fig,
        "The singular values of the trained difference on a logarithmic axis. "
        + " ".join(f"{label} has {count} and then nothing but rounding." for label, count in ends.items()),
        "What is not drawn is rounding: less than a hundred-thousandth of the largest.",
    )


def gate_values(model: torch.nn.Module) -> Picture:
    """The gates of an IA3 or IA3-FF model, block by block, by kind of layer."""
    found: dict[str, dict[int, Tensor]] = {}
    member = {}
    for path, layer in model.named_modules():
        if hasattr(getattr(layer, "adapter", None), "lora_g"):
            kind = path.rsplit(".", 1)[-1]
            blocks = found.setdefault(kind, {})
            blocks[len(blocks)] = layer.adapter.lora_g.detach().float().cpu()
            member[kind] = layer.adapter.variant.name
    fig, axes = style.figure(columns=len(found), height=2.9)
    for ax, (kind, blocks) in zip([axes] if len(found) == 1 else axes, found.items()):
        mark = style.MARKS[member[kind]]
        for block, gates in blocks.items():
            spread = torch.linspace(-0.32, 0.32, len(gates))  # side by side, so that dots do not hide each other
            ax.plot(block + 1 + spread, gates, ".", color=mark.line, markersize=3)
        ax.axhline(1, color=style.INK, linewidth=0.8)
        ax.set(title=kind, xlabel="block", xticks=[block + 1 for block in blocks])
    everything = {kind: torch.cat(list(blocks.values())) for kind, blocks in found.items()}
    told = "; ".join(
        f"{kind} from {gates.min():.1f} to {gates.max():.1f}, {(gates > 1).float().mean():.0%} above 1"
        for kind, gates in everything.items()
    )
    return Picture(
        fig,
        f"The trained gates, one dot each, block by block: {told}.",
        "One dot is one gate; the line is 1, where all of them began.",
    )


def chosen_axes(S: Tensor, size: Tensor, r: int) -> Picture:
    """Which r singular axes two rules take: the largest S, or the largest S times the inputs' mean size along them.

    Args:
        S: (k,), singular values, largest first.
        size: (k,), mean |v x| over inputs for each axis.
    """
    scores = S * size
    by_data = set(scores.topk(r).indices.tolist())
    fig, ax = style.figure(width=6.4, height=3.0)
    for i, score in enumerate(scores.tolist()):
        mark = style.MARKS["antipasto"]
        look = {"color": mark.line, "fillstyle": "full" if i in by_data else "none"}
        ax.semilogy(i + 1, score, mark.marker, markersize=5, **look)
    ax.axvline(r + 0.5, color=style.MUTED, linestyle=":")
    ax.text(r + 1, scores.max(), f"S alone takes the first {r}", color=style.MUTED, va="top")
    ax.set(title="what each axis contributes", xlabel="singular axis, largest S first", ylabel="S_i mean|v_i x|")
    late = sum(i >= r for i in by_data)
    return Picture(
        fig,
        f"For each of {len(S)} singular axes its singular value times the mean size of the inputs along it, on a "
        f"logarithmic axis. The {r} largest are filled; {late} of them lie beyond the first {r}.",
        f"Filled: the {r} axes that the data choose. {late} of them S alone would leave out.",
    )


def first_steps(groups: dict[str, tuple[str, list]]) -> Picture:
    """The training losses of a few seeds as a band and their mean as a line: label -> (member of MARKS, runs)."""
    fig, ax = style.figure(width=5.6, height=3.2)
    ends = []
    widths = (2.4, 1.4, 0.8)  # one colour holds up to three lines
    drawn: dict[str, int] = {}
    for label, (member, runs) in groups.items():
        mark, k = style.MARKS[member], drawn.setdefault(member, 0)
        drawn[member] += 1
        losses = torch.tensor([run.losses for run in runs], dtype=torch.float64)  # (seeds, steps)
        steps, mean = range(1, losses.shape[1] + 1), losses.mean(0)
        ax.fill_between(steps, losses.min(0).values, losses.max(0).values, color=mark.line, alpha=0.15, linewidth=0)
        look = {"marker": mark.marker, "markevery": 5, "markersize": 5}
        ax.semilogy(steps, mean, color=mark.line, linewidth=widths[k], **look)
        ends.append([mean[-1].item(), label, mark.light])
    low, high = ax.get_ylim()
    ends.sort()
    for i, (y, label, colour) in enumerate(ends):  # labels that would touch are pushed apart
        y = max(y, ends[i - 1][0] * (high / low) ** 0.07) if i else y
        ends[i][0] = y
        ax.annotate(label, (len(steps), y), (6, 0), textcoords="offset points", va="center", color=colour)
    ax.set(title="training loss", xlabel="step")
    ordered = ", ".join(label for _, label, _ in ends)
    return Picture(
        fig,
        f"Training loss over the first {len(steps)} steps, a line and a band of seeds for each start. At the end, from "
        f"the lowest: {ordered}.",
        f"Lines: means of {len(losses)} seeds; bands: from the least to the largest.",
    )


def costs(record: dict, rank: int | None = None) -> Picture:
    """What `adapterlab bench` recorded: each variant's step, token and kept memory, beside PEFT's.

    Args:
        rank: show that rank alone (and the variants that have none); None: all that were measured.
    """
    rows = [row for row in record["rows"] if row["by"] != "bare" and row["fields"].get("r", rank) in (rank, None)]
    if rank is None:
        rows = [row for row in record["rows"] if row["by"] != "bare"]
    if not rows:
        raise ValueError(f"the record has no variant of rank {rank}")
    order = {name: k for k, name in enumerate(style.MARKS)}
    several = len({row["fields"]["r"] for row in rows if "r" in row["fields"]}) > 1
    places: dict[tuple, dict[str, dict]] = {}  # (variant, rank) -> by -> row; families together
    for row in sorted(rows, key=lambda row: (order.get(row["variant"], len(order)), row["fields"].get("r", 0))):
        places.setdefault((row["variant"], row["fields"].get("r")), {})[row["by"]] = row
    marks = {name: style.MARKS.get(name, style.MARKS["base"]) for name, _ in places}
    labels = [
        (marks[name].label if name in style.MARKS else name) + (f" {r}" if several and r else "") for name, r in places
    ]
    panels = {
        "training step": ("times the bare base", lambda row: row["ratio"]["step"]),
        "one token": ("times the bare base", lambda row: row["ratio"]["decode"]),
        "kept for a step": ("MiB", lambda row: max(row["kept"], 1024) / 2**20),
    }
    fig, axes = style.figure(columns=3, height=0.9 + 0.26 * len(places))
    told = []
    for ax, (title, (unit, value)) in zip(axes, panels.items()):
        said = []
        for y, ((name, _), pair) in enumerate(places.items()):
            mark, found = marks[name], {by: value(row) for by, row in pair.items()}
            if len(found) == 2:
                ax.plot(list(found.values()), [y, y], "--", color=style.MUTED, linewidth=0.8, zorder=1)
            for by, size in (("peft", 7), ("adapterlab", 5)):
                if by in found:
                    inside = style.CARD if by == "peft" else mark.line
                    look = {"markerfacecolor": inside, "color": mark.line, "markersize": size}
                    ax.plot(found[by], y, mark.marker or "o", **look)
            theirs = f" (PEFT {found['peft']:.3g})" if "peft" in found else ""
            said.append(f"{labels[y]} {found['adapterlab']:.3g}{theirs}")
        told.append(f"{title[0].upper()}{title[1:]}, {unit}: {', '.join(said)}.")
        ax.set(title=title, xscale="log", xlabel=unit, yticks=range(len(places)), ylim=(len(places) - 0.5, -0.5))
        ax.set_yticklabels(labels)
        if unit != "MiB":
            ax.axvline(1, color=style.MUTED, linewidth=0.8, linestyle=":")
        low, high = ax.get_xlim()
        if unit != "MiB":
            high = max(high, 2.2)  # a few per cent shall look like a few per cent
            ax.set_xlim(min(low, 0.93), high)
        wide = high / low > 30
        ax.set_xticks(
            [m * 10.0**k for k in range(-3, 5) for m in ((1,) if wide else (1, 2, 5)) if low <= m * 10.0**k <= high]
        )
        ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
        ax.minorticks_off()
        ax.grid(axis="y", visible=False)
    return Picture(
        fig,
        f"Three panels of dots on logarithmic axes, a row for each variant. {' '.join(told)}",
        f"Filled: this library. Hollow, at the dashes' other end: PEFT. {record['machine']}; "
        f"torch {record['versions']['torch']}; {record['date']}.",
    )
