"""Lab 5's house: splits that share nothing, a record that can be measured again, intervals, the seal."""

import math
import random
from dataclasses import asdict

import pytest
import torch

import adapterlab as al
from adapterlab import kit
from adapterlab.kit import batches, house, tasks
from adapterlab.kit.base import HELD_OUT_SEED
from adapterlab.kit.house import bootstrap, measure, sealed, task
from adapterlab.kit.house.recipe import BATCH, calibration
from adapterlab.kit.show import Picture

RECORD = house.record()
ROWS = house.rows()


@pytest.fixture
def seal(monkeypatch):
    monkeypatch.setattr(house.Seal, "_results", {})
    return house.Seal()


@pytest.fixture
def model_and_tokenizer():
    return kit.load_base()


def moved(model, variant=None, seed=0):
    """An adapter with something in it, without training."""
    al.detach(model)
    torch.manual_seed(seed)
    adapter = al.attach(model, variant or al.LoRA(r=2))
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(0.01 * torch.randn(p.shape))
    return adapter


# ---- splits ---------------------------------------------------------------------------------------


def pair(example):
    low, high = map(int, example[0].rstrip("=").split("-"))
    return min(low, high), max(low, high)


def test_the_splits_share_no_pair_and_are_all_pairs():
    found = {name: [pair(example) for example in examples] for name, examples in task._SPLITS.items()}
    together = [each for pairs in found.values() for each in pairs]
    assert len(together) == len(set(together)) == 90 * 91 // 2
    held_out = {each for each in together if tasks.pair_is_held_out(*each)}
    assert set(found["validation"]) | set(found["sealed"]) == held_out
    assert len(found["validation"]) > 100 and len(found["sealed"]) > 2 * len(found["validation"])


def test_nothing_that_trains_or_shows_draws_from_the_sealed_split(model_and_tokenizer):
    hidden = {pair(example) for example in task._SPLITS["sealed"]}
    shown = {pair(example) for example in house.validation()}
    for seed in range(4):
        training = {pair(example) for example in house.TASK.examples(house.STEPS * BATCH, seed, held_out=False)}
        live = {pair(example) for example in house.TASK.examples(256, HELD_OUT_SEED + seed, held_out=True)}
        assert not training & (hidden | shown) and live <= shown
    tokenizer = model_and_tokenizer[1]
    for batch in calibration(tokenizer):
        texts = tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
        assert not {pair((text.split("=")[0],)) for text in texts} & (hidden | shown)


@pytest.mark.parametrize("low, high", [(28, 57), (30, 30), (10, 99)])
def test_an_example_is_the_smaller_less_the_larger(low, high):
    assert (f"{low}-{high}=", str(low - high)) in task._SPLITS[task.split_of(low, high)]


