"""The loss curve that draws itself while a model trains.

In a notebook it updates one display in place (no Output widget: on a static page that is frozen, and it
stalls headless execution), so that the last frame stays behind as a picture. In a terminal it is a
progress bar. Every frame has the same text form, whatever the numbers.
"""

import sys
import time

from tqdm import tqdm

from . import style
from .show import Picture

SECONDS_PER_FRAME = 0.5  # a frame costs about 0.1 s: a fifth of the time at most


class LiveCurve:
    """Draws a Run as it grows; use as a context manager, call `draw()` after each step."""

    def __init__(self, run, ghosts=(), live: bool = True):
        self.run, self.ghosts = run, ghosts
        self.notebook = live and _in_notebook()
        self.bar = tqdm(total=run.steps, unit="step", disable=not (live and not self.notebook and sys.stderr.isatty()))
        self.handle, self.drawn_at = None, 0.0

    def __enter__(self) -> "LiveCurve":
        if self.notebook:
            from IPython.display import display

            self.handle = display(self._bundle(), raw=True, display_id=True)
        return self

    def draw(self) -> None:
        self.bar.update(len(self.run.losses) - self.bar.n)
        if self.run.losses:
            self.bar.set_postfix(loss=f"{self.run.losses[-1]:.3f}", refresh=False)
        if self.handle and time.monotonic() - self.drawn_at > SECONDS_PER_FRAME:
            self._show()
            self.drawn_at = time.monotonic()

    def __exit__(self, *_) -> None:
        self.bar.close()
        if self.handle:
            self._show(last=True)

    def _show(self, last: bool = False) -> None:
        self.handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        done, steps = len(self.run.losses), self.run.steps
        progress = f'<progress max="{steps}" value="{done}"></progress> step {done} of {steps}' if done < steps else ""
        return {
            "text/plain": f"[loss curve of {self.run.label} on {self.run.task}]",
            "text/html": plot([self.run], self.ghosts).html(progress),
        }


def plot(runs, ghosts=(), caption: str = "") -> Picture:
    """Loss and held-out exact match by step: `runs` in colour with their scores, `ghosts` thin behind them."""
    prose = all(run.exact_match is None for run in runs if run.evaluations)
    fig, (left, right) = style.figure(columns=2)
    steps = max(run.steps for run in [*runs, *ghosts])
    for run in [*ghosts, *runs]:
        mark = style.MARKS.get(run.label, style.MARKS["full"])
        look = {"color": mark.line, "alpha": 0.4 if run in ghosts else 1.0, "linewidth": 1.2 if run in ghosts else 2.0}
        if run.losses:
            left.plot(range(1, len(run.losses) + 1), run.losses, **look)
        seen = [(step, loss if prose else score) for step, score, loss in run.evaluations]
        name = mark.label if run.label in style.MARKS else run.label  # a variant of the reader's own has its own
        right.plot(*zip(*seen), marker=mark.marker or None, markersize=5, label=name, **look) if seen else None
    left.set(title="loss of each batch (nats per token)", xlabel="step", xlim=(0, steps), ylim=(0, None))
    right.set(title="held-out loss" if prose else "held-out exact match", xlabel="step", xlim=(0, steps * 1.03))
    if not prose:
        right.set_ylim(-0.03, 1.03)
    if len(runs) + len(ghosts) > 1:
        right.legend()
    return Picture(fig, _alt(runs), caption)


def side_by_side(runs, ghost, caption: str = "") -> Picture:
    """Two or more runs, the loss of each in a panel of its own with the score at the end; `ghost` thin behind each."""
    fig, panels = style.figure(columns=len(runs), width=1.9 * len(runs), height=2.3)
    top = 1.05 * max(max(run.losses) for run in [*runs, ghost])
    for panel, run in zip(panels, runs):
        for seen, line in ((ghost, style.MARKS["base"].line), (run, style.MARKS["lora"].line)):
            panel.plot(range(1, len(seen.losses) + 1), seen.losses, color=line, linewidth=2 if seen is run else 1.2)
        panel.set(title=run.label, xlabel="step", xlim=(0, run.steps), ylim=(0, top))
        panel.text(0.97, 0.95, f"{run.exact_match:.0%} right", transform=panel.transAxes, ha="right", va="top")
    panels[0].set_ylabel("loss (nats per token)")
    return Picture(fig, _alt(runs), caption)


def _alt(runs) -> str:
    """What the picture says, in a sentence per run."""
    sentences = []
    for run in runs:
        if len(run.losses) < 2:
            sentences.append(f"{run.label} on {run.task}: no step yet.")
            continue
        (_, before, _), (_, after, _) = run.evaluations[0], run.evaluations[-1]
        score = "" if after is None else f"; held-out exact match goes from {before:.2f} to {after:.2f}"
        sentences.append(
            f"{run.label} on {run.task}: the loss goes from {run.losses[0]:.2f} to {run.losses[-1]:.2f} "
            f"in {len(run.losses)} steps{score}."
        )
    return " ".join(sentences)


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")
