"""DDP, FSDP2, accelerate and torch.compile on top, in two gloo processes: what one process computes, to 1e-6."""

import functools
import os
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import adapterlab as al
import engines_worker as worker
from helpers import IDS, VARIANTS
from paths import ROOT

FP32 = 1e-6
# In bf16 a parameter that is off in its last float32 digit sends some numbers over a rounding edge, each by 2^-8 of
# itself, and a loss is the mean over many: an eighth of one such step. Measured: up to 1.3e-4.
# Training on one half of the data is still seen, below.
BF16 = 2.0**-11

RUNS = [(engine, variant) for variant in VARIANTS for engine in worker.engines_of(variant)]
RUNS += [("accelerate", variant) for variant in VARIANTS]
each_run = pytest.mark.parametrize("engine, variant", RUNS, ids=[f"{engine}-{v.name}" for engine, v in RUNS])
SEEN = [f"{engine}-{v.name}" for engine, v in RUNS if engine in worker.SEEN or engine == "accelerate"]
each_seen = pytest.mark.parametrize("case", [*SEEN, "passes-ddp", "passes-fsdp"])
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=IDS)


@pytest.fixture(scope="module", autouse=True)
def finds(tmp_path_factory):
    """finds(case, rank): what the two processes of engines_worker.py have found; they run beside the references."""
    out = tmp_path_factory.mktemp("engines")
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    launch += ["--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HF_HOME": str(out)}  # nobody's settings
    with open(out / "log", "w") as log:
        command = [*launch, str(ROOT / "tests" / "engines_worker.py"), str(out)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            for engine, variant in RUNS:
                in_one_process(engine, variant)
            code = process.wait(400)
        finally:
            process.terminate()
            process.wait()

    def finds(case, rank=0):
        file = out / f"{case}.{rank}.pt"
        assert file.exists(), f"code {code}: {(out / 'log').read_text()[-3000:]}"
        found = torch.load(file)
        assert "error" not in found, found["error"]
        return found

    finds.out = out
    return finds


# ---- losses ---------------------------------------------------------------------------------------


def trained(model, parameters, loss_of_half, clip=None, halves=(0, 1)):
    """In one process, on the mean of the halves' losses: [the losses of each half], [the norms of the gradients]."""
    parameters = list(parameters)
    optimizer, losses, norms = worker.optimizer_of(model, parameters), ([], []), []
    for step in range(worker.STEPS):
        found = [loss_of_half(model, step, half) for half in halves]
        optimizer.zero_grad()
        (sum(found) / len(found)).backward()
        if clip is not None:
            norms.append(nn.utils.clip_grad_norm_(parameters, clip).item())
        optimizer.step()
        for half, loss in zip(halves, found):
            losses[half].append(loss.item())
    return losses, norms


def loss_of_half(model, step, half):
    return worker.loss_of(model, worker.batch(step, half))


@functools.cache
def reference(variant, dtype, compiled):
    model, adapter = worker.adapted(variant, dtype, **(worker.COMPILED if compiled else {}))
    return trained(model, adapter.parameters(), loss_of_half)[0]


def in_one_process(engine, variant):
    return reference(variant, torch.bfloat16 if engine in worker.BF16 else torch.float32, "compiled" in engine)


def distance(found, expected):
    assert len(found) == len(expected) == worker.STEPS
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected))


@each_run
def test_losses_of_20_steps_are_those_of_one_process(engine, variant, finds):
    expected = in_one_process(engine, variant)
    for rank in (0, 1):
        found = finds(f"{engine}-{variant.name}", rank)["losses"]
        assert distance(found, expected[rank]) < (BF16 if engine in worker.BF16 else FP32)


@pytest.mark.parametrize("engine", ["ddp-compiled", "fsdp-compiled"])
@each_variant
def test_the_adapted_layers_were_compiled(engine, variant, finds):
    found = finds(f"{engine}-{variant.name}")
    ours = [reason for reason in found["breaks"] if "DistributedDataParallel" not in reason and "Logger" not in reason]
    assert found["graphs"] == 1 and not ours


