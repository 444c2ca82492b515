"""`adapterlab info`, `merge` and `export`: what they tell and write, and what they refuse, in a sentence."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import adapterlab as al
import adapterlab.peft
from adapterlab import kit
from adapterlab.cli import main as adapterlab
from adapterlab.deploy import command
from adapterlab.deploy.info import facts, grouped
from adapterlab.finetune.settings import Settings
from helpers import IDS, VARIANTS, attach, far_from_start
from paths import ROOT

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
TOKENS = torch.randint(1024, (2, 12), generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=TOKENS).logits.double()


def distance(one, other):
    return ((one - other).norm() / other.norm()).item()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Variant -> (a file of it far from its start on the embedded base, its logits), made once each."""
    folder, made = tmp_path_factory.mktemp("files"), {}

    def of(variant, **changes):
        name = "-".join([variant.name, *changes])
        if name not in made:
            model, _ = kit.load_base()
            batch = {"input_ids": TOKENS}
            targets = r"(q|v|down)_proj$"
            data = [batch] if variant.data == "required" else None
            adapter = al.attach(model, variant, targets=targets, calibration_data=data)
            far_from_start(adapter)
            with torch.no_grad():  # that far, for a model that still makes sense of its input
                for p in adapter.parameters():
                    p.mul_(0.3) if variant.name not in ("hra", "dora", "ia3", "ia3_ff") else None
            al.save(model, folder / f"{name}.safetensors")
            made[name] = folder / f"{name}.safetensors", logits(model)
        return made[name]

    return of


# ---- merge ----------------------------------------------------------------------------------------


