"""One run, from the model's name to the adapter's file."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint import save
from ..files import locked
from ..runtime import Adapter, attach
from ..sharding import reshard
from . import data, record
from .settings import QUANTIZED, Settings

CALIBRATION_BATCHES = 16


class Stopped(Exception):
    """The run was asked to end; it has saved, and can go on.

    Attributes:
        step: the last one that is saved.
        signal: what asked for it.
    """

    def __init__(self, step: int, signal: int):
        super().__init__(f"stopped at step {step}")
        self.step, self.signal = step, signal


class Finished(Exception):
    """There is nothing to go on with: the adapter is there."""


@dataclass(frozen=True)
class Done:
    """adapter: the handle; losses: of each step, nats per token; scores: before and after, for an embedded task."""

    adapter: Adapter
    losses: list[float]
    scores: dict[str, dict[str, float | None]]


def train(
    settings: Settings,
    out: Path,
    *,
    resume: bool = False,
    save_every: int = 50,
    keep: int = 2,
    say: Callable[[str], None] = print,
) -> Done:
    """Train an adapter as `settings` say and write it to the folder `out`; see `record` for what is in it.

    In several processes each calls this. Everything that can be wrong with what is asked is found before the folder
    is made.

    Args:
        resume: go on with the run in `out` from its last checkpoint; begin it where there is none.
        save_every: steps between two checkpoints; the last `keep` of them stay.
        say: is told what happens, in the first process alone.

    Raises:
        ValueError: something is wrong with what was asked, in a sentence.
        FloatingPointError: the loss is no longer finite.
        Stopped: SIGINT or SIGTERM came.
        Finished: the run that is to go on is at its end.
    """
    settings.check()
    for name, value in (("--save-every", save_every), ("--keep", keep)):
        if value < 1:
            raise ValueError(f"{name} {value}: it must be at least 1")
    path = None if settings.data is None else Path(settings.data)
    lines = [] if path is None else data.read_jsonl(path)
    wanted = record.asked(settings, record.processes(), path and data.digest(path))
    there = record.begun(out)
    if there is not None:
        done = record.finished(out)
        if not resume:
            way_on = "" if done else "--resume goes on with it, or "
            raise record.FolderError(
                f"{out} holds a run that is {'finished' if done else 'unfinished'}: {way_on}name another --out"
            )
        record.refuse_other(out, wanted, there)
        if done:
            raise Finished(f"the run in {out} is finished: {out / record.ADAPTER}")
    with torch.random.fork_rng(devices=[]):
        return _train(settings, out, lines, wanted, save_every, keep, say if record.is_first() else _nothing)


def _nothing(_: str) -> None:
    pass


def _train(settings, out, lines, wanted, save_every, keep, say) -> Done:
    from ..kit.notebook import quiet

    quiet()  # before the imports that complain
    from ..trainer import AdapterTrainer
    from .progress import FiniteLoss, Progress, StopOnSignal

    model, tokenizer = _base(settings)
    longest = settings.max_length or getattr(model.config, "max_position_embeddings", None) or 2**30
    rows_wanted = settings.steps * settings.batch_size * settings.accumulate * wanted["processes"]
    if settings.data is None:
        rows = data.from_task(settings.task, tokenizer, rows_wanted, settings.seed)
    else:
        rows = data.from_lines(lines, tokenizer, longest, Path(settings.data))
    pad = data.Pad(tokenizer.pad_token_id)
    scores = _score(settings, model, tokenizer, "before")
    torch.manual_seed(settings.seed)
    variant = settings.make_variant()
    calibration = None
    if variant.data == "required":
        calibration = list(_calibration(rows, pad, settings.batch_size, model.device))
    adapter = attach(model, variant, targets=settings.targets, calibration_data=calibration)
    say(
        f"{variant!r} on {len(adapter.targets)} layers of {settings.model or 'the embedded base'}: "
        f"{adapter.num_parameters:,} parameters to train, {len(rows):,} examples, peak rate {settings.rate:g}"
    )
    arguments = _arguments(settings, out, save_every, keep, adapter)
    stop, progress = StopOnSignal(), Progress(record.is_first())
    with _together(arguments), contextlib.ExitStack() as until_done:
        until_done.enter_context(stop.listening())
        if record.is_first():
            record.begin(out, wanted, {"save_every": save_every, "keep": keep})
            until_done.enter_context(locked(out))
        trainer = AdapterTrainer(
            model, arguments, train_dataset=rows, data_collator=pad, callbacks=[stop, FiniteLoss(), progress]
        )
        for shown in ("ProgressCallback", "PrinterCallback"):
            for callback in list(trainer.callback_handler.callbacks):
                if type(callback).__name__ == shown:
                    trainer.remove_callback(callback)
        last = trainer.last_checkpoint()
        if last is not None:
            say(f"going on from {last}")
        try:
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        finally:
            progress.close()
        if stop.caught is not None and trainer.state.global_step < settings.steps:
            raise Stopped(trainer.state.global_step, stop.caught)
        scores |= _score(settings, model, tokenizer, "after")
        seen = [
            {
                "step": entry["step"],
                "loss": entry["loss"],
                "lr": entry["learning_rate"],
                "grad_norm": entry["grad_norm"],
            }
            for entry in trainer.state.log_history
            if "loss" in entry
        ]
        if record.is_first():
            record.keep(out, settings, seen, scores)
        if record.is_first() or reshard(model):  # of shards every process must gather
            save(model, out / record.ADAPTER)
    return Done(adapter, [row["loss"] for row in seen], scores)


def _base(settings: Settings):
    """The model, on this process's GPU where there is one, and its tokenizer.

    In bfloat16 where a GPU computes in it, unless the settings say otherwise.
    """
    from ..kit.base import load_base
    from ..kit.real_model import checkpoint, ready

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # quantised weights are loaded straight to it
    dtype = settings.dtype
    if dtype is None:
        fast = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = "bfloat16" if fast and settings.model is not None else "float32"
    kind = None if settings.quantize is None else QUANTIZED[settings.quantize]
    model, tokenizer = load_base(settings.model, dtype=getattr(torch, dtype), quantize=kind)
    # FSDP2 takes each share to its GPU; all of the base might not fit there.
    if on_gpu and kind is None and os.environ.get("ACCELERATE_USE_FSDP", "false") != "true":
        model = model.to("cuda")
    if settings.checkpointing:
        checkpoint(model)
    return model, ready(tokenizer)


def _score(settings: Settings, model, tokenizer, when: str) -> dict[str, dict[str, float | None]]:
    """On held-out examples of an embedded task; in every process alike, since the model may be sharded."""
    if settings.task is None:
        return {}
    from ..kit.base import evaluate

    return {when: evaluate(model, tokenizer, settings.task)}


def _calibration(rows: data.Rows, pad: data.Pad, n: int, device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    for first in range(0, min(len(rows), n * CALIBRATION_BATCHES), n):
        batch = pad([rows[i] for i in range(first, min(first + n, len(rows)))])
        yield {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}


def _arguments(settings: Settings, out: Path, save_every: int, keep: int, adapter: Adapter):
    """Trainer's. Nothing that it does by itself is left to a default that another version may change."""
    from transformers import TrainingArguments

    on_gpu = torch.cuda.is_available()
    return TrainingArguments(
        str(out),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        optim="adamw_torch",
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=settings.seed,
        save_strategy="steps",
        save_steps=save_every,
        save_total_limit=keep,
        logging_strategy="steps",
        logging_steps=1,  # so that the curve has every step, and a resumed one the same
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        # A mixture's experts may see no token in a step, and DDP must be told.
        ddp_find_unused_parameters=any("expert" in path for path in adapter.targets),
    )


@contextlib.contextmanager
def _together(arguments) -> Iterator[None]:
    """No process goes on before each has found what is asked in order; at the end they part."""
    if arguments.world_size > 1:
        torch.distributed.barrier()
    yield
    if arguments.world_size > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
