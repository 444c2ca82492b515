"""AdapterTrainer: what is trained, what is written and when it appears, and resuming bit for bit."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast, Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

import adapterlab as al
import trainer_worker as worker
from adapterlab.trainer import AdapterTrainer, SavesAdapter
from anatomy import anatomy, bits
from helpers import IDS, VARIANTS, attach, tiny_llama
from paths import ROOT
from trainer_worker import SAVE, STEPS, Rows, adapted, arguments, resumed, straight

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
DORA = al.DoRA(r=4, alpha=6)
WHOLE = {"adapter.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
WHOLE |= {"training_args.bin"}


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory):
    """The folder of a dense tiny Llama, which transformers loads in 4 or 8 bits."""
    folder = tmp_path_factory.mktemp("model") / "base"
    tiny_llama().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory, base):
    """The processes of trainer_worker.py, which run beside the tests; call with a name for its folder when done."""
    running, logs = {}, {}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("killed", []), ("together", two)):
        out = tmp_path_factory.mktemp(name)
        shutil.copytree(base, out / "base")
        command = [sys.executable, *launcher, str(ROOT / "tests" / "trainer_worker.py"), name, str(out)]
        logs[name] = open(out / "log", "w")
        running[name] = out, subprocess.Popen(command, stdout=logs[name], stderr=subprocess.STDOUT, env=environment)

    def finished(name):
        out, process = running[name]
        return out, process.wait(300), (out / "log").read_text()

    yield finished
    for _, process in running.values():
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        process.wait()
    for log in logs.values():
        log.close()


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def assert_same(one, two):
    """Two things that torch.load gives, to the bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two) and one.dtype == two.dtype
    elif isinstance(one, dict):
        assert list(one) == list(two)
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for a, b in zip(one, two):
            assert_same(a, b)  # and a tuple may come back as a list
    else:
        assert one == two


def assert_resumed(out):
    """From the first save on, the run that was interrupted wrote what the other wrote: losses, parameters, optimizer
    and random states."""
    for step in range(2 * SAVE, STEPS + 1, SAVE):
        one, two = (out / run / f"checkpoint-{step}" for run in ("straight", "resumed"))
        assert files(one) == files(two)
        for name in files(one) - {"training_args.bin", "optimizer_0/.metadata", "optimizer.bin"}:  # two name the folder
            assert (one / name).read_bytes() == (two / name).read_bytes(), f"{name} of step {step}"
        if (one / "optimizer.bin").exists():  # FSDP's: the same, pickled in another way
            assert_same(*(torch.load(folder / "optimizer.bin", weights_only=True) for folder in (one, two)))


# ---- training and resuming ------------------------------------------------------------------------


@each_variant
def test_a_resumed_run_is_the_run_without_interruption(variant, tmp_path):
    first = straight(tmp_path, variant)
    second = resumed(tmp_path, variant)
    assert_resumed(tmp_path)
    assert losses(second) == losses(first) and len(losses(first)) == STEPS
    assert bits(second.model) == bits(first.model)
    start = adapted(variant, 0)
    assert all((name in bits(start)) for name in bits(first.model)) and bits(start) != bits(first.model)
    untrained = {name: b for name, b in bits(start).items() if "adapter" not in name}
    assert untrained == {name: b for name, b in bits(first.model).items() if "adapter" not in name}
    assert sorted(os.listdir(tmp_path / "straight")) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert all(files(folder) == WHOLE for folder in (tmp_path / "straight").iterdir())


# By default all three kinds of arithmetic on both, and the others on one of the two; the rest with --full.
QUANTISED = [
    pytest.param(
        variant,
        kind,
        marks=() if variant.name in ("lora", "dora", "hra") or (i + k) % 2 == 0 else pytest.mark.full,
        id=f"{variant.name}-{kind}",
    )
    for i, variant in enumerate(VARIANTS)
    for k, kind in enumerate(worker.QUANTISED)
]


@pytest.mark.parametrize("variant, kind", QUANTISED)
def test_a_quantised_model_trains_and_resumes(variant, kind, base, tmp_path):
    first = straight(tmp_path, variant, base, kind)
    second = resumed(tmp_path, variant, base, kind)
    assert_resumed(tmp_path)
    assert losses(second) == losses(first) and bits(second.model) == bits(first.model)
    assert all(files(folder) == WHOLE for folder in (tmp_path / "straight").iterdir())