@each_variant
def test_the_merged_folder_is_a_model_like_any_other_with_the_adapters_logits(variant, files, tmp_path, capsys):
    file, expected = files(variant)
    base, tokenizer = kit.load_base()
    assert distance(logits(base), expected) > 1e-3
    assert adapterlab(["merge", str(file), "--dtype", "float32", "--out", str(tmp_path / "merged")]) == 0
    said = capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert distance(logits(model), expected) < 2e-5
    assert not any("adapter" in name for name, _ in model.named_modules())
    assert float(re.search(r"differ from the adapter's by (\S+) of", said)[1]) < 2e-5
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("12+3=").input_ids == tokenizer("12+3=").input_ids
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_the_base_is_merged_in_the_dtype_that_it_is_stored_in(files, tmp_path, capsys):
    file, expected = files(VARIANTS[0])
    assert adapterlab(["merge", str(file), "--out", str(tmp_path / "merged")]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert model.dtype == torch.float16  # as the embedded base
    assert 1e-5 < distance(logits(model.float()), expected) < 2e-2
    assert "e-0" in capsys.readouterr().out


def test_what_was_trained_on_four_bits_is_merged_into_the_dense_base(tmp_path, capsys):
    model, _ = kit.load_base(quantize="nf4")
    far_from_start(attach(model, al.LoRA(r=4, alpha=2), targets=r"q_proj$"))
    al.save(model, tmp_path / "q.safetensors")
    asked = ["merge", str(tmp_path / "q.safetensors"), "--dtype", "float32", "--out", str(tmp_path / "merged")]
    assert adapterlab(asked) == 0
    note = capsys.readouterr().err
    assert note.startswith("adapterlab merge: note: the base is another rounding") and "Traceback" not in note
    dense, _ = kit.load_base()
    al.load(dense, tmp_path / "q.safetensors")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert distance(logits(found), logits(dense)) < 2e-5


# ---- export ---------------------------------------------------------------------------------------

OWN = [v for v in VARIANTS if v.name in ("lora", "pissa", "dora", "delora", "ia3", "ia3_ff", "hra", "eva")]
LOW_RANK = [v for v in VARIANTS if v.name in ("lora", "pissa", "delora", "hra", "eva", "antipasto")]


@pytest.mark.parametrize(
    "variant, form",
    [*((v, "peft") for v in OWN), *((v, "peft-lora") for v in LOW_RANK)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_peft_loads_the_folder_and_computes_the_same(variant, form, files, tmp_path, capsys):
    import peft

    file, expected = files(variant)
    assert adapterlab(["export", str(file), "--to", form, "--dtype", "float32", "--out", str(tmp_path / "out")]) == 0
    assert f"PeftModel.from_pretrained(model, {str(tmp_path / 'out')!r})" in capsys.readouterr().out
    base, _ = kit.load_base()
    found = peft.PeftModel.from_pretrained(base, tmp_path / "out")
    assert distance(logits(found), expected) < 2e-5
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["peft_type"] == "LORA") == (form == "peft-lora" or variant.name in ("lora", "pissa", "dora", "eva"))
    assert not config["base_model_name_or_path"]  # the embedded base has no name that PEFT could load


@pytest.mark.parametrize(
    "variant, form, said",
    [
        (next(v for v in VARIANTS if v.name == "antipasto"), "peft", "PEFT has no antipasto"),
        (next(v for v in VARIANTS if v.name == "dora"), "peft-lora", "full rank|rank"),
        (next(v for v in VARIANTS if v.name == "ia3"), "peft-lora", "full rank|rank"),
    ],
    ids=["antipasto", "dora", "ia3"],
)
def test_what_peft_cannot_hold_is_refused_with_the_reason(variant, form, said, files, tmp_path, capsys):
    file, _ = files(variant)
    assert adapterlab(["export", str(file), "--to", form, "--out", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr().err
    assert re.search(said, shown) and shown.count("adapterlab export: ") >= 1 and "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


# ---- info -----------------------------------------------------------------------------------------


@each_variant
def test_info_counts_what_is_there(variant, files, capsys):
    file, _ = files(variant)
    assert adapterlab(["info", str(file)]) == 0
    said = capsys.readouterr().out
    found = facts(file)
    model, _ = kit.load_base()
    al.load(model, file)
    tensors = [t for m in model.modules() if hasattr(m, "adapter") for t in m.adapter.tensors().values()]
    (entry,) = found["passes"]
    assert sum(part["numbers"] for part in entry["tensors"].values()) == sum(t.numel() for t in tensors)
    assert entry["variant"] == variant.name and f"\n{variant.name}" in said and "on 12 layers" in said
    assert "    model.layers.{0-3}.self_attn.{q_proj,v_proj}\n    model.layers.{0-3}.mlp.down_proj\n" in said
    weights = sum(layer.weight.numel() for layer in model.modules() if hasattr(layer, "adapter"))
    assert found["base"]["weights"] == weights and f"{weights:,} weights in fp32" in said
    assert "checksum right" in said and max(map(len, said.splitlines())) <= max(100, len(str(file)) + 60)


def test_the_base_is_told_apart(files, capsys, tmp_path):
    file, _ = files(VARIANTS[0])
    assert adapterlab(["info", str(file), "--check-base"]) == 0
    assert "it fits the embedded base" in capsys.readouterr().out
    model, tokenizer = kit.load_base()
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.add_(0.05)
    for saved in (model, tokenizer):
        saved.save_pretrained(tmp_path / "other")
    assert adapterlab(["info", str(file), "--model", str(tmp_path / "other")]) == 1  # for scripts
    said = capsys.readouterr().out
    assert f"not for {tmp_path / 'other'}: 1 of 12 adapted layers" in said and "layers.2.mlp.down_proj" in said
    for words in (["merge"], ["export", "--to", "peft"]):
        asked = [*words, str(file), "--model", str(tmp_path / "other"), "--out", str(tmp_path / "out")]
        assert adapterlab(asked) == 1 and "1 of 12 adapted layers" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


def test_ranks_of_their_own_and_unknown_variants_are_told(tmp_path, capsys, registry):
    model, tokenizer = kit.load_base()
    data = [tokenizer(["12+3=", "sort a b ="], padding=True, return_tensors="pt")]
    al.attach(model, al.EVA(r=4, rho=2.0), calibration_data=[{"input_ids": data[0].input_ids}])
    al.save(model, tmp_path / "eva.safetensors")
    ranks = [m.adapter.variant.r for m in model.modules() if hasattr(m, "adapter")]
    assert len(set(ranks)) > 1
    assert adapterlab(["info", str(tmp_path / "eva.safetensors")]) == 0
    assert f"r from {min(ranks)} to {max(ranks)}, layer by layer" in capsys.readouterr().out
    del registry["eva"]
    assert adapterlab(["info", str(tmp_path / "eva.safetensors")]) == 0
    assert "not registered" in capsys.readouterr().out


def test_a_run_s_folder_says_more(tmp_path, capsys):
    out = tmp_path / "run"
    words = ["--task", "kjv", "--steps", "2", "--batch-size", "2", "--save-every", "1", "--variant", "ia3"]
    assert adapterlab(["train", *words, "--out", str(out)]) == 0
    capsys.readouterr()
    for place in (out, out / "checkpoint-1", out / "adapter.safetensors"):
        assert adapterlab(["info", str(place)]) == 0
        said = capsys.readouterr().out
        assert "for the embedded base:" in said and "2 steps on kjv, seed 0" in said
    assert adapterlab(["info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["variant"] == "ia3"
    assert adapterlab(["merge", str(out), "--out", str(tmp_path / "merged")]) == 0
    (out / "adapter.safetensors").unlink()
    assert adapterlab(["info", str(out)]) == 1
    assert f"is not finished: its last checkpoint is {out / 'checkpoint-2'}" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": {"model": null}}', '{"settings": [1]}', "null"])
def test_a_run_json_of_somebody_else_is_passed_over(content, files, tmp_path, capsys):
    file, _ = files(VARIANTS[0])
    (tmp_path / "sub").mkdir()
    shutil.copy(file, tmp_path / "x.safetensors")
    (tmp_path / "run.json").write_text(content)
    assert adapterlab(["info", str(tmp_path / "x.safetensors")]) == 0
    assert "a base that the file does not name" in capsys.readouterr().out


def test_only_a_checkpoint_belongs_to_the_run_above_it(files, tmp_path):
    file, _ = files(VARIANTS[0])
    settings = Settings(model="other/model", task="kjv").to_json()
    (tmp_path / "run.json").write_text(json.dumps({"settings": settings}))
    for name, base in (("sub", None), ("checkpoint-3", "other/model"), ("checkpoint-x", None)):
        (tmp_path / name).mkdir()
        shutil.copy(file, tmp_path / name / "x.safetensors")
        assert command.base_of(tmp_path / name / "x.safetensors", None) == base


def test_a_write_that_fails_is_a_sentence(files, tmp_path, capsys, monkeypatch):
    from transformers import PreTrainedModel

    class Foreign(Exception):
        pass

    def full(*_, **__):
        raise Foreign("File too large\nand more")

    file, _ = files(VARIANTS[0])
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    assert adapterlab(["merge", str(file), "--out", str(tmp_path / "made" / "up")]) == 1
    assert capsys.readouterr().err == "adapterlab merge: the model cannot be written: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_read_again(files, tmp_path, capsys, monkeypatch):
    from transformers import PreTrainedModel

    save = PreTrainedModel.save_pretrained

    def spoilt(model, folder, **more):
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
        save(model, folder, **more)

    file, _ = files(VARIANTS[0])
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", spoilt)
    assert adapterlab(["merge", str(file), "--dtype", "float32", "--out", str(tmp_path / "new")]) == 1
    assert "more than rounding explains" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_lower_dtype_is_rounded_to_once(files, tmp_path):
    file, expected = files(VARIANTS[0])
    assert adapterlab(["merge", str(file), "--dtype", "bfloat16", "--out", str(tmp_path / "new")]) == 0
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "new", dtype="auto")
    model, _ = kit.load_base()
    al.load(model, file)
    al.merge(model)
    assert found.dtype == torch.bfloat16
    for name, parameter in model.bfloat16().named_parameters():
        assert torch.equal(parameter, found.get_parameter(name)), name


def test_info_needs_no_transformers(files):
    file, _ = files(VARIANTS[0])
    without = "import sys; sys.modules.update(transformers=None, peft=None)"
    program = f"{without}; from adapterlab.cli import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", program, "info", str(file)], capture_output=True, text=True, env=environment
    )
    assert found.returncode == 0 and found.stdout.count("\n") > 5 and not found.stderr
    refused = subprocess.run(
        [sys.executable, "-c", program, "merge", str(file), "--out", "/tmp/never"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert refused.returncode == 1 and "pip install 'adapterlab[kit,peft]'" in refused.stderr
    assert refused.stderr.count("\n") == 1


names = st.lists(
    st.sampled_from(["model", "h", "0", "1", "2", "7", "q_proj", "v_proj", "mlp", "3x"]), min_size=1, max_size=4
)


@settings(max_examples=200, deadline=None)
@given(st.sets(names.map(".".join), min_size=1, max_size=12))
def test_grouped_paths_stand_for_every_path(paths):
    """The lines, opened again, give each path once and no other."""

    def opened(text):
        found = re.search(r"\{([^{}]*)\}", text)
        if not found:
            return [text]
        parts = []
        for part in found[1].split(","):
            ends = re.fullmatch(r"(\d+)-(\d+)", part)
            parts += [str(n) for n in range(int(ends[1]), int(ends[2]) + 1)] if ends else [part]
        return [one for part in parts for one in opened(text[: found.start()] + part + text[found.end() :])]

    assert sorted(paths) == sorted(path for line in grouped(sorted(paths)) for path in opened(line))
    assert len(grouped(sorted(paths))) <= len(paths)
    assert grouped([""]) == ["the layer itself"]


# ---- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["info"], ["merge", "--out", "out"], ["export", "--to", "peft", "--out", "out"]], ids=lambda w: w[0]
)
def test_a_file_that_is_none_is_said_in_a_sentence_and_leaves_nothing(words, files, tmp_path, capsys, monkeypatch):
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    file, _ = files(VARIANTS[0])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"x": torch.ones(2)}, tmp_path / "foreign.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-100])
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for name, said in (
        ("none.safetensors", "there is no file none.safetensors"),
        ("empty", "holds no adapter.safetensors"),
        ("text.safetensors", "cannot be read as a safetensors file"),
        ("foreign.safetensors", "no adapter that al.save wrote"),
        ("cut.safetensors", "cannot be read|damaged"),
        ("peft", "`adapterlab check peft` examines it"),
    ):
        assert adapterlab([words[0], name, *words[1:]]) == 1
        shown = capsys.readouterr().err
        assert re.search(said, shown) and shown.startswith(f"adapterlab {words[0]}: ") and shown.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_whatever_byte_it_is(files, tmp_path_factory, data):
    file, _ = files(VARIANTS[0])
    content = bytearray(file.read_bytes())
    # The header more often than the numbers behind it.
    end = data.draw(st.sampled_from([200, 20_000, len(content)]))
    at = data.draw(st.integers(0, min(end, len(content)) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    damaged = tmp_path_factory.mktemp("damaged") / "x.safetensors"
    damaged.write_bytes(content)
    assert adapterlab(["info", str(damaged)]) == 1


def test_places_that_cannot_be_written_are_said(files, tmp_path, capsys):
    file, _ = files(VARIANTS[0])
    (tmp_path / "there").mkdir()
    (tmp_path / "a file").write_text("mine")
    for out, said in (
        (tmp_path / "there", "is there already"),
        (tmp_path / "a file", "is there already"),
        (tmp_path / "a file" / "deeper", "cannot make the folder"),
    ):
        for words in (["merge"], ["export", "--to", "peft"]):
            assert adapterlab([*words, str(file), "--out", str(out)]) == 1
            assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "there"]
    assert adapterlab(["merge", str(file), "--model", "nobody/nothing", "--out", str(tmp_path / "new")]) == 1
    assert "could not be fetched from the model hub" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_no_room_and_no_patience_leave_nothing(files, tmp_path, capsys, monkeypatch):
    file, _ = files(VARIANTS[0])
    asked = ["merge", str(file), "--out", str(tmp_path / "new")]
    monkeypatch.setattr(command.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    assert adapterlab(asked) == 1 and "the disk of --out has 0.0 GB left" in capsys.readouterr().err
    monkeypatch.undo()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "publish", interrupted)
    assert adapterlab(asked) == 130 and "stopped, nothing is written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