def test_answered_is_greedy_decoding(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    examples = [("57-28=", "29"), ("57-28=", "30"), ("90-13=", "77")]
    expected = [kit.answer(model, tokenizer, prompt) == wanted for prompt, wanted in examples]
    assert task.answered(model, tokenizer, examples).tolist() == expected == [True, False, True]


# ---- record ---------------------------------------------------------------------------------------


def test_the_record_says_where_each_row_comes_from():
    assert list(RECORD["rows"]) and set(RECORD["rows"]) == set(house.SETTINGS) == set(ROWS)
    assert (RECORD["budget"], RECORD["steps"], RECORD["batch_size"]) == (house.BUDGET, house.STEPS, BATCH)
    for row in RECORD["rows"].values():
        run = RECORD["runs"][row["run"]]
        assert (
            run["command"].startswith("python -m adapterlab.kit.house") and run["commit"] and run["versions"]["torch"]
        )
        assert "thread" in run["machine"]


@pytest.mark.parametrize("name", house.SETTINGS)
def test_a_row_fits_the_budget_and_its_rate_was_best_on_validation(name, model_and_tokenizer):
    row, variant = RECORD["rows"][name], house.SETTINGS[name]
    assert row["fields"] == asdict(variant)
    shapes = house.layer_shapes(model_and_tokenizer[0])
    specs = [spec for shape in shapes.values() for spec in variant.specs(*shape).values() if not spec.as_buffer]
    assert row["parameters"] == sum(math.prod(spec.shape) for spec in specs) <= house.BUDGET
    rates = [tried["lr"] for tried in row["sweep"]]
    assert rates == sorted(rates) and set(rates) <= set(measure.LADDER)
    assert row["lr"] == measure.best_rate(row["sweep"]) and rates[0] < row["lr"] < rates[-1]
    assert 0 not in row["seeds"]  # with which the rate was chosen
    for split, examples in task._SPLITS.items():
        if split != "training":
            assert [len(bits) for bits in row[split]] == [len(examples)] * len(row["seeds"])


def test_scores_follow_from_the_bits():
    for name, row in ROWS.items():
        shares = [bits.count("1") / len(bits) for bits in RECORD["rows"][name]["sealed"]]
        assert row.by_seed == pytest.approx(shares) and row.score == pytest.approx(sum(shares) / len(shares))
        low, high = row.interval
        assert low < row.score < high
    scores = [row.score for row in ROWS.values()]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.6 and scores[-1] < 0.3  # there is something to tell apart


@pytest.mark.parametrize("name", random.Random(5).sample(["lora", "pissa", "eva", "delora", "hra"], 2))
def test_a_handful_trained_again_scores_as_recorded(name, model_and_tokenizer):
    """Training differs between processors; so much it does not."""
    model, tokenizer = model_and_tokenizer
    row = ROWS[name]
    house.adapt(model, tokenizer, row.variant, row.lr, seed=row.seeds[0])
    right = task.answered(model, tokenizer, task._SPLITS["sealed"])
    assert right.double().mean().item() == pytest.approx(row.by_seed[0], abs=0.12)


def test_a_sweep_climbs_until_its_best_is_inside(monkeypatch):
    for best in measure.LADDER[1:-1]:
        tried = []

        def score(variant, lr, best=best, tried=tried):
            tried.append(lr)
            return {"lr": lr, "validation": 1 - abs(math.log(lr / best)) / 100, "loss": 1.0}

        monkeypatch.setattr(measure, "try_rate", score)
        rates = [row["lr"] for row in measure.sweep(al.LoRA(), progress=lambda line: None)]
        assert rates == sorted(tried) and len(tried) == len(set(tried))
        assert rates[0] < best < rates[-1]


def test_best_rate_breaks_ties_by_loss():
    tries = [
        {"lr": 1e-3, "validation": 0.5, "loss": 0.4},
        {"lr": 1e-2, "validation": 0.5, "loss": 0.3},
        {"lr": 0.1, "validation": 0.0, "loss": None},
    ]
    assert measure.best_rate(tries) == 1e-2


def test_rows_of_another_setting_are_not_mixed_in(tmp_path, capsys):
    file = tmp_path / "rows.json"
    file.write_text('{"task": "sub_neg", "budget": 1, "runs": [], "rows": {}}')
    with pytest.raises(ValueError, match=r"rows\.json holds rows of another setting"):
        measure.merged(file, {})
    kept = measure.merged(tmp_path / "none.json", {"command": "a"})
    assert kept["runs"] == [{"command": "a"}] and kept["rows"] == {}
    assert kept["base"] == RECORD["base"] or sum(map(int, kept["base"]["sealed"])) < 10
    assert measure.main(["lorra", "--json", str(file)]) == 2 and "no variant 'lorra'" in capsys.readouterr().err


# ---- intervals ------------------------------------------------------------------------------------


def test_the_interval_is_paired_and_close_to_the_exact_one():
    mine, theirs = torch.rand(2, 50, generator=torch.Generator().manual_seed(0)).round().double()
    assert bootstrap.interval(mine, mine) == (0.0, 0.0)
    assert bootstrap.interval(mine + 0.25, mine) == pytest.approx((0.25, 0.25))
    low, high = bootstrap.interval(mine, theirs)
    assert bootstrap.interval(theirs, mine) == pytest.approx((-high, -low), abs=1e-9) and low < high
    ones = torch.cat([torch.ones(30), torch.zeros(70)])  # the sum of 100 draws is binomial
    assert bootstrap.of_mean(ones) == pytest.approx((0.21, 0.39), abs=0.011)
    with pytest.raises(ValueError, match=r"\(3,\) against \(2,\): pass the scores of the same items"):
        bootstrap.interval(torch.zeros(3), torch.zeros(2))


def test_the_lab_s_exact_interval_is_the_binomial_s():
    from adapterlab.kit.grade.lab5_nine_on_one_task.differences import exact

    values = torch.cat([torch.ones(30), torch.zeros(70)])
    weights = [math.comb(100, k) * 0.3**k * 0.7 ** (100 - k) for k in range(101)]
    ends = [next(k for k in range(101) if sum(weights[: k + 1]) >= tail) / 100 for tail in (0.025, 0.975)]
    assert exact(values) == pytest.approx(tuple(ends)) and exact(-values) == pytest.approx((-ends[1], -ends[0]))


# ---- the seal -------------------------------------------------------------------------------------


def test_three_looks_and_the_same_adapter_costs_one(seal, model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    results = []
    for seed in range(3):
        moved(model, seed=seed)
        results.append(seal.submit(model, tokenizer))
        assert seal.submit(model, tokenizer) is results[-1]
    assert [result.look for result in results] == [1, 2, 3] and seal.left == 0
    moved(model, seed=3)
    for other in (seal, house.Seal()):
        refused = other.submit(model, tokenizer)
        assert isinstance(refused, house.Refusal) and "All 3 looks are spent" in refused.why
    moved(model, seed=1)
    assert seal.submit(model, tokenizer) is results[1]


def test_what_cannot_be_scored_is_refused_and_costs_no_look(seal, model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    assert "no adapter" in seal.submit(model, tokenizer).why
    al.attach(model, al.LoRA(r=3))
    assert "29,184 parameters, 4,184 above the budget" in seal.submit(model, tokenizer).why
    for p in model.parameters():
        p.requires_grad_(False)  # frozen afterwards, counted all the same
    assert "above the budget" in seal.submit(model, tokenizer).why
    moved(model)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.bias[0] += 1e-3
    assert "beside the adapter has changed" in seal.submit(model, tokenizer).why
    assert seal.left == sealed.LOOKS


def test_a_result_scores_the_sealed_split_and_shows_none_of_it(seal, model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    moved(model)
    result = seal.submit(model, tokenizer)
    right = task.answered(model, tokenizer, task._SPLITS["sealed"]).double()
    assert result.score == pytest.approx(right.mean().item()) and result.parameters == 19456
    shown = repr(result) + result._repr_markdown_() + house.standings(result).alt
    assert not [prompt for prompt, _ in task._SPLITS["sealed"] if prompt in shown]
    public = {name for name in dir(result) if not name.startswith("_")}
    assert public == {"against", "grades", "interval", "look", "parameters", "score", "tally", "validation"}


def test_grades_are_those_of_the_paired_bootstrap():
    name, leader = next(iter(ROWS.items()))
    perfect = torch.ones(len(task._SPLITS["sealed"])).double()
    best, none = (house.Result(1, 0.0, 1, right) for right in (perfect, 0 * perfect))
    assert set(none.grades().values()) <= {"below", "tied"} and none.grades()[name] == "below"
    assert best.grades()[name] == "beats" and best.tally() == "beats 9, tied with 0, below 0"
    same = house.Result(1, 0.0, 1, leader._sealed.mean(0))
    assert same.against(leader) == (0.0, 0.0) and same.grades()[name] == "tied"


def test_pictures_tell_every_row():
    picture = house.standings()
    assert isinstance(picture, Picture) and all(row.label in picture.alt for row in ROWS.values())
    refused = house.standings(house.Refusal("no"))
    assert refused.alt == picture.alt
    drawn = house.draws("dora", "lora", bootstrap.interval)
    low, high = bootstrap.interval(ROWS["dora"].validation, ROWS["lora"].validation)
    assert f"{low:+.2f} to {high:+.2f}" in drawn.alt
    assert "The interval: none" in house.draws("dora", "lora", lambda mine, theirs: None).alt


def test_a_task_of_ones_own_can_be_trained_and_scored(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    own = tasks.Task("fixed", "one sum", lambda rng, held_out: ("57-28=", "29"))
    assert kit.evaluate(model, tokenizer, own, n=2)["exact_match"] == 1.0
    al.attach(model, al.LoRA(r=1))
    run = kit.train(model, tokenizer, own, steps=1, batch_size=2, live=False)
    assert run.task == "fixed" and run.exact_match == 1.0
    assert next(batches.training(own, tokenizer, 1, 2, 0))["input_ids"].shape[0] == 2


def test_adapt_takes_variants_alone(model_and_tokenizer):
    with pytest.raises(TypeError, match="pass one with its settings"):
        house.adapt(*model_and_tokenizer, al.LoRA, 1e-2)