@each_variant
def test_it_trains_as_a_loop_by_hand_does(variant, tmp_path):
    options = dict(optim="adamw_torch", save_strategy="no", max_grad_norm=0.5)
    trainer = AdapterTrainer(adapted(variant, 0), arguments(tmp_path, **options), train_dataset=Rows())
    trainer.train()

    model = adapted(variant, 0)
    handed = AdapterTrainer(model, arguments(tmp_path, **options), train_dataset=Rows())
    loader = handed.get_train_dataloader()
    decayed, others = [], []
    names = handed.get_decay_parameter_names(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if name in names else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.05)
    torch.manual_seed(42)  # Trainer's own, for the dropout
    found, model = [], model.train()
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * (STEPS - len(found)) / STEPS
            count = torch.tensor((batch["labels"][:, 1:] != -100).sum().item())
            loss = model(**batch, num_items_in_batch=count).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
    assert found == losses(trainer)
    assert bits(model) == bits(trainer.model)


def test_plain_trainer_trains_to_the_same_losses(tmp_path):
    """On a dense model it needs nothing of ours; it writes the whole model, that is its way."""
    plain = Trainer(adapted(DORA, 0), arguments(tmp_path / "plain", save_steps=STEPS), train_dataset=Rows())
    plain.train()
    ours = straight(tmp_path, DORA)
    assert losses(plain) == losses(ours) and bits(plain.model) == bits(ours.model)
    assert (tmp_path / "plain" / "checkpoint-6" / "model.safetensors").exists()


def test_any_trainer_takes_the_mixin(tmp_path):
    class Doubling(Trainer):
        def compute_loss(self, *args, **options):
            return 2 * super().compute_loss(*args, **options)

    class AdapterDoubling(SavesAdapter, Doubling):
        pass

    settings = arguments(tmp_path, max_steps=1)
    trainer = AdapterDoubling(model=adapted(DORA, 0), args=settings, train_dataset=Rows())
    trainer.train()
    once = AdapterTrainer(adapted(DORA, 0), arguments(tmp_path / "once", max_steps=1), train_dataset=Rows())
    once.train()
    assert losses(trainer) == [2 * losses(once)[0]]
    assert files(tmp_path / "checkpoint-1") == WHOLE


def test_a_model_that_model_init_makes(tmp_path):
    def model_init():
        with torch.random.fork_rng():  # the order of the data comes from the seed that Trainer has set
            return adapted(DORA, 0)

    trainer = AdapterTrainer(args=arguments(tmp_path / "straight"), train_dataset=Rows(), model_init=model_init)
    trainer.train()
    resumed(tmp_path, DORA)
    assert_resumed(tmp_path)
    with pytest.raises(ValueError, match="no adapter to train"):
        AdapterTrainer(args=arguments(tmp_path), train_dataset=Rows(), model_init=lambda: tiny_llama())


def test_with_other_arguments(tmp_path):
    """Accumulation, autocast, another schedule, and no logs at the saves."""
    options = dict(gradient_accumulation_steps=2, bf16=True, lr_scheduler_type="cosine", warmup_steps=1)
    first, second = (run(tmp_path, DORA, per_device_train_batch_size=1, **options) for run in (straight, resumed))
    assert_resumed(tmp_path)
    assert bits(first.model) == bits(second.model)

    rare = [run(tmp_path / "rare", DORA, logging_steps=5) for run in (straight, resumed)]
    assert bits(rare[0].model) == bits(rare[1].model)


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_activation_checkpointing(reentrant, tmp_path):
    """The embedding is frozen: its output must ask for a gradient, or a checkpoint that is re-entered has none."""
    plain = straight(tmp_path, DORA, max_steps=2)
    kwargs = None if reentrant is None else {"use_reentrant": reentrant}
    options = dict(activation_checkpointing=True, activation_checkpointing_kwargs=kwargs, max_steps=2)
    kept = straight(tmp_path / "kept", DORA, **options)
    assert kept.model.is_activation_checkpointing and losses(kept) == losses(plain)
    for name, parameter in kept.model.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter, plain.model.get_parameter(name), atol=1e-6), name


