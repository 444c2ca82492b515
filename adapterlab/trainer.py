"""Hugging Face's Trainer over an attached adapter: its checkpoints hold the adapter alone, and resume bit for bit.

```python
from adapterlab.trainer import AdapterTrainer

al.attach(model, al.DoRA(r=8, alpha=16), targets=r"(q|v)_proj$")    # dense, 4-bit or 8-bit
trainer = AdapterTrainer(model, args, train_dataset=data)
trainer.train(resume_from_checkpoint=True)                          # or without, the first time
trainer.save_model("out")                                           # out/adapter.safetensors, for al.load
```

Any other Trainer gets the same from the mixin: `class AdapterSFTTrainer(SavesAdapter, SFTTrainer): pass`.

To resume, a script attaches as it did before, or calls `al.load` on the checkpoint's `adapter.safetensors`; values come
from the checkpoint either way. A folder `checkpoint-N` appears under its name when every file in it is written and
synced, so that a run that is killed goes on from the last save. What Trainer logs as a loss is a mean since it logged
last or was resumed: save at a step that logs, and the logs are equal too. Each save reads the adapted layers' weights
once, for the fingerprint.
"""

import contextlib
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer_callback import TrainerState

from .checkpoint import restore, save
from .files import AdapterFileError, publish
from .layer import adapted_layers
from .runtime import refuse_other_root
from .sharding import reshard

ADAPTER, STATE, SCHEDULER = "adapter.safetensors", "trainer_state.json", "scheduler.pt"
STAGING = ".saving"  # the folder beside the checkpoints in which one is filled, and in which old ones are deleted


