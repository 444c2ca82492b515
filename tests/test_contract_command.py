"""`adapterlab check`: what its words name, what it prints and writes, and how it ends."""

import json
import subprocess
import sys

import pytest
import safetensors.torch
import torch

import adapterlab as al
from adapterlab.cli import main
from helpers import randn, tiny_llama

peft = pytest.importorskip("peft")

QUICK = "identity,dense,bias,merge"


def run(*words):
    return main(["check", *map(str, words)])


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Tables are wrapped at the terminal's width, and these tests read lines."""
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty current folder; modules imported from it are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


# ---- names ----------------------------------------------------------------------------------------


def test_a_shipped_variant(capsys):
    assert run("dora", "--only", QUICK) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == repr(al.DoRA()) and [line.split()[:2] for line in lines[1:5]] == [
        [name, "ok"] for name in QUICK.split(",")
    ]
    assert lines[-1].strip() == "4 pass" and not printed.err


def test_all_of_them_by_default_each_on_a_line(capsys):
    assert run("--only", QUICK, "--short") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(al.VARIANTS) + 1 and lines[-1] == "9 of 9 keep the contract"
    assert all(line.startswith("ok ") and "4 pass" in line for line in lines[:-1])


MINE = """
from dataclasses import dataclass
import torch
import adapterlab as al
from adapterlab.contract import Foreign

@dataclass(frozen=True)
class Right(al.LoRA):
    pass

@dataclass(frozen=True)
class Wrong(al.LoRA):
    def prepare(self, p, layer):
        return p.lora_A, p.lora_B, 1.0

instance = Right(r=2, alpha=5)
number = 3
"""


def test_a_variant_of_ones_own_by_its_import_path(elsewhere, capsys):
    (elsewhere / "mine_for_check.py").write_text(MINE)
    assert run("mine_for_check.Right", "mine_for_check.instance", "--only", QUICK) == 0
    assert "Right(r=2, alpha=5, rslora=False)" in capsys.readouterr().out
    assert run("mine_for_check.Wrong", "--only", QUICK) == 1
    assert "FAIL" in capsys.readouterr().out
    assert run("mine_for_check.Right", "mine_for_check.Wrong", "--only", QUICK, "--short") == 1
    printed = capsys.readouterr().out
    assert "1 of 2 keep the contract" in printed and "fails dense, bias, merge" in printed


def test_what_is_not_there_is_said_in_a_sentence(elsewhere, capsys):
    (elsewhere / "mine_for_check.py").write_text(MINE)
    (elsewhere / "broken_for_check.py").write_text("import torch\n1 / 0\n")
    for words, said in {
        ("doora",): "there is no variant 'doora'; there are lora",
        ("peft:haar",): "there is no method 'haar' of PEFT; there are lora",
        ("./nowhere",): "there is no folder ./nowhere",
        ("mine_for_check.Rihgt",): "mine_for_check has no Rihgt; it has Right, Wrong, instance",
        ("mine_for_check.number",): "3 is nothing that can be judged: pass a variant",
        ("no_module.Mine",): "cannot import no_module: ModuleNotFoundError",
        ("broken_for_check.Mine",): "cannot import broken_for_check: ZeroDivisionError: division by zero",
        ("lora", "--only", "bais"): "there is no check 'bais'; there are identity",
        ("lora", "--json", "no/folder/x.json"): "there is no folder",
        (".",): "adapter_config.json: pass the folder of a PEFT adapter",
    }.items():
        assert run(*words) == 2, words
        printed = capsys.readouterr()
        lines = printed.err.strip().splitlines()
        expected = said.replace("there are lora", "there are ")
        assert len(lines) == 1 and lines[0].startswith("adapterlab check: ") and expected in lines[0], printed.err
        assert not printed.out


def test_a_check_that_applies_to_nothing_is_no_success(capsys):
    assert run("ia3", "--only", "ranks") == 2
    assert "n/a" in capsys.readouterr().out


def test_the_checks_are_listed_with_what_they_prove(capsys):
    assert run("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(al.contract.CHECKS)
    assert all(line.endswith(".") for line in lines)


def test_the_command_is_among_the_others(capsys):
    assert main(["--help"]) == 0
    assert "check" in capsys.readouterr().out


# ---- JSON -----------------------------------------------------------------------------------------


def test_json_to_a_file_and_to_standard_output(elsewhere, capsys):
    assert run("lora", "ia3", "--only", QUICK, "--seed", 4, "--json", "found.json") == 0
    assert "LoRA" in capsys.readouterr().out
    found = json.loads((elsewhere / "found.json").read_text())
    assert run("lora", "ia3", "--only", QUICK, "--seed", 4, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["reports"] == found["reports"]
    assert found["command"] == f"adapterlab check lora ia3 --only {QUICK} --seed 4 --json found.json"
    assert found["seed"] == 4 and {"versions", "machine", "date", "commit"} <= set(found)
    assert [report["subject"] for report in found["reports"]] == [repr(al.LoRA()), repr(al.IA3())]
    assert list(found["reports"][0]["results"]) == QUICK.split(",")
    assert found["checks"]["dense"] == al.contract.CHECKS["dense"].proves


# ---- a folder of PEFT's ---------------------------------------------------------------------------

CONFIGS = {
    "lora": lambda: peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2}, task_type="CAUSAL_LM"
    ),
    "dora": lambda: peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=["q_proj", "down_proj"]),
    "hra": lambda: peft.HRAConfig(r=4, target_modules=["q_proj", "down_proj"]),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "delora": lambda: peft.DeloraConfig(r=4, target_modules=["k_proj", "down_proj"]),
    "loha": lambda: peft.LoHaConfig(r=4, alpha=6, target_modules=["q_proj", "down_proj"]),
}


