"""`adapterlab train`: what it trains and writes, what survives a kill, and what it refuses, in a sentence."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import adapterlab as al
from adapterlab import kit
from adapterlab.cli import main as adapterlab
from adapterlab.files import locked
from adapterlab.finetune import data, record, run
from adapterlab.finetune.settings import Settings
from paths import ROOT

QUICK = ["--task", "add_rev", "--steps", "6", "--batch-size", "4", "--save-every", "2"]
KILLED = [
    "--task",
    "sub_neg",
    "--variant",
    "dora",
    "--r",
    "4",
    "--steps",
    "40",
    "--batch-size",
    "8",
    "--save-every",
    "5",
]
STEPS, SAVED = 40, 5


def train(*words) -> int:
    return adapterlab(["train", *map(str, words)])


def curve(out) -> dict:
    return json.loads((out / "curve.json").read_text())


def losses(out) -> list[float]:
    return [row["loss"] for row in curve(out)["rows"]]


def tensors(out) -> dict:
    from safetensors.torch import load_file

    return load_file(out / "adapter.safetensors")


# ---- processes of their own -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Runs of KILLED that nobody stops, that are killed, interrupted, and in two processes; begun all at once."""
    folder = tmp_path_factory.mktemp("runs")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    two = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    started, watching = {}, []

    def stop(name, number):
        """As soon as there is a checkpoint."""
        while not any(folder.glob(f"{name}/checkpoint-*")) and started[name].poll() is None:
            time.sleep(0.01)
        started[name].send_signal(number)

    def start(name, *more, launcher=(), program=("-m", "adapterlab"), stopped_by=None):
        words = [*program, "train", *KILLED, "--out", str(folder / name), *more]
        with open(folder / f"{name}.log", "w") as log:
            command = [sys.executable, *launcher, *words]
            started[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        if stopped_by:
            watching.append(threading.Thread(target=stop, args=(name, stopped_by)))
            watching[-1].start()

    start("killed", stopped_by=signal.SIGKILL)
    start("interrupted", stopped_by=signal.SIGINT)
    start("two", "--batch-size", "4", launcher=two)
    # accelerate shards where there are GPUs: here the trainer's worker tells it to.
    sharding = (
        "import sys, trainer_worker; trainer_worker._shard_on_cpu(); from adapterlab.cli import main; sys.exit(main())"
    )
    (folder / "sharding.py").write_text(sharding)
    environment |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
        "PYTHONPATH": os.pathsep.join([environment["PYTHONPATH"], str(ROOT / "tests")]),
    }
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--"]
    start("sharded", "--batch-size", "4", launcher=torchrun, program=[str(folder / "sharding.py")])

    def ended(name):
        code = started[name].wait(200)
        return folder / name, code, (folder / f"{name}.log").read_text()

    yield ended
    for process in started.values():
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        process.wait()
    for thread in watching:
        thread.join()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("straight") / "run"
    assert train(*KILLED, "--out", out) == 0
    return out


def latest(out: Path) -> int:
    return max(int(path.name.partition("-")[2]) for path in out.glob("checkpoint-*"))


def test_killed_it_loses_no_more_than_it_was_told_and_goes_on_bit_for_bit(elsewhere, straight, capsys):
    out, code, _ = elsewhere("killed")
    assert code == -signal.SIGKILL
    assert not (out / "adapter.safetensors").exists() and SAVED <= latest(out) < STEPS
    assert latest(out) % SAVED == 0
    assert train("--out", out, "--resume") == 0
    assert f"going on from {out}/checkpoint-" in capsys.readouterr().out
    assert losses(out) == losses(straight) and len(losses(out)) == STEPS
    assert (out / "adapter.safetensors").read_bytes() == (straight / "adapter.safetensors").read_bytes()
    assert (out / "curve.png").read_bytes() == (straight / "curve.png").read_bytes()


def test_interrupted_it_saves_the_step_says_how_to_go_on_and_does(elsewhere, straight):
    out, code, said = elsewhere("interrupted")
    assert code == 130 and "Traceback" not in said
    assert f"stopped and saved at step {latest(out)} of {STEPS}" in said
    assert f"adapterlab train --out {out} --resume" in said and SAVED <= latest(out) < STEPS
    assert train("--out", out, "--resume") == 0
    assert (out / "adapter.safetensors").read_bytes() == (straight / "adapter.safetensors").read_bytes()


