"""Lab 4's small runs, their budget, and the recorded Us."""

import math
import random
import re

import pytest
import torch

import adapterlab as al
from adapterlab import kit
from adapterlab.kit import rates, rates_record
from adapterlab.kit.u_pictures import us


@pytest.fixture(scope="module")
def trials():
    return rates.Trials()


@pytest.fixture(scope="module")
def recorded():
    return rates.measured()


# ---- runs -----------------------------------------------------------------------------------------


def test_a_run_is_what_the_kit_trains_on_the_whole_model(trials):
    model, tokenizer = kit.load_base()
    torch.manual_seed(3)
    al.attach(model, al.LoRA(r=4, alpha=32), layers=[3])
    asked = {"steps": rates.STEPS, "batch_size": rates.BATCH, "warmup": rates.WARMUP}
    run = kit.train(model, tokenizer, rates.TASK, lr=4e-3, seed=3, evaluate_every=rates.STEPS, live=False, **asked)
    assert trials.loss(al.LoRA(r=4, alpha=32), 4e-3, seed=3) == pytest.approx(run.evaluations[-1][2], rel=1e-3)


def test_a_run_leaves_no_trace(trials):
    before, random_state = trials._loss(trials.held_out).item(), torch.random.get_rng_state()
    first = trials.loss(al.LoRA(), 1e-2)
    assert first < 0.5 * before
    assert trials._loss(trials.held_out).item() == before and torch.equal(torch.random.get_rng_state(), random_state)
    assert trials.loss(al.LoRA(), 1e-2) == first != trials.loss(al.LoRA(), 1e-2, seed=1)


def test_a_run_that_breaks_is_infinite(trials):
    assert trials.loss(al.LoRA(), 1e30) == math.inf


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_first_step_is_that_of_b_alone(trials, optimizer):
    """While B = 0 only B moves, so doubling alpha doubles dW under Adam, and makes it four times as large under SGD."""
    one, two = (trials.first_step(al.LoRA(r=4, alpha=alpha), 1e-4, optimizer) for alpha in (8, 16))
    expected = {"adam": 2, "sgd": 4}[optimizer]
    assert two.weights / one.weights == pytest.approx(expected, rel=1e-2)
    assert two.outputs / one.outputs == pytest.approx(expected, rel=0.1)
    with pytest.raises(ValueError, match="'adam' or 'sgd'"):
        trials.first_step(al.LoRA(), 1e-4, "lion")


# ---- the U ----------------------------------------------------------------------------------------


def test_the_plateau_runs_straight_between_points():
    lrs, losses = [8e-3, 1e-3, 4e-3, 2e-3], [9.0, 3.0, 1.2, 1.0]  # in no order
    low, high = rates.plateau(lrs, losses, within=1.5)
    assert low == pytest.approx(2e-3 / 2**0.25) and high == pytest.approx(4e-3 * 2 ** (0.3 / 7.8))
    assert rates.middle(low, high) == pytest.approx(math.sqrt(low * high))
    assert rates.plateau([1e-3, 2e-3, 4e-3], [1.0, 1.0, math.inf]) == (1e-3, 2e-3)


def test_octaves_are_counted_from_the_edge():
    floor = (1e-3, 4e-3)
    assert [rates.octaves(rate, floor) for rate in (5e-4, 1e-3, 2e-3, 4e-3, 16e-3)] == [-1, 0, 0, 0, 2]


# ---- the record -----------------------------------------------------------------------------------


def test_the_record_says_where_it_comes_from():
    record = rates.record()
    assert re.fullmatch(r"python -m adapterlab.kit.rates_record --json \S*data/rates.json", record["command"])
    assert re.fullmatch(r"[0-9a-f]{40}\+?", record["commit"]) and re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert record["versions"]["torch"] and record["machine"].strip() and record["seed"] == 0
    now = (rates.TASK, rates.STEPS, rates.BATCH, rates.WARMUP, rates.HELD_OUT)
    assert tuple(record["setting"][key] for key in ("task", "steps", "batch", "warmup", "held_out")) == now


def test_every_setting_seed_and_rate_is_in_it_once():
    rows = [(row["setting"], row["seed"], row["lr"]) for row in rates.record()["rows"]]
    seeds = range(rates_record.SEEDS)
    assert rows == [(name, seed, lr) for name in rates.SETTINGS for seed in seeds for lr in rates_record.GRID]


def test_a_handful_measured_again_gives_the_same(trials):
    """At rates up to the plateau's centre: beyond it runs are wild, and differ between processors."""
    centres = {name: measured.centre for name, measured in rates.measured().items()}
    calm = [row for row in rates.record()["rows"] if row["lr"] <= centres[row["setting"]]]
    for row in random.Random(4).sample(calm, 6):
        found = trials.loss(rates.SETTINGS[row["setting"]], row["lr"], row["seed"])
        assert found == pytest.approx(row["loss"], rel=0.1), row


def test_each_u_has_both_sides_and_a_centre_that_no_seed_decides(recorded):
    for name, measured in recorded.items():
        low, high = measured.floor
        assert measured.rates[2] < low < high < measured.rates[-2], name
        assert min(measured.mean[0], measured.mean[-1]) > 2 * min(measured.mean), name
        for k in range(len(measured.losses)):
            rest = rates.Measured(measured.rates, measured.losses[:k] + measured.losses[k + 1 :])
            assert abs(math.log2(rest.centre / measured.centre)) < 0.5, (name, k)


# ---- the budget -----------------------------------------------------------------------------------


def test_the_budget_refuses_what_goes_beyond_it():
    budget = rates.Budget(2, lambda variant, lr: 10 * lr)
    assert [budget.run(al.LoRA(), lr) for lr in (0.1, 0.2)] == [1, 2]
    with pytest.raises(rates.BudgetSpent, match=r"all 2 runs are spent, so LoRA\(r=4.* is not trained at 0.3"):
        budget.run(al.LoRA(r=4), 0.3)
    assert budget.spent == [(al.LoRA(), 0.1, 1), (al.LoRA(), 0.2, 2)] and budget.left == 0


@pytest.mark.parametrize("lr", [0, -1e-3, math.nan, math.inf, "1e-3", None])
def test_a_rate_that_is_none_costs_no_run(lr):
    budget = rates.Budget(1, lambda variant, lr: 0.0)
    with pytest.raises(ValueError, match="no run was spent"):
        budget.run(al.LoRA(), lr)
    assert budget.left == 1


def test_a_run_that_fails_is_not_counted():
    budget = rates.Budget(1, lambda variant, lr: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        budget.run(al.LoRA(), 0.1)
    assert budget.left == 1


# ---- the picture ----------------------------------------------------------------------------------


def test_the_picture_tells_what_it_shows(recorded):
    first, second = list(recorded)[:2]
    shown = us(
        {name: recorded[name] for name in (first, second)},
        foretold={first: 0.0123},
        spent=[(rates.SETTINGS[second], 0.01, 0.5)] * 2,
    )
    for name in (first, second):
        assert f"{name}: the loss falls" in shown.alt and f"its centre {recorded[name].centre:.2g}" in shown.alt
    assert "foretold 0.012" in shown.alt.split(second)[0] and "2 runs." in shown.alt.split(second)[1]
    assert "runs" not in shown.alt.split(second)[0] and "Triangle" in shown.caption and "Crosses" in shown.caption
    for slip in ({first: None, second: "low"}, [0.01], None):
        assert us({first: recorded[first]}, foretold=slip).alt == us({first: recorded[first]}).alt
    hidden = us({first: recorded[first]}, floors=False)
    assert "centre" not in hidden.alt and "Shaded" not in hidden.caption