@each_variant
def test_accelerate_wraps_in_ddp(variant, finds):
    assert finds(f"accelerate-{variant.name}")["type"] == "DistributedDataParallel"


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_passes_train_as_in_one_process(engine, finds):
    model, adapters = worker.two_passes()
    expected, _ = trained(model, [p for adapter in adapters for p in adapter.parameters()], loss_of_half)
    for rank in (0, 1):
        assert distance(finds(f"passes-{engine}", rank)["losses"], expected[rank]) < FP32


def test_gradients_are_accumulated_without_communication_until_the_last(finds):
    def mean_of_two(model, step, half):
        return sum(worker.loss_of(model, worker.batch(step, half, micro)) for micro in (0, 1)) / 2

    model, adapter = worker.adapted(al.DoRA(r=4, alpha=6))
    expected, _ = trained(model, adapter.parameters(), mean_of_two)
    for rank in (0, 1):
        assert distance(finds("accumulated", rank)["losses"], expected[rank]) < FP32


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_gradients_are_clipped_by_their_norm_over_all_ranks(engine, finds):
    model, adapter = worker.adapted(al.DeLoRA(r=4, lambda0=3.0))
    expected, norms = trained(model, adapter.parameters(), loss_of_half, worker.CLIP)
    assert norms[0] > worker.CLIP and distance(norms, [worker.CLIP] * worker.STEPS) > 0.5
    for rank in (0, 1):
        found = finds(f"clipped-{engine}", rank)
        assert distance(found["losses"], expected[rank]) < FP32
        assert distance(found["norms"], norms) < 1e-5  # of small gradients, differences of larger numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_variant
def test_these_losses_tell_training_on_both_halves_from_training_on_one(variant, dtype):
    model, adapter = worker.adapted(variant, dtype)
    alone, _ = trained(model, adapter.parameters(), loss_of_half, halves=(0,))
    assert distance(alone[0], reference(variant, dtype, False)[0]) > 2 * BF16


# ---- the file, and exactness ----------------------------------------------------------------------


def attached(case):
    """The model of a case in one process, its adapters at their start."""
    engine, _, name = case.rpartition("-")
    if engine == "passes":
        return worker.two_passes()[0]
    return worker.adapted(VARIANTS[IDS.index(name)], base_of(case).dtype)[0]


def base_of(case):
    return worker.base(torch.bfloat16 if "bf16" in case else torch.float32)


def engine_of(case):
    return "passes" if case.startswith("passes") else case.rpartition("-")[0]


@each_seen
def test_the_file_of_the_wrapped_model_is_that_of_one_process(case, finds, tmp_path):
    found, model = finds(case), attached(case)
    state = {name: tensor for name, tensor in model.state_dict().items() if ".adapter." in name}
    assert state.keys() == found["values"].keys()
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(found["values"][name])
    al.save(model, tmp_path / "adapter.safetensors")
    assert (finds.out / f"{case}.safetensors").read_bytes() == (tmp_path / "adapter.safetensors").read_bytes()
    assert found["writers"] == [0] and finds(case, 1)["writers"] == []


@each_seen
def test_it_loads_in_one_process_and_answers_the_same(case, finds):
    found, model = finds(case), base_of(case)
    adapter = al.load(model, finds.out / f"{case}.safetensors")
    assert torch.equal(worker.logits(model), found["output"])
    assert not torch.equal(found["output"], worker.logits(base_of(case)))
    path, effective = found["effective"]
    for ours, theirs in zip(al.effective_weight(model.get_submodule(path)), effective, strict=True):
        assert torch.equal(ours, theirs)
    model.eval()
    with adapter.frozen(), torch.no_grad():
        assert torch.equal(model.generate(worker.probe(), **worker.GENERATE), found["generated"])