def test_torch_compile(tmp_path):
    options = dict(torch_compile=True, torch_compile_backend="aot_eager", dropout=0.0)
    first = straight(tmp_path, DORA, **options)
    assert hasattr(first.model_wrapped, "_orig_mod") or first.model_wrapped._compiled_call_impl, "not compiled"
    resumed(tmp_path, DORA, **options)
    assert_resumed(tmp_path)
    eager = straight(tmp_path / "eager", DORA, dropout=0.0)
    assert losses(first) == pytest.approx(losses(eager), abs=1e-5)
    torch.compiler.reset()


# ---- what is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, *worker.QUANTISED])
def test_save_model_writes_what_load_reads_and_no_trace_is_left(kind, base, tmp_path):
    model = adapted(DORA, 1, base, kind)
    before = anatomy(model)
    trainer = AdapterTrainer(model, arguments(tmp_path / "run"), train_dataset=Rows())
    assert anatomy(model) == before
    trainer.save_model(str(tmp_path / "out"))
    assert files(tmp_path / "out") == {"adapter.safetensors", "training_args.bin"}
    trainer.save_model()
    assert files(tmp_path / "run") == {"adapter.safetensors", "training_args.bin"}
    found = bits(model)
    assert not [name for name in vars(model) if "peft" in name]
    al.detach(model)
    al.load(model, tmp_path / "out" / "adapter.safetensors")
    assert bits(model) == found
    al.detach(model)
    model.save_pretrained(tmp_path / "base")  # which a flag that is left behind would break
    assert (tmp_path / "base" / "model.safetensors").exists()


def test_a_failure_leaves_no_trace_either(base, tmp_path):
    model = adapted(DORA, 0, base, "nf4")
    before = anatomy(model)
    with pytest.raises(TypeError):
        AdapterTrainer(model, arguments(tmp_path), no_such_option=1)
    assert anatomy(model) == before


@pytest.fixture
def tokenizer(tmp_path):
    from tokenizers import Tokenizer, models

    words = {"[PAD]": 0, "a": 1}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "[PAD]")), pad_token="[PAD]")


@pytest.mark.parametrize("of", ["trainer", "collator"])
def test_the_tokenizer_is_saved_too(of, tokenizer, tmp_path):
    options = {"processing_class": tokenizer} if of == "trainer" else {}
    options["data_collator"] = DataCollatorWithPadding(tokenizer)
    trainer = AdapterTrainer(adapted(DORA, 0), arguments(tmp_path, max_steps=2), train_dataset=Rows(), **options)
    trainer.train()
    assert files(tmp_path / "checkpoint-2") >= WHOLE | {"tokenizer.json", "tokenizer_config.json"}


def test_old_checkpoints_go(tmp_path):
    straight(tmp_path, DORA, save_steps=1, save_total_limit=2)
    assert sorted(os.listdir(tmp_path / "straight")) == ["checkpoint-5", "checkpoint-6"]


class Scores:
    """What evaluations say, one after another."""

    def __init__(self, *scores):
        self.scores = list(scores)

    def __call__(self, _):
        return {"score": self.scores.pop(0)}


