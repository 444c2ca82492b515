"""The planner against bytes that two processes really hold, which planner_worker.py counts without it."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import adapterlab as al
import planner_worker as worker
from adapterlab.cli import main as adapterlab
from adapterlab.planner import Setup, models, plan
from adapterlab.planner.estimate import estimate, gathered
from adapterlab.planner.shapes import count
from adapterlab.planner.shards import held, rows
from paths import ROOT


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Case -> what its rank 0, or another, counted."""
    out = tmp_path_factory.mktemp("planner")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    run = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "planner_worker.py"), str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]

    def of(*case, rank=0):
        found = json.loads((out / f"{'-'.join(map(str, case))}.{rank}.json").read_text())
        assert "error" not in found, found["error"]
        return found

    return of


def planned(name, engine, checkpointing=False, **changes):
    config = worker.config(tied=name in ("lora", "hra"))
    counted = count(
        config, worker.VARIANTS[name], None, torch.bfloat16, worker.ROWS, worker.TOKENS, checkpointing=checkpointing
    )
    asked = dict(processes=2, engine=engine, batch=worker.ROWS, tokens=worker.TOKENS, checkpointing=checkpointing)
    return counted, estimate(counted, config, Setup(**(asked | changes)))


# ---- against what is held -------------------------------------------------------------------------


@pytest.mark.parametrize("name, engine, checkpointing", worker.CASES, ids=lambda value: str(value))
def test_every_byte_that_a_process_holds_is_foretold(name, engine, checkpointing, measured):
    counted, found = planned(name, engine, checkpointing)
    seen = measured(name, engine, checkpointing)
    for part in ("weights", "adapter", "gradients", "optimizer"):
        assert getattr(found, part) == seen[part], part
    # Between forward and backward; the inside of one block comes on top while it is computed again.
    assert found.activations - checkpointing * counted.kept_by_block == seen["saved"]
    other = measured(name, engine, checkpointing, rank=1)
    if engine == "ddp":
        assert {**other, "rank": 0} == seen
    else:  # rank 0 has the largest share
        assert seen["gathered"] == gathered(counted, 2, at_once=1) > 0
        assert other["optimizer"] <= seen["optimizer"] < planned(name, "ddp")[1].optimizer


@pytest.mark.parametrize("name, kind", worker.QUANTIZED)
def test_quantised_weights_are_foretold_too(name, kind, measured):
    seen, (_, found) = measured(name, kind), planned_quantised(name, kind)
    assert found.weights == seen["weights"] and found.activations == seen["saved"]


def planned_quantised(name, kind):
    config = worker.config(tied=False)
    counted = count(config, worker.VARIANTS[name], None, torch.bfloat16, worker.ROWS, worker.TOKENS)
    return counted, estimate(counted, config, Setup(quantize=kind, batch=worker.ROWS, tokens=worker.TOKENS))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40))
def test_rows_are_shared_out_as_torch_chunk_does(of, processes):
    chunks = [len(chunk) for chunk in torch.arange(of).chunk(processes)]
    shares = [rows(of, processes, rank) for rank in range(processes)]
    assert shares == chunks + [0] * (processes - len(chunks)) and sum(shares) == of
    assert held((of, 3), processes) == 3 * max(shares) == 3 * shares[0]


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 64), st.sampled_from(["ddp", "fsdp2"]), st.integers(1, 3), st.integers(1, 40), st.booleans())
def test_what_must_be_so_of_any_plan(processes, engine, batch, tokens, checkpointing):
    config = worker.config(tied=False)

    def at(**changes):
        asked = dict(processes=processes, engine=engine, batch=batch, tokens=tokens, checkpointing=checkpointing)
        return plan(config, al.LoRA(r=3), Setup(**(asked | changes)))

    one = at()
    assert one.total == sum(asdict(one).values()) and one.optimizer == 2 * one.gradients == 2 * one.adapter
    assert at(batch=batch + 1).activations > one.activations < at(tokens=tokens + 1).activations
    more = at(processes=processes + 1)
    assert more.weights <= one.weights and more.activations == one.activations
    if engine == "ddp":
        assert (more.weights, more.adapter) == (one.weights, one.adapter)
    assert at(dtype="fp32").weights > one.weights > at(engine="ddp", quantize="4bit").weights / processes / 2


