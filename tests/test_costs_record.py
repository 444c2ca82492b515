"""The runs that the chapter "What it costs" shows: what they must say of themselves, and what follows from them."""

import json
import random
import re

import pytest

import adapterlab as al
from adapterlab.bench import Setting, costs, formulas
from adapterlab.bench.setting import DTYPES, put_on
from adapterlab.kit import plots
from paths import ROOT

SETTINGS = {"layer": ("layer", "float32"), "model": ("model", "float32"), "bf16": ("model", "bfloat16")}
RECORDS = {name: json.loads((ROOT / f"book/_data/costs_{name}.json").read_text()) for name in SETTINGS}
each = pytest.mark.parametrize("name", RECORDS)


def variant_of(row):
    return al.VARIANTS[row["variant"]](**row["fields"])


@each
def test_it_says_where_it_comes_from(name):
    record = RECORDS[name]
    assert re.fullmatch(r"adapterlab bench .*--json book/_data/costs_" + name + ".json", record["command"])
    assert re.fullmatch(r"[0-9a-f]{40}\+?", record["commit"]) and re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert set(record["versions"]) >= {"python", "torch", "peft"} and record["machine"].strip()
    assert record["seed"] == record["setting"]["seed"]
    assert (record["setting"]["kind"], record["setting"]["dtype"]) == SETTINGS[name]
    Setting(**record["setting"])


@each
def test_all_nine_are_in_it_with_every_raw_second(name):
    record = RECORDS[name]
    ours = {name for name, cls in al.VARIANTS.items() if cls.__module__.startswith("adapterlab.variants")}
    for by, names in {"bare": ours, "adapterlab": ours, "peft": ours - {"antipasto"}}.items():
        assert {row["variant"] for row in record["rows"] if row["by"] == by} == names
    for row in record["rows"]:
        assert set(row["seconds"]) == set(costs.WORK)
        for times in row["seconds"].values():
            assert len(times) == record["setting"]["rounds"] and all(t is None or t > 0 for t in times)


@each
def test_ratios_follow_from_the_seconds(name):
    bare = None
    for row in RECORDS[name]["rows"]:
        bare = row if row["by"] == "bare" else bare  # each variant's three rows stand together
        assert (bare["variant"], bare["fields"]) == (row["variant"], row["fields"])
        found = {work: costs.ratio(row["seconds"][work], bare["seconds"][work]) for work in costs.WORK}
        assert row["ratio"] == pytest.approx(found, rel=1e-12)


def test_bytes_of_the_layer_are_those_of_the_formulas():
    setting = RECORDS["layer"]["setting"]
    assert setting["adapter_dtype"] == "float32"
    for row in RECORDS["layer"]["rows"]:
        if row["by"] != "bare":
            size = DTYPES[setting["dtype"]].itemsize
            r = row["fields"].get("r", 0)
            assert row["kept"] == formulas.kept(row["variant"], row["by"], setting["tokens"], setting["width"], r, size)


@each
def test_a_handful_measured_again_keeps_as_many_bytes(name):
    """At the recorded size; of those that attach in a second and keep less than half a GiB."""
    setting = Setting(**RECORDS[name]["setting"])
    quick = [row for row in RECORDS[name]["rows"] if row["by"] != "bare" and row["attach"] < 1 and row["kept"] < 2**29]
    bare = costs.kept(put_on("bare", setting.base(), al.LoRA(), setting), setting)
    for row in random.Random(7).sample(quick, 2):
        found = costs.kept(put_on(row["by"], setting.base(), variant_of(row), setting), setting)
        assert row["kept"] == found - bare, (row["variant"], row["by"])


@each
def test_the_picture_tells_every_row_of_its_rank(name):
    record = RECORDS[name]
    ranks = {row["fields"]["r"] for row in record["rows"] if "r" in row["fields"]}
    for rank in ranks:
        picture = plots.costs(record, rank)
        for row in record["rows"]:
            if row["by"] == "adapterlab" and row["fields"].get("r", rank) == rank:
                assert f" {row['ratio']['step']:.3g}" in picture.alt.split("One token")[0]
        assert "AntiPaSTO" in picture.alt and record["machine"] in picture.caption
    with pytest.raises(ValueError, match="no variant of rank 7"):
        plots.costs({**record, "rows": [row for row in record["rows"] if "r" in row["fields"]]}, 7)