def test_two_processes_do_what_one_does_by_the_same_command(elsewhere, straight, capsys):
    out, code, said = elsewhere("two")
    assert code == 0, said
    assert said.count("parameters to train") == 1 and said.count("curve.png") == 1
    assert losses(out) == pytest.approx(losses(straight), rel=2e-3)
    assert losses(out)[:5] == pytest.approx(losses(straight)[:5], rel=1e-5)
    one, other = tensors(straight), tensors(out)
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] - other[name]).norm() <= 2e-3 * one[name].norm(), name
    (out / "adapter.safetensors").unlink()
    assert train("--out", out, "--resume") == 1  # in one process
    assert "a run of 2 processes, and here are 1" in capsys.readouterr().err


def test_shared_out_over_two_processes_it_is_the_same_run(elsewhere, straight):
    out, code, said = elsewhere("sharded")
    assert code == 0, said
    assert (out / f"checkpoint-{STEPS}" / "optimizer.bin").exists(), "this was no FSDP2"
    assert losses(out)[:5] == pytest.approx(losses(straight)[:5], rel=1e-5)
    one, other = tensors(straight), tensors(out)
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] - other[name]).norm() <= 2e-3 * one[name].norm(), name


# ---- what it trains and writes --------------------------------------------------------------------


def test_the_adapter_that_it_writes_is_the_one_that_it_trained(straight):
    seen = curve(straight)
    model, tokenizer = kit.load_base()
    assert kit.evaluate(model, tokenizer, "sub_neg") == pytest.approx(seen["scores"]["before"], rel=1e-5)
    al.load(model, straight / "adapter.safetensors")
    assert model.model.layers[0].mlp.up_proj.adapter.variant == al.DoRA(r=4)
    assert kit.evaluate(model, tokenizer, "sub_neg") == pytest.approx(seen["scores"]["after"], rel=1e-5)
    assert losses(straight)[-1] < 0.5 * losses(straight)[0]


