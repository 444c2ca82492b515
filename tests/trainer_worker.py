"""A run of AdapterTrainer and its resumption, for test_trainer.py and for processes of its own:

    python tests/trainer_worker.py killed OUT
    python -m torch.distributed.run --standalone --nproc-per-node 2 tests/trainer_worker.py together OUT

The first is killed while it saves; the second trains in two processes, with DDP and with FSDP2.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainingArguments

import adapterlab as al
import adapterlab.trainer
from adapterlab.trainer import AdapterTrainer
from helpers import attach, far_from_start, tiny_llama

BATCH = 4
STEPS, SAVE = 6, 2  # of three steps an epoch: a checkpoint in the middle of one, one in the middle of the next
QUANTISED = {
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "int8": BitsAndBytesConfig(load_in_8bit=True),
}


class Rows(torch.utils.data.Dataset):
    """12 rows of 10 tokens, as many for each seed."""

    def __init__(self, seed=0):
        self.tokens = torch.randint(3, 48, (12, 10), generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, i):
        return {"input_ids": self.tokens[i], "labels": self.tokens[i]}


def arguments(out, **changes):
    settings = dict(
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        save_steps=SAVE,
        logging_steps=1,
        learning_rate=0.05,
        weight_decay=0.1,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    return TrainingArguments(str(out), **(settings | changes))


def adapted(variant, seed, base=None, kind=None, dropout=0.1):
    """A tiny Llama, or the one saved in the folder `base`, quantised; another seed starts the adapter elsewhere."""
    if kind:
        model = AutoModelForCausalLM.from_pretrained(base, quantization_config=QUANTISED[kind], device_map="cpu")
    else:
        model = tiny_llama()
    for module in model.modules():  # so that the random state counts
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = dropout
    torch.manual_seed(seed)
    adapter = attach(model, variant)
    if seed:
        far_from_start(adapter, seed)
    return model


def straight(out, variant, base=None, kind=None, dropout=0.1, **changes):
    """The run without interruption, in OUT/straight."""
    model = adapted(variant, 0, base, kind, dropout)
    trainer = AdapterTrainer(model, arguments(out / "straight", **changes), train_dataset=Rows())
    trainer.train()
    return trainer


def resumed(out, variant, base=None, kind=None, dropout=0.1, **changes):
    """The same from its first checkpoint on, in OUT/resumed, by an adapter that starts anywhere."""
    model = adapted(variant, 1, base, kind, dropout)
    trainer = AdapterTrainer(model, arguments(out / "resumed", **changes), train_dataset=Rows())
    if trainer.is_world_process_zero():
        name = f"checkpoint-{SAVE}"
        shutil.copytree(out / "straight" / name, out / "resumed" / name)
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=True)
    return trainer


# ---- the processes --------------------------------------------------------------------------------


def killed(out):
    """kill -9 halfway through a file of the second save."""
    save = torch.save

    def save_and_die(content, path, **options):
        save(content, path, **options)
        if Path(path).name == "scheduler.pt" and Path(path).parent.name == f"checkpoint-{2 * SAVE}":
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_and_die
    straight(out, al.DoRA(r=4, alpha=6))


def together(out):
    """Each way of training in two processes, without interruption and resumed."""
    save = adapterlab.trainer.save

    def noted(model, path):
        with open(out / "saves", "a") as notes:
            notes.write(f"{os.environ['RANK']} {path}\n")
        save(model, path)

    adapterlab.trainer.save = noted
    dora, half = al.DoRA(r=4, alpha=6), dict(per_device_train_batch_size=BATCH // 2)
    for kind, dropout in ((None, 0.0), ("nf4", 0.1)):  # without dropout, two processes do what one does
        for run in (straight, resumed):
            run(out / f"ddp-{kind or 'dense'}", dora, out / "base", kind, dropout, **half)
    _shard_on_cpu()
    for form in ("FULL_STATE_DICT", "SHARDED_STATE_DICT"):
        config = {"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"], "state_dict_type": form}
        for run in (straight, resumed):
            trainer = run(out / form, dora, fsdp=True, fsdp_config=config, **half)
            sharded = [p for p in trainer.model.parameters() if hasattr(p, "full_tensor")]
            assert len(sharded) == len(list(trainer.model.parameters())), "this was no FSDP2"
    torch.distributed.destroy_process_group()


def _shard_on_cpu():
    """accelerate turns to FSDP where there are GPUs alone: tell it to here."""
    from accelerate.state import AcceleratorState, DistributedType

    AcceleratorState._reset_state()
    start = AcceleratorState.__init__

    def start_with_fsdp(self, *args, fsdp_plugin=None, **options):
        fresh = not AcceleratorState._shared_state
        start(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fresh:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = start_with_fsdp


if __name__ == "__main__":
    {"killed": killed, "together": together}[sys.argv[1]](Path(sys.argv[2]))