class SavesAdapter:
    """What a Trainer needs to train an adapter and to save nothing else. Put it before the Trainer among the bases.

    Raises:
        ValueError: the model has no adapter, or the engine that is asked for is DeepSpeed or the first FSDP, which
            cannot save an adapter alone.
    """

    _staging: Path | None = None  # set while a checkpoint is written
    _push_when_published = False

    def __init__(self, model: nn.Module | None = None, *args, **kwargs):
        if model is not None:
            _require_adapter(model)
        with _passing_for_trainable(model):
            super().__init__(model, *args, **kwargs)
        if self.is_deepspeed_enabled:
            raise ValueError("DeepSpeed writes the whole model at each save: train with DDP or FSDP2 instead")
        if self.is_fsdp_enabled and self.accelerator.state.fsdp_plugin.fsdp_version != 2:
            raise ValueError("the first FSDP flattens an adapter's parameters: set fsdp_config's version to 2")

    def call_model_init(self, trial: Any = None) -> nn.Module:
        model = super().call_model_init(trial)
        _require_adapter(model)
        return model

    def _adapted(self) -> nn.Module:
        """The model as it was given; where it was sharded or compiled in place, what it became."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    # ---- saving -------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the adapter, the tokenizer and the training arguments to a folder; not the base."""
        self._save(output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Adapter save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder, model = Path(output_dir or self.args.output_dir), self._adapted()
        folder.mkdir(parents=True, exist_ok=True)
        if self.args.should_save or reshard(model):  # of shards every rank must gather
            save(model, folder / ADAPTER)
        if not self.args.should_save:
            return
        tokenizer = self.processing_class
        if tokenizer is None:
            tokenizer = getattr(self.data_collator, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        torch.save(self.args, folder / "training_args.bin")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run = Path(super()._get_output_dir(trial))
        staging, name = run / STAGING, f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)  # what a run that was killed has left
        self.accelerator.wait_for_everyone()
        self._staging, self._push_when_published = staging, False
        best_before = self.state.best_model_checkpoint
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging, self.state.best_model_checkpoint = None, best_before  # not where it was looked for now
        best = getattr(self.state, "best_global_step", None)
        if best and (best == self.state.global_step or (run / f"checkpoint-{best}").is_dir()):
            self.state.best_model_checkpoint = str(run / f"checkpoint-{best}")
        self.accelerator.wait_for_everyone()  # each rank has written its random state
        if self.args.should_save:
            self.state.save_to_json(str(staging / name / STATE))  # again: it named the best in the staging folder
            if (run / name).exists():
                (run / name).rename(staging / "replaced")
            publish(staging / name, run / name)
            self._retire(run, name)
        self.accelerator.wait_for_everyone()
        if self.args.local_process_index == 0:
            shutil.rmtree(staging, ignore_errors=True)
        if self._push_when_published:
            self._push_from_checkpoint(str(run / name))

    def _retire(self, run: Path, newest: str) -> None:
        """Take away the oldest beyond save_total_limit, never the newest nor the best: renamed first, so that no half
        of one is ever found."""
        limit = self.args.save_total_limit
        if not limit or limit < 1:
            return
        found = _checkpoints(run)
        kept = {newest, Path(self.state.best_model_checkpoint or newest).name}
        old = [path for path in found if path.name not in kept]
        old.sort(key=lambda path: (path.stat().st_mtime, _step(path)))
        for path in old[: max(0, len(found) - max(limit, len(kept)))]:
            path.rename(run / STAGING / path.name)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging else super()._get_output_dir(trial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging:
            self._push_when_published = True  # it is read in the background, under the name that it will have
            return
        if self.is_world_process_zero():  # Trainer copies files of names that it knows
            shutil.copy(Path(checkpoint_folder, ADAPTER), Path(self.args.output_dir, ADAPTER))
        super()._push_from_checkpoint(checkpoint_folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        from accelerate.utils import save_fsdp_optimizer  # Trainer would write the model beside it

        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER))

    # ---- resuming -----------------------------------------------------------------------------------

    def last_checkpoint(self) -> Path | None:
        """The checkpoint of the highest step in `args.output_dir`, which `train(True)` resumes from."""
        # Saving at SIGTERM, transformers makes the folder first, with this mark in it.
        found = [
            p for p in _checkpoints(Path(self.args.output_dir)) if not (p / "checkpoint-is-incomplete.txt").exists()
        ]
        return max(found, key=_step, default=None)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """As Trainer's; what it resumes from must be a checkpoint of this adapter on this base.

        Raises:
            AdapterFileError: there is no checkpoint, a file in it is missing or damaged, or its adapter is not the
                one attached; no value has changed then.
            BaseMismatchError: it was trained on another base.
        """
        if resume_from_checkpoint is True:
            last = self.last_checkpoint()
            if last is None:
                raise AdapterFileError(f"{self.args.output_dir} holds no checkpoint to resume from: start with train()")
            resume_from_checkpoint = str(last)
        if resume_from_checkpoint:
            _check_folder(Path(resume_from_checkpoint), sharded=self.is_fsdp_enabled)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        restore(self._adapted(), Path(resume_from_checkpoint, ADAPTER))

    def _load_best_model(self) -> None:
        restore(self._adapted(), Path(self.state.best_model_checkpoint, ADAPTER))


class AdapterTrainer(SavesAdapter, Trainer):
    """transformers.Trainer for a model that `attach` or `load` has put an adapter on; see `SavesAdapter`."""


def _require_adapter(model: nn.Module) -> None:
    if not isinstance(model, nn.Module) or not adapted_layers(model):
        raise ValueError("the model has no adapter to train: attach one before the trainer is made")
    refuse_other_root(model)


@contextlib.contextmanager
def _passing_for_trainable(model: nn.Module | None) -> Iterator[None]:
    """Trainer takes a quantised model only with this mark of PEFT's; left there, it would break save_pretrained."""
    marked = getattr(model, "is_quantized", False) and not getattr(model, "_hf_peft_config_loaded", False)
    if marked:
        model._hf_peft_config_loaded = True
    try:
        yield
    finally:
        if marked:
            del model._hf_peft_config_loaded


def _checkpoints(run: Path) -> list[Path]:
    return [path for path in run.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name) and path.is_dir()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def _check_folder(folder: Path, sharded: bool) -> None:
    """It holds what resuming reads, and nothing of it is cut short."""
    optimizers = ("optimizer.bin", "optimizer_0") if sharded else ("optimizer.pt",)
    missing = [name for name in (ADAPTER, STATE, SCHEDULER) if not (folder / name).is_file()]
    if not any((folder / name).exists() for name in optimizers):
        missing.append(" or ".join(optimizers))
    if missing:
        raise AdapterFileError(
            f"{folder} is no checkpoint to resume from, it has no {' and no '.join(missing)}: name another, or al.load "
            "an adapter and train from there"
        )
    try:
        TrainerState.load_from_json(str(folder / STATE))
    except (ValueError, TypeError, OSError) as error:
        raise AdapterFileError(f"{folder / STATE} is damaged: {error}") from error
    # What torch.save writes is a zip, whose parts have checksums.
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".pt", ".pth", ".bin")):
        try:
            with zipfile.ZipFile(path) as content:
                damaged = content.testzip()
        except Exception as error:  # whatever zipfile makes of a damaged file
            raise AdapterFileError(f"{path} is damaged: {error}") from error
        if damaged:
            raise AdapterFileError(f"{path} is damaged: the checksum of {damaged} does not match")
