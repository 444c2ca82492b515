"""The triage lab's adapters: they look good, each has its one bug, and they can be made again."""

import json

import pytest
import torch

from adapterlab.kit import mystery, triage
from adapterlab.kit.grade.lab9_triage.ailments import AILMENTS, gap
from adapterlab.kit.grade.lab9_triage.readings import Readings, mysteries, sound

RECORD = json.loads(triage.RECORD.read_text())
RECIPES = mystery.CASES | mystery.HEALTHY


@pytest.mark.parametrize("name", RECIPES)
def test_every_curve_looks_good(name):
    curve = next(case for case in triage.cases() + triage.healthy() if case.name == name).curve
    assert len(curve.losses) == curve.steps
    assert sum(curve.losses[-10:]) < 0.05 * sum(curve.losses[:10])
    assert curve.exact_match >= 0.7 > 0.2 > curve.evaluations[0][1]


def test_they_are_small_and_their_record_says_where_they_are_from():
    assert sum(case.path.stat().st_size for case in triage.cases()) < 300_000
    assert {"command", "commit", "seed", "versions", "machine"} <= set(RECORD)
    assert [row["name"] for row in RECORD["rows"]] == list(RECIPES)
    assert sorted(path.name for path in triage.FOLDER.iterdir()) == sorted(
        [triage.RECORD.name, *(row["file"] for row in RECORD["rows"])]
    )


def test_neither_names_nor_files_give_the_bugs_away():
    for row in RECORD["rows"]:
        assert set(row) == {
            *("name", "kind", "file", "task", "steps", "lr", "seed", "label", "losses", "evaluations", "trained")
        }
        assert row["file"] == f"{row['name'].replace(' ', '').lower()}.safetensors"
    for case in triage.cases() + triage.healthy():
        assert set(case.header) == {"format", "library", "passes", "base", "checksum"}
        assert "museum" not in json.dumps(case.header["passes"])
        assert len(set(case.trained)) == 64
        assert {str(tensor.dtype) for tensor in case.tensors.values()} == {"torch.float32"}


def test_six_bugs_and_each_has_another():
    bugs = [recipe.bug for recipe in mystery.CASES.values()]
    assert len(set(bugs)) == 6 and set(bugs) < set(AILMENTS)


@pytest.mark.parametrize("name", mystery.CASES)
def test_its_evidence_is_in_the_file(name):
    ailment = AILMENTS[mystery.CASES[name].bug]
    found = Readings.take(ailment.measure, name)
    assert found.separate and found.mystery >= ailment.least > max(found.healthy.values())


def test_serving_loses_what_four_of_them_claim_and_nothing_else():
    lost = {name: gap(case) for name, case in (mysteries() | sound()).items()}
    most = {name for name, value in lost.items() if value > 0.4}
    assert most == {name for name, r in mystery.CASES.items() if r.bug in ("mirrors", "scale", "leak", "base")}
    assert max(abs(value) for name, value in lost.items() if name not in most) < 0.05


@pytest.mark.parametrize("bug", [name for name, ailment in AILMENTS.items()])
def test_no_measurement_blames_a_healthy_one(bug):
    assert max(AILMENTS[bug].measure(case) for case in sound().values()) < AILMENTS[bug].least


@pytest.mark.parametrize(
    "name", [name if name in ("case 1", "case 6") else pytest.param(name, marks=pytest.mark.full) for name in RECIPES]
)
def test_made_again_it_is_the_same(name, tmp_path):
    recipe, stored = RECIPES[name], next(case for case in triage.cases() + triage.healthy() if case.name == name)
    run, trained = mystery.make(recipe, tmp_path / "again.safetensors")
    again = triage.Case(name, tmp_path / "again.safetensors", run, tuple(trained))
    # Processors round differently, and training amplifies it: the first losses agree, the last need not.
    assert run.losses[:5] == pytest.approx(stored.curve.losses[:5], rel=2e-3)
    assert abs(run.exact_match - stored.curve.exact_match) < 0.15
    assert again.trained == stored.trained
    assert again.header["passes"] == stored.header["passes"]
    assert {k: v["sha256"] for k, v in again.header["base"].items()} == {
        k: v["sha256"] for k, v in stored.header["base"].items()
    }
    assert {k: v.shape for k, v in again.tensors.items()} == {k: v.shape for k, v in stored.tensors.items()}
    if recipe.bug in AILMENTS:
        assert AILMENTS[recipe.bug].measure(again) >= AILMENTS[recipe.bug].least


def test_a_repaired_one_is_served_as_it_was_trained():
    repaired = [case for name, case in sound().items() if "taken out" in name]
    assert len(repaired) == 2
    for case in repaired:
        assert abs(gap(case)) < 0.03


def test_serving_and_reading_leave_a_case_as_it_is():
    case = triage.cases()[0]
    before = {name: tensor.clone() for name, tensor in case.tensors.items()}
    model = case.serve()
    with torch.no_grad():
        for layer in case.layers(model):
            layer.adapter.lora_U.zero_()
            layer.weight.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in case.tensors.items())
    assert case.score(case.serve()) == case.score(case.serve())
    assert triage.base().model.layers[0].self_attn.q_proj.weight.any()