@each_seen
def test_switched_off_it_is_the_base_and_frozen_what_it_was(case, finds):
    model = base_of(case)
    for rank in (0, 1):
        found = finds(case, rank)
        assert torch.equal(found["disabled"], worker.logits(model))
        assert torch.equal(found["frozen"], found["output"])


@each_seen
def test_the_base_keeps_its_bytes_and_comes_back(case, finds):
    model = base_of(case)
    for rank in (0, 1):
        found = finds(case, rank)
        assert found["base"] == worker.digests(model)
        assert torch.equal(found["detached"], worker.logits(model))
        assert found["flags"] == worker.flags(model) and len(set(found["flags"].values())) == 2
        assert found["left"] == []


# ---- ranks that drew different numbers ------------------------------------------------------------


def test_ddp_starts_from_what_rank_0_drew(finds):
    one, two = finds("seeds-ddp", 0), finds("seeds-ddp", 1)
    assert not torch.equal(one["drawn"], two["drawn"])
    assert torch.equal(one["held"], one["drawn"]) and torch.equal(two["held"], one["drawn"])
    model, adapter = worker.adapted(al.LoRA(r=4, alpha=6), seed=0)
    expected, _ = trained(model, adapter.parameters(), loss_of_half)
    assert distance(one["losses"], expected[0]) < FP32 and distance(two["losses"], expected[1]) < FP32


def test_fsdp_starts_from_what_each_rank_drew_for_its_shard(finds):
    """As good a start as any: half of the directions of one draw, half of the other."""
    one, two = finds("seeds-fsdp", 0), finds("seeds-fsdp", 1)
    both = torch.cat([one["drawn"][:2], two["drawn"][2:]])
    assert torch.equal(one["held"], both) and torch.equal(two["held"], both)
    for found in (one, two):
        assert torch.equal(found["start"], worker.logits(worker.base())) and found["save"] == ("nothing", "")
        assert torch.equal(found["output"], one["output"])


def test_frozen_tensors_that_differ_between_ranks_are_not_saved(finds):
    """DeLoRA's frozen copy of its start is each rank's own, so each rank trains another model."""
    ranks = [finds("seeds-frozen-fsdp", rank) for rank in (0, 1)]
    assert not torch.equal(ranks[0]["output"], ranks[1]["output"])
    for found in ranks:
        kind, message = found["save"]
        assert kind == "AdapterFileError" and "the same seed and the same calibration data" in message
    assert not (finds.out / "seeds-frozen-fsdp.safetensors").exists()
    ranks = [finds("seeds-frozen-ddp", rank) for rank in (0, 1)]  # DDP hands out buffers too
    assert torch.equal(ranks[0]["output"], ranks[1]["output"]) and ranks[0]["save"] == ("nothing", "")


# ---- what is refused, on every rank, with nothing changed -----------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("call", ["attach", "load"])
@pytest.mark.parametrize(
    "engine, reason",
    [
        ("ddp", "in DistributedDataParallel already, .* attach or load first, then wrap"),
        ("fsdp", "sharded by FSDP already: attach or load first, then call fully_shard"),
        ("fsdp-kept", "sharded by FSDP already"),
    ],
)
def test_what_comes_after_the_wrapper_is_refused(engine, reason, call, rank, finds):
    found = finds(f"late-{engine}", rank)
    kind, message = found[call]
    assert kind == "ValueError" and re.search(reason, message)
    assert found["same"]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("engine", ["fsdp", "fsdp-kept"])
def test_a_sharded_model_cannot_be_merged(engine, rank, finds):
    found = finds(f"merge-{engine}", rank)
    kind, message = found["merge"]
    assert kind == "ValueError" and "load it into a model that is not sharded" in message
    assert found["same"] and len(found["left"]) == 14


@pytest.mark.parametrize("rank, reason", [(0, "No such file or directory"), (1, "rank 0 could not write")])
def test_where_nothing_can_be_written_every_rank_learns_it(rank, reason, finds):
    found = finds("unwritable", rank)
    assert found["save"][0] == "AdapterFileError" and reason in found["save"][1]
    assert not found["made"]
