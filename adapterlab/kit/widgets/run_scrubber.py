"""The run scrubber: a training run to be dragged through, step by step, down to the model's actual answer."""

from collections.abc import Sequence
from itertools import groupby

from .. import style
from ..curve import LiveCurve
from ..show import Picture
from .figure import Figure, rounded

ROUNDING = 1e-6  # of singular values: the layers' weights have norms of about ten, in float32


class RunScrubber(Figure, js="run_scrubber.js"):
    """A finished or growing run, with other runs thin behind it.

        run = kit.train(model, tokenizer, "add_rev", trace=("57+28=", "58"), ghosts=[full])     # shows it live
        widgets.RunScrubber(run, ghosts=[full])                                                 # shows it again

    A ghost that was traced with the same prompt also shows its answers.
    """

    def __init__(self, run, ghosts: Sequence = ()):
        if run.trace is None:
            raise ValueError('this run has no trace: train it with trace=("57+28=", "58")')
        self.run, self.ghosts = run, ghosts
        super().__init__(_told(run, ghosts))

    def update(self) -> None:
        """Show what the run has come to."""
        self.data = _told(self.run, self.ghosts)

    def still(self) -> Picture:
        return _picture(self.run, self.ghosts)


class LiveScrubber(LiveCurve):
    """The scrubber in the place of the live curve; its still is drawn once more at the end, and then stays."""

    def __enter__(self) -> "LiveScrubber":
        if self.notebook:
            from IPython.display import display

            self.figure = RunScrubber(self.run, self.ghosts)
            super().__enter__()
            display(self.figure.widget_bundle(), raw=True)
        return self

    def _show(self, last: bool = False) -> None:
        self.figure.update()
        if last:
            super()._show(last)

    def _bundle(self) -> dict[str, str]:
        return self.figure.still_bundle() | {"text/plain": f"[run scrubber of {self.run.label} on {self.run.task}]"}


def _told(run, ghosts) -> dict:
    """What the page needs to know of the runs, short."""
    data = _curves(run) | {"steps": run.steps, "task": run.task, "prompt": run.trace.prompt, "wanted": run.trace.wanted}
    data |= {
        "layer": run.trace.layer,
        "gradients": rounded(run.trace.gradients),
        "looks": [done for done, _, _ in run.trace.spectra],
        "spectra": [_sizes(values) for _, values, _ in run.trace.spectra],
        "shares": [rounded(share) for _, _, share in run.trace.spectra],
        "ghosts": [_curves(ghost, run.trace.prompt) | {"spectra": _some_spectra(ghost)} for ghost in ghosts],
    }
    return data


def _sizes(values: list[float]) -> list[float]:
    """Singular values to three digits; what is left of an exact zero is rounding, and goes."""
    return rounded([v if v > ROUNDING else 0.0 for v in values])


def _some_spectra(run) -> list[list]:
    """Every tenth step's: a ghost need not be sharp."""
    return [[done, _sizes(values)] for done, values, _ in run.trace.spectra if done % 10 == 0] if run.trace else []


def _curves(run, prompt: str | None = None) -> dict:
    same = run.trace is not None and prompt in (None, run.trace.prompt)
    return {
        "name": run.label if run.label in style.MARKS else "full",
        "label": _name(run),
        "losses": rounded(run.losses),
        "scores": [[step, rounded(score)] for step, score, _ in run.evaluations],
        "answers": _changes(run.trace.answers) if same else [],
    }


def _name(run) -> str:
    """As the palette writes it; a variant of the reader's own has the name that its run has."""
    return style.MARKS[run.label].label if run.label in style.MARKS else run.label


def _changes(answers: list[tuple[int, str]]) -> list[list]:
    """Only where the answer becomes another."""
    return [list(next(group)) for _, group in groupby(answers, key=lambda look: look[1])]


def _picture(run, ghosts) -> Picture:
    fig, (left, middle, right) = style.figure(columns=3, width=8.4)
    for one in [*ghosts, run]:
        mark = style.MARKS.get(one.label, style.MARKS["full"])
        look = {"color": mark.line, "linewidth": 2.0 if one is run else 1.0, "alpha": 1.0 if one is run else 0.5}
        left.semilogy(range(len(one.losses)), one.losses, label=_name(one), **look)
        scores = [(step, score) for step, score, _ in one.evaluations if score is not None]
        middle.plot(*zip(*scores), **look) if scores else None
    mark = style.MARKS.get(run.label, style.MARKS["full"])
    values = [v for v in (run.trace.spectra[-1][1] if run.trace.spectra else []) if v > ROUNDING]
    right.semilogy(range(1, len(values) + 1), values, "o", color=mark.line, markersize=5) if values else None
    left.set(title="loss", xlabel="step", xlim=(0, run.steps))
    middle.set(title="held-out exact match", xlabel="step", xlim=(0, run.steps), ylim=(-0.03, 1.03))
    right.set(title="singular values of W' - W", xlabel="index", xlim=(0, 13))
    if ghosts:
        left.legend()
    told = [
        f"{answer} from step {step} on" if step else f"{answer} at first"
        for step, answer in _changes(run.trace.answers)
    ]
    told = told if len(told) < 5 else [*told[:1], "...", *told[-2:]]
    answers = f"{run.trace.prompt} is answered by {', '.join(told)}." if told else "No step yet."
    return Picture(
        fig,
        f"{_name(run)} on {run.task}: the loss by step, the held-out exact match, and the singular values of "
        f"the change of {run.trace.layer}.",
        answers,
    )
