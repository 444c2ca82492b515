"""The house's rows on one axis, with a submission among them."""

from .. import style
from ..show import Picture
from .recorded import rows
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
