"""What is seen of a run while it trains, and how it is ended early."""

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tqdm import tqdm
from transformers import TrainerCallback


class Progress(TrainerCallback):
    """A bar with the loss and the time left; where standard error is no terminal, ten lines instead."""

    def __init__(self, shown: bool):
        self.shown, self.bar = shown, None

    def on_train_begin(self, args, state, control, **_):
        if self.shown and sys.stderr.isatty():
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", file=sys.stderr)

    def on_log(self, args, state, control, logs=None, **_):
        loss = (logs or {}).get("loss")
        if loss is None or not self.shown:
            return
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            self.bar.update(state.global_step - self.bar.n)
        elif state.global_step * 10 // state.max_steps > (state.global_step - 1) * 10 // state.max_steps:
            print(f"step {state.global_step} of {state.max_steps}: loss {loss:.3f}", file=sys.stderr, flush=True)

    def on_save(self, args, state, control, **_):
        if self.bar is not None:
            self.bar.set_description(f"saved at {state.global_step}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class FiniteLoss(TrainerCallback):
    """Ends a run whose loss is no number any more, before that is saved."""

    def on_log(self, args, state, control, logs=None, **_):
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {state.global_step}: try a lower --lr than {args.learning_rate:g}"
            )


class StopOnSignal(TrainerCallback):
    """At SIGINT or SIGTERM the step is finished and saved, in every process, then the run ends. A second one ends it.

    Attributes:
        caught: the signal, or None.
    """

    def __init__(self):
        self.caught: int | None = None

    @contextmanager
    def listening(self) -> Iterator["StopOnSignal"]:
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if self.caught is not None:
            raise KeyboardInterrupt
        self.caught = number

    def on_step_end(self, args, state, control, **_):
        if args.world_size > 1:  # or one process would save without the others
            caught = torch.tensor(self.caught or 0, device=args.device)
            torch.distributed.all_reduce(caught, torch.distributed.ReduceOp.MAX)
            self.caught = caught.item() or None
        if self.caught is not None:
            control.should_save = control.should_training_stop = True
        return control
