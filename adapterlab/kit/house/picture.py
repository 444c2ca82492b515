"""The house's rows on one axis, with a submission among them."""

from collections.abc import Callable

from .. import style
from ..show import Picture
from .bootstrap import means
from .recorded import decided, rows
from .sealed import Refusal, Result


def standings(result: Result | Refusal | None = None) -> Picture:
    """Score and 95 % interval of every row on the sealed split, its seeds as small marks; a result is a diamond."""
    house = list(rows().values())
    yours = result if isinstance(result, Result) else None
    fig, ax = style.figure(width=6.4, height=0.9 + 0.3 * (len(house) + bool(yours)))
    labels, told = [], []
    for y, row in enumerate(house):
        mark = style.MARKS[row.name]
        ax.plot(row.interval, [y, y], color=mark.line)
        ax.plot(row.by_seed, [y] * len(row.seeds), mark.marker, color=mark.line, markersize=3, alpha=0.6)
        ax.plot(row.score, y, mark.marker, color=mark.line, markersize=8)
        labels.append(row.label)
        told.append("{} {:.2f} ({:.2f} to {:.2f})".format(row.label, row.score, *row.interval))
    if yours:
        y = len(house)
        low, high = yours.interval
        ax.axvspan(low, high, color=style.GRID, alpha=0.6, linewidth=0)
        ax.plot([low, high], [y, y], color=style.INK)
        ax.plot(yours.score, y, "D", color=style.INK, markersize=8)
        labels.append("yours")
        told.append(f"yours {yours.score:.2f} ({low:.2f} to {high:.2f}), which {yours.tally()}")
    ax.set(title="sealed split", xlabel="exact match", yticks=range(len(labels)), xlim=(-0.03, 1.03))
    ax.set_yticklabels(labels)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return Picture(
        fig,
        f"A row for each method, its score and 95 per cent interval on the sealed split: {'; '.join(told)}.",
        f"Lines: 95 % intervals over items. Small marks: single seeds. {'Grey band: yours.' if yours else ''}".strip(),
    )


def draws(mine: str, theirs: str, interval: Callable) -> Picture:
    """How the difference of two rows on validation comes out over 4,000 draws of items, with an interval of one's own.

    Args:
        mine, theirs: names of rows.
        interval: (mine, theirs) -> (low, high).
    """
    one, two = rows()[mine], rows()[theirs]
    found = means(one.validation - two.validation)
    fig, ax = style.figure(width=6.4, height=2.6)
    step = 2 / (len(one.seeds) * len(one.validation))  # two of the values that a draw can have
    first, last = (found.min() / step).floor().item(), (found.max() / step).ceil().item()
    edges = [(k - 0.25) * step for k in range(int(first), int(last) + 2)]
    ax.hist(found, bins=edges, color=style.MARKS[mine].line, alpha=0.5)
    ax.axvline(0, color=style.INK, linewidth=0.8)
    told, _ = decided(interval(one.validation.clone(), two.validation.clone()))
    for end in () if told == "none" else map(float, told.split(" to ")):
        ax.axvline(end, color=style.MARKS[mine].line, linestyle=":")
    ax.set(title=f"{one.label} less {two.label}, on validation", xlabel="difference in exact match", ylabel="draws")
    return Picture(
        fig,
        f"A histogram of {len(found)} differences between {one.label} and {two.label}, one per draw of items: from "
        f"{found.min():+.2f} to {found.max():+.2f}, a bell around {found.mean():+.2f}. The interval: {told}.",
        f"Dotted: the ends of your interval, {told}. The line is 0, where the two would be equal.",
    )
