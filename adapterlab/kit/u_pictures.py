"""Us of loss against learning rate: recorded, foretold, and found with a few runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import style
from .rates import SETTINGS, WITHIN, Measured, is_rate
from .show import Picture

LOW, HIGH = 0.25, 9.0  # nats; the lowest sixth is the triangles'


def us(
    recorded: Mapping[str, Measured],
    *,
    floors: bool = True,
    foretold: Any = None,
    spent: Iterable[tuple] = (),
) -> Picture:
    """A panel for each recorded U, with the rates that were foretold and the runs that were spent on it.

    Args:
        recorded: setting -> its U; a line through the seeds' mean, a band from their least to their largest.
        floors: shade the plateau and mark its centre.
        foretold: setting -> rate, a triangle; what is no rate, a reader's slip, is left out.
        spent: (variant, lr, loss) as in `Budget.spent`, crosses.
    """
    foretold = {name: lr for name in recorded if is_rate(lr := _entry(foretold, name))}
    spent = list(spent)
    fig, axes = style.figure(columns=len(recorded), height=2.9, width=7.2 if len(recorded) > 1 else 4.6)
    axes, told = ([axes] if len(recorded) == 1 else axes), []
    axes[0].set_ylabel("held-out loss (nats)")
    for ax, (name, measured) in zip(axes, recorded.items()):
        runs = [(lr, loss) for variant, lr, loss in spent if variant == SETTINGS[name]]
        _panel(ax, measured, floors, foretold.get(name), runs)
        ax.set_title(name, fontsize=9 if len(recorded) > 1 else 11)
        told.append(_told(name, measured, floors, foretold.get(name), runs))
    parts = ["Line: the mean of the recorded seeds; band: from the least to the largest."]
    parts += [f"Shaded: the plateau, within {WITHIN} times the lowest loss; bar: its centre."] * floors
    parts += ["Triangle: foretold."] * bool(foretold) + ["Crosses: your runs."] * bool(spent)
    return Picture(
        fig,
        f"Held-out loss against learning rate, both logarithmic, {len(recorded)} "
        f"panel{'s' if len(recorded) > 1 else ''}. {' '.join(told)}",
        " ".join(parts),
    )


def _entry(foretold: Any, name: str) -> Any:
    return foretold.get(name) if isinstance(foretold, Mapping) else None


def _panel(ax, measured: Measured, floors: bool, foretold: float | None, runs: Sequence[tuple[float, float]]) -> None:
    mark = style.MARKS["lora"]
    if floors:
        ax.axvspan(*measured.floor, color=style.GRID, zorder=0)
        ax.axvline(measured.centre, color=style.MUTED, linewidth=1.2)
    low, high = (list(map(pick, zip(*measured.losses))) for pick in (min, max))
    ax.fill_between(measured.rates, low, high, color=mark.line, alpha=0.2, linewidth=0)
    ax.plot(measured.rates, measured.mean, color=mark.line, marker=mark.marker, markersize=3, linewidth=1.4)
    if foretold:
        ax.plot(foretold, LOW * 1.09, "^", color=style.MARKS["hra"].line, markersize=9, clip_on=False)
    if runs:
        ax.plot(*zip(*runs), "x", color=style.INK, markersize=8, markeredgewidth=2)
    ax.set(xscale="log", yscale="log", xlabel="learning rate", ylim=(LOW, HIGH), yticks=[0.5, 1, 2, 5])
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.minorticks_off()


def _told(name: str, measured: Measured, floors: bool, foretold: float | None, runs: Sequence) -> str:
    losses = measured.mean
    said = f"{name}: the loss falls from {losses[0]:.1f} to {min(losses):.1f} and rises to {losses[-1]:.1f}"
    if floors:
        low, high = measured.floor
        said += f"; the plateau is from {low:.1g} to {high:.1g}, its centre {measured.centre:.2g}"
    if foretold:
        said += f"; foretold {foretold:.2g}"
    return said + (f"; {len(runs)} runs." if runs else ".")