@pytest.mark.parametrize("limit, left", [(None, [2, 4, 6]), (2, [2, 6]), (1, [2])])
def test_the_best_is_kept_and_loaded(limit, left, tmp_path):
    options = dict(eval_strategy="steps", eval_steps=SAVE, load_best_model_at_end=True, save_total_limit=limit)
    options |= dict(metric_for_best_model="score", greater_is_better=True)
    kept = {}

    class Keep(TrainerCallback):
        def on_save(self, args, state, control, model, **_):
            kept[state.global_step] = bits(model)

    trainer = AdapterTrainer(
        adapted(DORA, 0),
        arguments(tmp_path, **options),
        train_dataset=Rows(),
        eval_dataset=Rows(1),
        compute_metrics=Scores(3, 1, 2),
        callbacks=[Keep()],
    )
    trainer.train()
    assert sorted(os.listdir(tmp_path)) == [f"checkpoint-{step}" for step in left]
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    assert bits(trainer.model) == kept[2] != kept[6]
    for step in left:
        state = json.loads((tmp_path / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-2")
        assert state["best_global_step"] == 2


def test_what_is_pushed_is_pushed_under_its_name(tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda self, **_: None)
    monkeypatch.setattr(
        Trainer, "_push_from_checkpoint", lambda self, folder: pushed.append((folder, files(Path(folder))))
    )
    monkeypatch.setattr(Trainer, "push_to_hub", lambda self, **_: pushed.append("the adapter"))
    trainer = straight(tmp_path, DORA, max_steps=2, push_to_hub=True)
    assert pushed == [(str(tmp_path / "straight" / "checkpoint-2"), WHOLE)]
    assert (tmp_path / "straight" / "adapter.safetensors").exists(), "what is pushed as the repository's own"
    trainer.save_model(str(tmp_path / "out"))
    assert pushed[1:] == ["the adapter"]


# ---- a save that does not end ---------------------------------------------------------------------


class Crash(BaseException):
    """At one of the moments at which a save touches the disk."""


class Disk:
    """Counts what touches the disk while it watches, and raises Crash at the one asked for."""

    EVENTS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}

    def __init__(self):
        self.watching, self.moments, self.crash_at = False, [], None
        sys.addaudithook(self._hear)  # for good: there is no way to take one away

    def _hear(self, event, args):
        if self.watching and (event in self.EVENTS or (event == "open" and args[1] and set(args[1]) & set("wxa+"))):
            self.moment(event)

    def moment(self, name):
        if self.watching:
            self.moments.append(name)
            if len(self.moments) - 1 == self.crash_at:
                self.watching = False
                raise Crash(name)

    @contextlib.contextmanager
    def watched(self, crash_at=None):
        self.watching, self.moments, self.crash_at = True, [], crash_at
        try:
            yield
        finally:
            self.watching = False


@pytest.fixture(scope="module")
def disk():
    return Disk()


def test_whenever_a_save_is_cut_off_only_whole_checkpoints_are_found(disk, tmp_path, monkeypatch):
    save = torch.save

    def save_in_two(content, path, **options):  # torch.save writes files that Python does not hear of
        disk.moment(f"before {Path(path).name}")
        Path(path).write_bytes(b"half")
        save(content, path, **options)

    monkeypatch.setattr(torch, "save", save_in_two)
    trainer = straight(tmp_path, DORA, max_steps=4, save_total_limit=1)
    run, kept = tmp_path / "straight", tmp_path / "kept"
    (run / "checkpoint-4").rename(kept)
    trainer.state.best_global_step = 4

    def again(crash_at):
        """The save of step 4 with step 2's beside it, and a finished one of step 4 from an earlier run."""
        shutil.rmtree(run)
        for step in (2, 4):
            shutil.copytree(kept, run / f"checkpoint-{step}")
            os.utime(run / f"checkpoint-{step}", (step, step))
        trainer.state.best_model_checkpoint = None
        try:
            with disk.watched(crash_at):
                trainer._save_checkpoint(trainer.model, None)
        except Crash:
            return True
        return False

    assert not again(None)
    total = len(disk.moments)
    assert total > 15 and "before optimizer.pt" in disk.moments and disk.moments.count("os.rename") >= 3
    assert os.listdir(run) == ["checkpoint-4"]
    for moment in range(total):
        assert again(moment), moment
        found = [path for path in run.iterdir() if path.name != ".saving"]
        assert found and all(path.name in ("checkpoint-2", "checkpoint-4") for path in found), moment
        assert all(files(path) == WHOLE for path in found), moment
        assert trainer.state.best_model_checkpoint in (None, str(run / "checkpoint-4"))
        for path in found:
            for name in WHOLE - {"training_args.bin", "trainer_state.json"}:
                assert (path / name).read_bytes() == (kept / name).read_bytes(), (moment, path, name)
        assert get_last_checkpoint(str(run)) in map(str, found)
        trainer._save_checkpoint(trainer.model, None)  # the next one clears what is left
        assert os.listdir(run) == ["checkpoint-4"] and files(run / "checkpoint-4") == WHOLE


def test_a_run_that_is_killed_goes_on_from_the_last_save(elsewhere, tmp_path):
    """A process, kill -9, another process."""
    out, code, log = elsewhere("killed")
    assert code == -9, log
    assert sorted(os.listdir(out / "straight")) == [".saving", "checkpoint-2"]
    straight(tmp_path, DORA)
    (out / "straight").rename(tmp_path / "resumed")
    trainer = AdapterTrainer(adapted(DORA, 1), arguments(tmp_path / "resumed"), train_dataset=Rows())
    trainer.train(resume_from_checkpoint=True)
    assert_resumed(tmp_path)
    assert sorted(os.listdir(tmp_path / "resumed")) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


# ---- what is refused ------------------------------------------------------------------------------


def test_a_model_without_an_adapter(tmp_path):
    for model in (tiny_llama(), "a name"):
        with pytest.raises(ValueError, match="the model has no adapter to train: attach one before"):
            AdapterTrainer(model, arguments(tmp_path), train_dataset=Rows())


def test_a_part_of_the_model_that_attach_was_given(tmp_path):
    model = tiny_llama()
    attach(model, DORA)
    with pytest.raises(ValueError, match="call this on the model that attach was given"):
        AdapterTrainer(model.model, arguments(tmp_path), train_dataset=Rows())


@pytest.mark.parametrize("engine, match", [("deepspeed", "DeepSpeed writes the whole"), ("fsdp", "the first FSDP")])
def test_an_engine_that_cannot_save_an_adapter_alone(engine, match, tmp_path, monkeypatch):
    """Neither runs here: the trainer is told that it is there."""
    from types import SimpleNamespace

    create = Trainer.create_accelerator_and_postprocess

    def pretend(self):
        create(self)
        setattr(self, f"is_{engine}_enabled", True)
        self.accelerator.state.fsdp_plugin = SimpleNamespace(fsdp_version=1)

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", pretend)
    with pytest.raises(ValueError, match=match):
        AdapterTrainer(adapted(DORA, 0), arguments(tmp_path), train_dataset=Rows())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's folder, to be copied."""
    out = tmp_path_factory.mktemp("finished")
    straight(out, DORA, max_steps=2)
    return out / "straight"


def refuses_to_resume(trainer, checkpoint, error, match):
    before = bits(trainer.model)
    with pytest.raises(error, match=match):
        trainer.train(resume_from_checkpoint=checkpoint)
    assert bits(trainer.model) == before


@pytest.mark.parametrize("name", sorted(WHOLE - {"training_args.bin", "rng_state.pth"}))
def test_a_file_that_is_missing(name, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-2" / name).unlink()
    trainer = AdapterTrainer(adapted(DORA, 1), arguments(tmp_path / "run"), train_dataset=Rows())
    refuses_to_resume(trainer, True, al.AdapterFileError, f"no checkpoint to resume from, it has no {name}")


def flipped(path):
    """One bit of what the file holds, not of a header or of padding."""
    content = bytearray(path.read_bytes())
    if path.suffix == ".json":
        return content.replace(b"{", b"[", 1)
    place = len(content) - 5
    if path.suffix != ".safetensors":
        with zipfile.ZipFile(path) as file:
            part = max(file.infolist(), key=lambda part: part.file_size)
            place = content.index(file.read(part)) + part.file_size // 2
    content[place] ^= 1
    return content


def cut(path):
    return path.read_bytes()[: path.stat().st_size // 2]


@pytest.mark.parametrize("harm", [flipped, cut])
@pytest.mark.parametrize("name", sorted(WHOLE - {"training_args.bin"}))
def test_a_file_that_is_damaged(name, harm, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "checkpoint-2" / name
    path.write_bytes(harm(path))
    trainer = AdapterTrainer(adapted(DORA, 1), arguments(tmp_path / "run"), train_dataset=Rows())
    refuses_to_resume(trainer, True, al.AdapterFileError, f"{name} (is damaged|cannot be read)")


def test_a_checkpoint_on_demand_is_whole_and_one_that_was_not_ended_is_passed_over(tmp_path):
    """transformers' saving at SIGTERM makes the folder first, with a mark in it, and takes the mark away at the end."""
    trainer = straight(tmp_path, DORA, max_steps=2, enable_jit_checkpoint=True)
    run, manager = tmp_path / "straight", trainer.callback_handler.callbacks[-2].jit_manager
    shutil.rmtree(run / "checkpoint-2")
    manager.execute_jit_checkpoint()
    assert os.listdir(run) == ["checkpoint-2"] and files(run / "checkpoint-2") == WHOLE

    (run / "checkpoint-4").mkdir()
    (run / "checkpoint-4" / "checkpoint-is-incomplete.txt").touch()
    resumed = AdapterTrainer(adapted(DORA, 1), arguments(run, max_steps=3), train_dataset=Rows())
    resumed.train(resume_from_checkpoint=True)
    assert len(losses(resumed)) == 3 and resumed.state.global_step == 3


def test_the_last_checkpoint_is_the_one_of_the_highest_step(tmp_path):
    straight(tmp_path, DORA, max_steps=10, save_steps=1, save_total_limit=2)
    assert sorted(os.listdir(tmp_path / "straight")) == ["checkpoint-10", "checkpoint-9"]
    (tmp_path / "straight" / "checkpoint-9" / "adapter.safetensors").unlink()  # which is not read
    trainer = AdapterTrainer(adapted(DORA, 1), arguments(tmp_path / "straight", max_steps=11), train_dataset=Rows())
    trainer.train(resume_from_checkpoint=True)
    assert len(losses(trainer)) == 11


def test_a_folder_with_no_checkpoint(tmp_path):
    trainer = AdapterTrainer(adapted(DORA, 1), arguments(tmp_path / "run"), train_dataset=Rows())
    refuses_to_resume(trainer, True, al.AdapterFileError, "holds no checkpoint to resume from")
    refuses_to_resume(trainer, str(tmp_path / "none"), al.AdapterFileError, "is no checkpoint to resume from")


def test_a_checkpoint_of_another_adapter_or_base(finished, base, tmp_path):
    last, settings = str(finished / "checkpoint-2"), arguments(tmp_path)
    trainer = AdapterTrainer(adapted(al.DoRA(r=2, alpha=6), 1), settings, train_dataset=Rows())
    refuses_to_resume(trainer, last, al.AdapterFileError, "holds another adapter for .* than the one attached: fields")
    model = tiny_llama(seed=1)
    attach(model, DORA)
    trainer = AdapterTrainer(model, settings, train_dataset=Rows())
    refuses_to_resume(trainer, last, al.BaseMismatchError, "other weights than the adapter was trained on")


def test_a_checkpoint_of_the_adapter_without_the_optimizer(tmp_path):
    straight(tmp_path, DORA, max_steps=2, save_only_model=True)
    trainer = AdapterTrainer(adapted(DORA, 1), arguments(tmp_path / "straight"), train_dataset=Rows())
    refuses_to_resume(trainer, True, al.AdapterFileError, "it has no scheduler.pt and no optimizer.pt")


# ---- two processes --------------------------------------------------------------------------------


def assert_ended(outcome):
    out, code, log = outcome
    assert code == 0, log[-5000:]
    return out


def test_two_processes_do_what_one_does(elsewhere, tmp_path):
    one = straight(tmp_path, DORA, dropout=0.0)
    out = assert_ended(elsewhere("together"))
    for run in ("ddp-dense", "FULL_STATE_DICT", "SHARDED_STATE_DICT"):
        last = out / run / "straight" / f"checkpoint-{STEPS}"
        history = json.loads((last / "trainer_state.json").read_text())["log_history"]
        if run.startswith("ddp"):
            assert [entry["loss"] for entry in history] == pytest.approx(losses(one), abs=1e-6, rel=0)
        model = tiny_llama()
        al.load(model, last / "adapter.safetensors")
        assert all(p.shape == one.model.get_parameter(name).shape for name, p in model.named_parameters())


@pytest.mark.parametrize("run", ["ddp-dense", "ddp-nf4", "FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_two_processes_resume(run, elsewhere):
    out = assert_ended(elsewhere("together")) / run
    assert_resumed(out)
    assert sorted(os.listdir(out / "straight")) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    saves = [line.split() for line in (out.parent / "saves").read_text().splitlines()]
    assert {rank for rank, path in saves if run in path} == ({"0"} if "ddp" in run else {"0", "1"}), "who saved"
    found = files(out / "straight" / "checkpoint-6")
    optimizer = {name for name in found if name.startswith("optimizer")}
    random_states = {"rng_state_0.pth", "rng_state_1.pth"}
    assert optimizer and found == (WHOLE - {"optimizer.pt", "rng_state.pth"}) | random_states | optimizer
