"""Train whatever requires a gradient, with a loss curve that draws itself while it does."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from . import batches, tasks
from .base import evaluate
from .curve import LiveCurve
from .trace import Trace, Tracer


@dataclass
class Run:
    """One training run: what was asked for, and what was seen.

    Attributes:
        losses: nats per answer token of each step's batch, before the step.
        evaluations: (steps done, held-out exact match, held-out loss), the first before any step.
        trace: answers, gradients and singular values by step, if they were asked for.
    """

    task: str
    label: str
    steps: int
    lr: float
    seed: int
    losses: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, float | None, float]] = field(default_factory=list)
    trace: Trace | None = None

    @property
    def exact_match(self) -> float | None:
        """Share of held-out examples answered right at the end; None for prose."""
        return self.evaluations[-1][1]

    def __repr__(self) -> str:
        score = "" if self.exact_match is None else f", exact match {self.exact_match:.2f}"
        return f"Run({self.label} on {self.task}: {len(self.losses)} steps, loss {self.losses[-1]:.3f}{score})"


def train(
    model,
    tokenizer,
    task: str | tasks.Task | tasks.Text = "add_rev",
    *,
    steps: int = 100,
    lr: float = 5e-3,
    batch_size: int = 32,
    warmup: int = 10,
    seed: int = 0,
    evaluate_every: int = 10,
    label: str | None = None,
    ghosts: Sequence[Run] = (),
    trace: tuple[str, str] | None = None,
    live: bool = True,
) -> Run:
    """Teach a task to every parameter that requires a gradient: the adapter's after `attach`, else all.

    AdamW without weight decay, linear warm-up and decay, gradients clipped to norm 1. In a notebook the
    curve draws itself while it trains and stays as a picture; in a terminal there is a progress bar.
    The model's train or eval mode is as it was afterwards.

    Args:
        task: a name from `tasks.TASKS`, `SKILLS` or `PROSE`, or a task of your own.
        lr: peak learning rate.
        evaluate_every: steps between two scores on held-out examples.
        label: the run's name in the picture; default the adapter's variant, or "full".
        ghosts: earlier runs to draw behind this one.
        trace: a prompt and the answer it should get, such as ("57+28=", "58"): the run also keeps what the run
            scrubber shows, and in a notebook the scrubber takes the curve's place.
        live: False draws nothing and prints nothing.

    Raises:
        ValueError: no parameter requires a gradient, the task is not known, or steps < 1.
        FloatingPointError: the loss is no longer finite.
    """
    found = tasks.get(task)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("no parameter requires a gradient: attach an adapter, or model.requires_grad_(True)")
    if steps < 1:
        raise ValueError(f"steps = {steps}: at least one is needed")
    run = Run(found.name, label or _label(model), steps, lr, seed)
    optimizer = torch.optim.AdamW(parameters, lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup)) * (1 - step / steps)
    )
    optimizer.zero_grad()  # a gradient that somebody left would be a step of its own
    training = model.training
    tracer = Tracer(model, tokenizer, *trace) if trace else None
    run.trace = tracer.trace if tracer else None
    with _live_curve(run, ghosts, live) as curve:
        _score(run, model, tokenizer, found, 0)
        model.train()
        try:
            for step, batch in enumerate(batches.training(found, tokenizer, steps, batch_size, seed)):
                batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
                logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
                loss = batches.answer_loss(logits, batch["labels"])
                if not loss.isfinite():
                    raise FloatingPointError(
                        f"the loss is {loss.item()} at step {step}: try a lower learning rate than {lr:g}"
                    )
                loss.backward()
                if tracer:
                    tracer.look(step)
                    tracer.gradients()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                run.losses.append(loss.item())
                if (step + 1) % evaluate_every == 0 or step + 1 == steps:
                    _score(run, model, tokenizer, found, step + 1)
                if tracer and step + 1 == steps:
                    tracer.look(steps, last=True)
                curve.draw()
        finally:
            model.train(training)
    return run


def _live_curve(run: Run, ghosts: Sequence[Run], live: bool) -> LiveCurve:
    if run.trace and live:
        from .widgets.run_scrubber import LiveScrubber  # here, because a plain curve needs no widgets

        return LiveScrubber(run, ghosts)
    return LiveCurve(run, ghosts, live)


def _score(run: Run, model, tokenizer, task: tasks.Task | tasks.Text, step: int) -> None:
    seen = evaluate(model, tokenizer, task)
    run.evaluations.append((step, seen["exact_match"], seen["loss"]))


def _label(model) -> str:
    variants = dict.fromkeys(m.adapter.variant.name for m in model.modules() if hasattr(m, "adapter"))
    return " + ".join(variants) or "full"