def test_it_trains_as_a_plain_loop_does(tmp_path):
    """The same rows in the order in which a sampler with that seed draws them, by hand."""
    path = tmp_path / "pairs.jsonl"
    pairs = [(f"{i}+{i}=", f" {2 * i}") for i in range(10, 18)]
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs))
    words = [
        "--lr",
        "0.01",
        "--schedule",
        "constant",
        "--warmup",
        "0",
        "--batch-size",
        "8",
        "--steps",
        "3",
        "--seed",
        "5",
    ]
    assert (
        train("--data", path, "--variant", "lora", "--r", "4", "--alpha", "6", *words, "--out", tmp_path / "out") == 0
    )

    model, tokenizer = kit.load_base()
    torch.manual_seed(5)
    adapter = al.attach(model, al.LoRA(r=4, alpha=6))
    optimizer = torch.optim.AdamW(adapter.parameters(), 0.01, weight_decay=0.0)
    model.train()
    expected = []
    for _ in range(3):  # all eight in each step, so their order counts for nothing
        total, labelled = 0.0, 0
        for prompt, completion in pairs:
            ids = tokenizer(prompt).input_ids
            answer = tokenizer(completion, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
            logits = model(input_ids=torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
            total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")
            labelled += len(answer)
        loss = total / labelled
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(adapter.parameters()), 1.0)
        optimizer.step()
        expected.append(loss.item())
    assert losses(tmp_path / "out") == pytest.approx(expected, rel=1e-4)
    found = tensors(tmp_path / "out")
    for name, parameter in model.named_parameters():
        if "adapter" in name:
            assert (found[name] - parameter).norm() < 1e-3 * parameter.norm(), name


def test_what_is_written_says_where_it_comes_from(straight):
    seen, asked = curve(straight), json.loads((straight / "run.json").read_text())
    for found in (seen, asked):
        assert found["command"].startswith(
            "adapterlab train --variant dora --r 4 --task sub_neg --steps 40 --batch-size 8"
        )
        assert (
            re.fullmatch(r"[0-9a-f]{40}\+?|unknown", found["commit"])
            and found["versions"]["torch"]
            and found["machine"]
        )
    assert asked["settings"] == seen["settings"] and asked["processes"] == 1 and asked["save_every"] == SAVED
    assert [row["step"] for row in seen["rows"]] == list(range(1, STEPS + 1))
    assert all(row["lr"] >= 0 and row["grad_norm"] > 0 for row in seen["rows"])
    assert (straight / "curve.png").read_bytes()[:4] == b"\x89PNG" and (straight / "curve.png").stat().st_size > 10_000
    kept = sorted(path.name for path in straight.iterdir() if path.is_dir())
    assert kept == [f"checkpoint-{STEPS - SAVED}", f"checkpoint-{STEPS}"]
    assert {path.name for path in straight.iterdir()} - set(kept) == {
        *(record.ADAPTER, record.RUN, "curve.json", "curve.png")
    }


@pytest.mark.parametrize(
    "words",
    [
        ["--variant", "eva", "--quantize", "8bit", "--targets", "q_proj$"],
        ["--variant", "antipasto", "--max-angle", "0.7", "--accumulate", "2", "--targets", r"layers\.0\."],
        ["--variant", "hra", "--quantize", "4bit", "--checkpointing", "--dtype", "bfloat16"],
        ["--variant", "pissa", "--rslora", "--schedule", "cosine", "--task", "kjv"],
        ["--variant", "delora", "--lambda0=3", "--norm", "scalar", "--start", "copy", "--warmup", "2"],
        ["--variant", "ia3", "--lr", "0.2"],
        ["--variant", "ia3_ff", "--targets", "down_proj$"],
    ],
    ids=lambda words: words[1],
)
def test_every_variant_and_option_goes_on_bit_for_bit(words, tmp_path, capsys, monkeypatch):
    """The run without interruption, and the same stopped by a signal after three steps."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert train(*QUICK, *words, "--out", straight) == 0

    from adapterlab.finetune.progress import StopOnSignal

    step_end = StopOnSignal.on_step_end

    def signalled(self, args, state, control, **more):
        if state.global_step == 3 and not stopped_once:
            stopped_once.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return step_end(self, args, state, control, **more)

    stopped_once = []
    monkeypatch.setattr(StopOnSignal, "on_step_end", signalled)
    assert train(*QUICK, *words, "--out", stopped) == 143 and latest(stopped) == 3
    assert train(*QUICK, *words, "--out", stopped, "--resume") == 0
    assert "checkpoint-3" in capsys.readouterr().out
    assert (stopped / "adapter.safetensors").read_bytes() == (straight / "adapter.safetensors").read_bytes()
    assert losses(stopped) == losses(straight) and len(losses(straight)) == 6
    asked = json.loads((stopped / "run.json").read_text())["command"].split()
    assert Settings(**json.loads((straight / "run.json").read_text())["settings"]).command().split() == asked[:-2]


def test_a_scheduler_may_say_resume_from_the_first_time_on(tmp_path):
    assert train(*QUICK, "--out", tmp_path / "new", "--resume") == 0
    before = (tmp_path / "new" / "adapter.safetensors").read_bytes()
    assert train(*QUICK, "--out", tmp_path / "new", "--resume") == 0  # it is finished
    assert (tmp_path / "new" / "adapter.safetensors").read_bytes() == before


def test_its_random_state_is_its_own(tmp_path):
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    assert train(*QUICK, "--out", tmp_path / "out") == 0
    assert torch.equal(torch.randn(4), expected)


# ---- what it refuses ------------------------------------------------------------------------------

EXAMPLE = json.dumps({"prompt": "1+1=", "completion": " 2"})


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "nothing to learn from"),
        (["--task", "nope"], "no task 'nope': choose one of add_rev"),
        (["--task", "add_rev", "--data", "x.jsonl"], "learns from one of them"),
        (["--data", "x.jsonl"], "cannot read x.jsonl: No such file"),
        (["--task", "add_rev", "--variant", "lorra"], "--variant lorra: there are antipasto"),
        (["--task", "add_rev", "--variant", "hra", "--alpha", "3"], "--alpha: hra has no such option; it has --r"),
        (["--task", "add_rev", "--variant", "ia3", "--r", "3"], "ia3 has no such option; it has none"),
        (["--task", "add_rev", "--r", "many"], "--r many: a number is wanted"),
        (["--task", "add_rev", "--rslora", "maybe"], "it is true or false"),
        (["--task", "add_rev", "--r", "0"], "a rank is a whole number"),
        (["--task", "add_rev", "--r", "2.5"], "a rank is a whole number"),
        (["--task", "add_rev", "--r", "200"], "choose a smaller r"),
        (["--task", "add_rev", "--steps", "0"], "--steps 0: it must be at least 1"),
        (["--task", "add_rev", "--steps", "x"], "invalid int value: 'x'"),
        (["--task", "add_rev", "--batch-size", "-1"], "--batch-size -1: it must"),
        (["--task", "add_rev", "--save-every", "0"], "--save-every 0: it must"),
        (["--task", "add_rev", "--keep", "0"], "--keep 0: it must"),
        (["--task", "add_rev", "--lr", "nan"], "--lr nan: a learning rate is a number above 0"),
        (["--task", "add_rev", "--lr", "-1"], "a learning rate"),
        (["--task", "add_rev", "--seed", "-1"], "--seed -1: a seed"),
        (["--task", "add_rev", "--quantize", "3bit"], "invalid choice: '3bit'"),
        (["--task", "add_rev", "--model", "nobody/nothing"], "could not be fetched from the model hub"),
        (["--task", "add_rev", "--model", "./nowhere"], "there is no folder ./nowhere"),
        (["--task", "add_rev", "--targets", "("], "no regular expression"),
        (["--task", "add_rev", "--targets", "zzz"], "no layer matches"),
        (["--task", "add_rev", "--frob", "3"], "there is no --frob"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else None,
)
def test_what_is_asked_wrong_is_said_in_a_sentence_and_leaves_nothing(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train(*words, "--out", "out") == 1
    shown = capsys.readouterr().err.strip()
    assert said in shown and shown.startswith("adapterlab train: ") and shown.count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_its_own_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes").write_text("mine")
    assert train(*QUICK, "--out", tmp_path) == 1 and "holds other files, notes among them" in capsys.readouterr().err
    assert train(*QUICK, "--out", tmp_path / "notes") == 1 and "is no folder" in capsys.readouterr().err
    assert train(*QUICK, "--out", tmp_path / "notes" / "deeper") == 1
    assert "cannot make the folder" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{")
    assert train(*QUICK, "--out", tmp_path / "run", "--resume") == 1
    assert "cannot be read as a run" in capsys.readouterr().err
    assert train("--task", "add_rev") == 1 and "required: --out" in capsys.readouterr().err
    assert (tmp_path / "notes").read_text() == "mine" and sorted(p.name for p in tmp_path.rglob("*")) == [
        "notes",
        "run",
        "run.json",
    ]


def test_two_runs_do_not_write_one_folder(tmp_path, capsys):
    out = tmp_path / "out"
    assert train(*QUICK, "--out", out) == 0
    (out / "adapter.safetensors").unlink()
    with locked(out):
        assert train("--out", out, "--resume") == 1
    assert "another process writes in the folder" in capsys.readouterr().err
    assert train("--out", out, "--resume") == 0


def test_a_run_goes_on_as_it_began_or_not_at_all(tmp_path, capsys):
    path, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    path.write_text(EXAMPLE)
    asked = ["--data", path, "--steps", "2", "--batch-size", "1", "--out", out]
    assert train(*asked) == 0
    assert train(*asked) == 1 and "a run that is finished: name another" in capsys.readouterr().err
    (out / "adapter.safetensors").unlink()
    assert train(*asked) == 1 and "unfinished: --resume goes on" in capsys.readouterr().err
    for more, said in (
        (["--steps", "3"], "steps = 2, and this one has 3"),
        (["--r", "4"], "options = {}, and this one has {'r': 4}"),
        (["--variant", "dora"], "variant = 'lora', and this one has 'dora'"),
        (["--seed", "1"], "seed = 0"),
    ):
        assert train("--out", out, "--resume", *more) == 1 and said in capsys.readouterr().err
    path.write_text(EXAMPLE.replace("2", "3"))
    assert train("--out", out, "--resume") == 1 and "has changed since the run" in capsys.readouterr().err
    path.write_text(EXAMPLE)
    assert train("--out", out, "--resume", "--save-every", "1") == 0 and len(losses(out)) == 2


def test_another_base_is_refused_when_a_run_goes_on(tmp_path, capsys):
    base, out = tmp_path / "base", tmp_path / "out"
    model, tokenizer = kit.load_base()
    tokenizer.save_pretrained(base)

    def saved(moved):
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight.add_(moved)
        model.save_pretrained(base)

    saved(0)
    assert train(*QUICK, "--model", base, "--out", out) == 0
    (out / "adapter.safetensors").unlink()
    saved(0.01)
    assert train("--out", out, "--resume") == 1
    assert re.search("weights|base", capsys.readouterr().err) and not (out / "adapter.safetensors").exists()


def test_a_loss_that_is_no_number_ends_the_run_and_is_not_saved(tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        "--task",
        "add_rev",
        "--steps",
        "30",
        "--batch-size",
        "2",
        "--lr",
        "1e30",
        "--warmup",
        "0",
        "--save-every",
        "1",
    ]
    assert train(*words, "--out", out) == 1
    said = capsys.readouterr().err
    assert "try a lower --lr" in said or "finite" in said
    assert not (out / "adapter.safetensors").exists()
    for saved in out.glob("checkpoint-*"):
        model, _ = kit.load_base()
        al.load(model, saved / "adapter.safetensors")  # refuses what is not finite


# ---- the data -------------------------------------------------------------------------------------


def read(tmp_path, content: bytes):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    return data.read_jsonl(path)


text = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(text, text.filter(str.strip), st.booleans()), min_size=1, max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_what_is_written_as_json_lines_is_read_as_it_was(tmp_path_factory, pairs, marked, windows):
    end = "\r\n" if windows else "\n"
    lines, expected = [], []
    for prompt, completion, blank in pairs:
        lines += [""] if blank else []
        lines.append(json.dumps({"completion": completion, "prompt": prompt, "more": [1]}, ensure_ascii=blank))
        expected.append(data.Line(len(lines), prompt, completion))
    content = (b"\xef\xbb\xbf" if marked else b"") + end.join(lines).encode()
    assert read(tmp_path_factory.mktemp("x"), content) == expected


@settings(max_examples=120, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=20), st.just(EXAMPLE.encode())), max_size=8))
def test_any_bytes_are_read_or_refused_by_the_number_of_their_line(tmp_path_factory, lines):
    lines = [line.replace(b"\n", b"") for line in lines]
    good = [i for i, line in enumerate(lines, 1) if line == EXAMPLE.encode()]
    bad = [i for i, line in enumerate(lines, 1) if line.strip() and i not in good]
    if bad and lines[0].startswith(b"\xef\xbb\xbf"):
        return
    try:
        found = read(tmp_path_factory.mktemp("x"), b"\n".join(lines))
    except data.DataError as error:
        assert bad or not good
        assert [int(n) for n in re.findall(r"^  line (\d+):", str(error), re.M)] == bad[: data.SHOWN]
        assert "Traceback" not in str(error)
    else:
        assert not bad and [line.number for line in found] == good


@pytest.mark.parametrize(
    "line, said",
    [
        (b"{'prompt': 1}", "no JSON: Expecting property name"),
        (b"[1, 2]", "a list, where an object is wanted"),
        (b'"text"', "a string, where"),
        (b"null", "a null, where"),
        (b'{"prompt": "x"}', "no 'completion'; it has 'prompt'"),
        (b"{}", "no 'prompt'; it has nothing"),
        (b'{"prompt": 3, "completion": "x"}', "its prompt is a number"),
        (b'{"prompt": "x", "completion": null}', "its completion is a null"),
        (b'{"prompt": "x", "completion": " "}', "its completion is empty"),
        (b'{"prompt": "\xff", "completion": "x"}', "is not UTF-8"),
        (b'{"prompt": "\\ud800", "completion": "x"}', "half of a surrogate pair"),
        (b"[" * 100_000, "no JSON"),
        (b'{"prompt": "x", "completion": ' + b"1" * 5000 + b"}", "no JSON|is a number"),
    ],
)
def test_each_kind_of_bad_line_is_told(line, said, tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    path.write_bytes(EXAMPLE.encode() + b"\n\n" + line + b"\n" + EXAMPLE.encode())
    assert train("--data", path, "--out", tmp_path / "out") == 1
    shown = capsys.readouterr().err
    assert (
        re.search(rf"has a line that cannot be used:\n  line 3: .*({said})", shown) and not (tmp_path / "out").exists()
    )


def test_many_bad_lines_are_counted_and_an_empty_file_is_told(tmp_path):
    with pytest.raises(data.DataError, match=r"(?s)9 lines that.*\n  and 4 more, the last of them line 9") as error:
        read(tmp_path, b"x\n" * 9)
    assert len(str(error.value).splitlines()) == data.SHOWN + 2
    for nothing in (b"", b"\n \n", b"\xef\xbb\xbf"):
        with pytest.raises(data.DataError, match="holds no example"):
            read(tmp_path, nothing)


def test_a_line_that_is_longer_than_the_model_takes_is_named(tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    path.write_text(f"{EXAMPLE}\n{json.dumps({'prompt': 'abcdefgh', 'completion': 'ijklmnop'})}\n")
    assert train("--data", path, "--max-length", "8", "--out", tmp_path / "out") == 1
    assert re.search(r"line 2: \d+ tokens, and 8 are the most", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_completions_alone_are_learnt_and_rows_are_padded_on_the_right():
    _, tokenizer = kit.load_base()
    lines = [data.Line(1, "12+3=", " 15"), data.Line(2, "", "x")]
    rows = data.from_lines(lines, tokenizer, 99, Path("x"))
    expected = kit.batches.encode(tokenizer, [("12+3=", " 15"), ("", "x")])
    batch = data.Pad(tokenizer.pad_token_id)([rows[0], rows[1]])
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in batch)


def test_a_tasks_examples_are_those_that_are_not_held_out():
    _, tokenizer = kit.load_base()
    rows = data.from_task("add_rev", tokenizer, 2 * data.MOST, seed=0)
    assert len(rows) == data.MOST
    held_out = {prompt for prompt, _ in kit.tasks.get("add_rev").examples(500, 0, held_out=True)}
    asked = {tokenizer.decode([t for t, label in zip(*row) if label == data.IGNORE][1:]) for row in rows.rows[:500]}
    assert len(asked) > 400 and not asked & held_out


# ---- settings -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Settings,
        model=st.none() | st.just("some/model"),
        variant=st.sampled_from(["lora", "dora", "eva"]),
        options=st.fixed_dictionaries(
            {}, optional={"r": st.integers(9, 64), "rslora": st.just(True), "alpha": st.integers(1, 9)}
        ),
        targets=st.none() | st.lists(st.sampled_from([r"(q|v)_proj$", "up proj", "'"]), min_size=1, max_size=2),
        task=st.just("kjv"),
        quantize=st.none() | st.sampled_from(["4bit", "8bit"]),
        steps=st.integers(1, 10**6),
        lr=st.none() | st.floats(1e-6, 1),
        warmup=st.none() | st.integers(0, 99),
        checkpointing=st.booleans(),
        seed=st.integers(0, 2**32 - 1),
    )
)
def test_the_command_that_is_recorded_asks_for_the_same_run(asked):
    import shlex

    from adapterlab.finetune import command

    words = shlex.split(asked.command())
    assert words[:2] == ["adapterlab", "train"]
    again = command._settings(command._options([*words[2:], "--out", "x"]))
    assert again == asked and Settings.from_json(json.loads(json.dumps(asked.to_json()))) == asked


def test_help_names_every_option_of_every_variant(capsys):
    with pytest.raises(SystemExit) as ended:
        train("--help")
    said = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and "--lambda0" in said and "antipasto (0.5)" in said and "accelerate launch" in said


def test_nothing_is_written_where_training_is_called_from_python(tmp_path):
    """`run.train` is the same without a command line."""
    said = []
    done = run.train(Settings(task="add_rev", steps=2, batch_size=2), tmp_path / "out", say=said.append)
    assert len(done.losses) == 2 and done.scores.keys() == {"before", "after"} and "LoRA(r=8" in said[0]
    with pytest.raises(record.FolderError, match="finished"):
        run.train(Settings(task="add_rev", steps=2, batch_size=2), tmp_path / "out")
    with pytest.raises(run.Finished):
        run.train(Settings(task="add_rev", steps=2, batch_size=2), tmp_path / "out", resume=True)