@pytest.mark.parametrize("name", list(models.SIZES))
def test_the_named_models_are_what_they_are_called(name):
    """Parameters as their model cards count them, tied embeddings once."""
    numbers = {"llama-3.2-1b": 1_235_814_400, "llama-3.1-8b": 8_030_261_248, "llama-3.1-70b": 70_553_706_496}
    found = plan(models.config(name), al.IA3(), Setup(tokens=8))
    frozen = found.weights - 2 * numbers[name]
    assert 0 <= frozen < 10_000  # the rotary frequencies
    lora = plan(models.config(name), al.LoRA(r=16), Setup(tokens=8))
    c = models.config(name)
    d, m, kv = c.hidden_size, c.intermediate_size, c.hidden_size * c.num_key_value_heads // c.num_attention_heads
    by_block = 16 * (2 * (d + d) + 2 * (d + kv) + 3 * (d + m))
    assert lora.adapter == 4 * c.num_hidden_layers * by_block


# ---- the command ----------------------------------------------------------------------------------


def test_the_table_has_all_nine_and_the_json_their_bytes(capsys):
    asked = ["plan", "--model", "llama-3.1-8b", "--gpus", "8", "--engine", "fsdp2", "--checkpointing"]
    assert adapterlab(asked) == 0
    said = capsys.readouterr().out
    assert "8 GPUs with fsdp2: a row of 2,048 tokens each, activations computed again" in said
    assert all(f"\n{name}" in said for name in al.VARIANTS) and "fits into" in said
    assert adapterlab([*asked, "--variant", "dora", "--r", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    setup = Setup(processes=8, engine="fsdp2", checkpointing=True)
    expected = plan(models.config("llama-3.1-8b"), al.DoRA(r=8), setup)
    assert found["bytes"] == {"dora": asdict(expected) | {"total": expected.total}} and found["setup"] == asdict(setup)


def test_any_config_json_is_planned(tmp_path, capsys):
    worker.config(tied=True).save_pretrained(tmp_path)
    for name in (tmp_path, tmp_path / "config.json"):
        assert adapterlab(["plan", "--model", str(name), "--variant", "lora", "--r", "3", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["bytes"]["lora"]
        assert found["total"] == plan(worker.config(tied=True), al.LoRA(r=3), Setup()).total
    from transformers import Qwen3Config

    Qwen3Config(hidden_size=64, intermediate_size=96, num_hidden_layers=3, vocab_size=50).save_pretrained(tmp_path)
    assert (
        adapterlab(["plan", "--model", str(tmp_path), "--tokens", "16"]) == 0 and "antipasto" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (["--model", "llama-9"], "--model llama-9: name one of llama-3.2-1b"),
        (["--model", "llama-3.2-1b", "--variant", "lorra"], "--variant lorra: there are"),
        (["--model", "llama-3.2-1b", "--gpus", "0"], "processes = 0"),
        (["--model", "llama-3.2-1b", "--engine", "zero"], "engine = 'zero': choose one of ddp, fsdp2"),
        (["--model", "llama-3.2-1b", "--dtype", "int8"], "dtype = 'int8'"),
        (["--model", "llama-3.2-1b", "--quantize", "4bit", "--engine", "fsdp2"], "not sharded: plan them with ddp"),
        (["--model", "llama-3.2-1b", "--r", "9999", "--variant", "lora"], "choose a smaller r"),
        (["--model", "llama-3.2-1b", "--targets", "zzz"], "no layer matches"),
        (["--model", "llama-3.2-1b", "--tokens", "0"], "tokens = 0"),
    ],
    ids=lambda value: " ".join(value[2:]) or "model" if isinstance(value, list) else None,
)
def test_what_cannot_be_planned_is_said_in_a_sentence(words, said, capsys):
    assert adapterlab(["plan", *words]) == 1
    shown = capsys.readouterr().err
    assert said in shown and shown.startswith("adapterlab plan: ") and shown.count("\n") == 1


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "nothing"}', '{"model_type": "vit"}', "[]"])
def test_a_configuration_of_no_causal_model_is_refused(content, tmp_path, capsys):
    (tmp_path / "config.json").write_text(content)
    assert adapterlab(["plan", "--model", str(tmp_path)]) == 1
    assert "config.json is" in capsys.readouterr().err


# ---- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_of_a_billion_parameters_takes_what_is_planned(checkpointing):
    """Two steps of DoRA on random weights in the shapes of the smallest named model."""
    from transformers import AutoModelForCausalLM

    from adapterlab.kit.real_model import checkpoint

    torch.cuda.empty_cache()
    config, variant = models.config("llama-3.2-1b"), al.DoRA(r=16)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()
    adapter = al.attach(model, variant)
    if checkpointing:
        checkpoint(model)
    optimizer = torch.optim.AdamW(adapter.parameters())
    ids = torch.randint(config.vocab_size, (1, 2048), device="cuda")
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        optimizer.zero_grad(set_to_none=False)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
    found = plan(config, variant, Setup(checkpointing=checkpointing)).total
    assert torch.cuda.max_memory_allocated() == pytest.approx(found, rel=0.1)