def trained(folder, config):
    """As if it were trained: the folder that PEFT writes."""
    model = peft.get_peft_model(tiny_llama(), config)
    with torch.no_grad():
        for i, (_, p) in enumerate(model.named_parameters()):
            if p.requires_grad:
                p.add_(0.3 * randn(*p.shape, seed=i).to(p.dtype))
    model.save_pretrained(folder)
    return folder


MATHS = "dense,bias,finite,parameters,reload,file,merge,eval_train,in_place,deterministic"


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "loha"])
def test_a_trained_adapter_from_its_folder_alone(kind, tmp_path, capsys):
    folder = trained(tmp_path / kind, CONFIGS[kind]())
    assert run(folder, "--only", MATHS) == 0, capsys.readouterr().out
    assert "judged on model.layers.0." in capsys.readouterr().out


def test_what_bitsandbytes_does_to_weights_on_some_processors_is_not_held_against_a_folder(tmp_path, capsys):
    from adapterlab.museum.repacking import repacking

    wide = torch.nn.Sequential(torch.nn.Linear(64, 128))
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0"], init_lora_weights=False)
    peft.get_peft_model(wide, config).save_pretrained(tmp_path)
    with repacking():
        assert run(tmp_path, "--only", "quantised") == 0, capsys.readouterr().out


@pytest.mark.parametrize("kind", ["lora", "ia3", "loha"])
def test_a_trained_adapter_on_its_base(kind, tmp_path, capsys):
    tiny_llama().save_pretrained(tmp_path / "base")
    folder = trained(tmp_path / kind, CONFIGS[kind]())
    assert run(folder, "--base", tmp_path / "base", "--only", MATHS) == 0, capsys.readouterr().out


def test_its_numbers_and_its_base_are_what_is_judged(tmp_path):
    from adapterlab.contract.of_folder import OfFolder

    base = tiny_llama()
    base.save_pretrained(tmp_path / "base")
    folder = trained(tmp_path / "lora", CONFIGS["lora"]())
    subject = OfFolder(folder, tmp_path / "base")
    assert subject.shapes == [(32, 16), (32, 32)]
    whole = peft.PeftModel.from_pretrained(base, folder)
    x = randn(5, 32, seed=1, dtype=torch.float32)
    for shape, path in subject.chosen.items():
        on = subject.put_on(subject.base(shape))
        on.move_far()
        assert torch.allclose(on(x), whole.base_model.model.get_submodule(path)(x), atol=1e-6)


def test_what_a_trained_adapter_cannot_be_asked_is_said(tmp_path):
    from adapterlab.contract.of_folder import OfFolder

    subject = OfFolder(trained(tmp_path / "lora", CONFIGS["lora"]()))
    report = al.contract.check(subject, only=("identity", "gradients", "ranks", "wrong_base", "first_step", "dense"))
    assert report.ok and [name for name, result in report.items() if result.status == "n/a"] == [
        "identity", "gradients", "wrong_base", "ranks", "first_step"
    ]  # fmt: skip


def test_a_file_with_numbers_that_are_not_finite_or_all_zero_fails(tmp_path, capsys):
    folder = trained(tmp_path / "lora", CONFIGS["lora"]())
    path = folder / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    name = sorted(tensors)[0]
    for value, said in {float("nan"): "not finite", 0.0: "tensors of 4 layers"}.items():
        changed = tensors | {name: torch.full_like(tensors[name], value)}
        safetensors.torch.save_file(changed, path, {"format": "pt"})
        assert run(folder, "--only", "file") == (1 if value else 0)
        assert said in capsys.readouterr().out
    safetensors.torch.save_file({n: torch.zeros_like(t) for n, t in tensors.items()}, path, {"format": "pt"})
    assert run(folder, "--only", "file") == 1
    assert "4 layers hold nothing but zeros" in capsys.readouterr().out


def test_a_folder_that_cannot_be_judged_says_why(tmp_path, capsys):
    folder = trained(tmp_path / "loha", CONFIGS["loha"]())
    assert run(folder) == 2
    assert "give its base with --base FOLDER" in capsys.readouterr().err
    assert run(folder, "--base", tmp_path) == 2
    assert "config.json: pass the folder of a transformers model" in capsys.readouterr().err
    vera = trained(tmp_path / "vera", peft.VeraConfig(r=4, target_modules=["q_proj"]))
    assert run(vera) == 2
    assert "shared by its layers" in capsys.readouterr().err
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").touch()
    assert run(folder) == 2
    assert "adapter_model.bin is a pickle and is not read" in capsys.readouterr().err
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.bin").rename(folder / "adapter_model.safetensors")
    assert run(folder) == 2
    assert "is no PEFT configuration" in capsys.readouterr().err


# ---- PEFT -----------------------------------------------------------------------------------------


def test_pefts_methods_by_name_and_all_of_them(capsys):
    assert run("peft:lora", "peft:hra_gs", "--only", "identity", "--short") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok    peft:lora") and lines[1].startswith("FAIL  peft:hra_gs")
    from adapterlab.peft_methods import METHODS

    assert run("peft:all", "--only", "identity") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line[6:].split()[0] for line in lines[:-1]] == [f"peft:{name}" for name in METHODS]
    assert lines[-1].endswith(f" of {len(METHODS)} keep the contract")


def test_a_reader_who_has_seen_enough_gets_no_traceback():
    command = [sys.executable, "-c", "import sys; from adapterlab.cli import main; sys.exit(main(['check', '--list']))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # before it has written a line
        complaint = process.stderr.read()
    assert process.returncode == 1 and not complaint
