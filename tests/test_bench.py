"""What `adapterlab bench` measures, at sizes where nothing takes long; no test compares times."""

import itertools
import json

import pytest
import torch
from torch import nn

import adapterlab as al
from adapterlab import cli
from adapterlab.bench import Setting, costs
from adapterlab.bench.profile import KINDS, where_time_goes
from adapterlab.bench.setting import put_on

TINY = Setting(width=64, tokens=32, rounds=4)
VARIANTS = [
    cls(r=4) if "r" in cls.__dataclass_fields__ else cls()
    for cls in al.VARIANTS.values()
    if cls.__module__.startswith("adapterlab.")
]


@pytest.fixture(scope="module")
def rows():
    return {(row["variant"], row["by"]): row for row in costs.measure(VARIANTS, TINY)}


def test_a_row_for_each_variant_and_each_contender(rows):
    names = [variant.name for variant in VARIANTS]
    assert len(names) == 9
    beside_peft = {(name, "peft") for name in names if name != "antipasto"}
    assert set(rows) == {(name, by) for name in names for by in ("bare", "adapterlab")} | beside_peft


def test_each_row_holds_every_time(rows):
    for (_, by), row in rows.items():
        assert set(row["seconds"]) == set(row["ratio"]) == {"step", "infer", "decode"}
        for times in row["seconds"].values():
            assert len(times) == TINY.rounds and all(t > 0 for t in times)
        if by == "bare":
            assert set(row["ratio"].values()) == {1.0} and row["attach"] is row["merge"] is None
        else:
            assert row["attach"] > 0 and row["merge"] > 0


def test_bytes_kept_are_those_of_the_formula(rows):
    x, h = 32 * 64 * 4, 32 * 4 * 4  # the input, and x A^T
    for by in ("adapterlab", "peft"):
        assert rows["lora", by]["kept"] == x + h
    assert rows["ia3", "adapterlab"]["kept"] == x  # y, of the same size
    # Its axes are frozen, so x is not needed again; what is kept is as small as the axes.
    assert rows["antipasto", "adapterlab"]["kept"] < 64 * 4 * 4 * 4
    assert rows["hra", "adapterlab"]["kept"] < rows["hra", "peft"]["kept"]


def test_what_is_kept_twice_is_counted_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.A = nn.Parameter(torch.ones(64, 64))

        def forward(self, x):
            return x @ self.A + (x.flatten(0, 1) @ self.A).view_as(x)  # each product keeps a view of x

    assert costs.kept(costs.Contender("bare", Twice()), TINY) == 32 * 64 * 4


def test_what_is_let_go_of_before_the_backward_pass_is_not_counted():
    class Norm(nn.Linear):
        def forward(self, x):
            product = self.weight @ torch.eye(64)  # keeps the identity, as long as anyone holds the product
            return super().forward(x) * product.detach().norm()

    assert costs.kept(costs.Contender("bare", Norm(64, 64)), TINY) == 32 * 64 * 4 + 4  # x, and the norm


def test_the_peak_is_that_of_a_step():
    class Greedy(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return y + 0 * torch.zeros(3, 2**18).sum()  # 3 MiB, for a moment

    modest, greedy = (costs.Contender("bare", cls(64, 64)) for cls in (nn.Linear, Greedy))
    more = costs.peak(greedy, TINY) - costs.peak(modest, TINY)
    assert more == pytest.approx(3 * 2**20, rel=0.05)  # the modest one peaks elsewhere


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_contenders_take_turns_and_none_runs_twice_in_a_row(names):
    order = []
    times = costs.take_turns({name: lambda name=name: order.append(name) for name in names}, "cpu", rounds=4)
    assert {name: len(found) for name, found in times.items()} == dict.fromkeys(names, 4)
    turns = "".join(name for name, _ in itertools.groupby(order))
    assert len(turns) >= len(names) * (4 + costs.WARM_UP) and set(turns[-len(names) :]) == set(names)
    if len(names) > 2:
        assert {"ab", "bc", "ca"} <= {turns[k : k + 2] for k in range(len(turns))}  # each has been first


def test_one_that_is_very_slow_is_left_out_after_three_rounds(monkeypatch):
    monkeypatch.setattr(costs, "PATIENCE", 0.0)
    times = costs.take_turns({"slow": lambda: sum(range(20_000)), "fast": lambda: None}, "cpu", rounds=5)
    assert [t is None for t in times["slow"]] == [False] * 3 + [True] * 2
    assert costs.ratio(times["slow"], times["fast"]) > 0


def test_a_ratio_is_the_median_of_quotients():
    assert costs.ratio([2.0, 9.0, None, 4.0], [1.0, 3.0, 1.0, 1.0]) == 3.0


def test_frozen_while_decoding(monkeypatch):
    """What `frozen` has prepared is not prepared again: the time of a token has no preparation in it."""
    prepared = []
    original = al.DoRA.prepare
    monkeypatch.setattr(al.DoRA, "prepare", lambda *a: prepared.append(bench_state["work"]) or original(*a))
    bench_state = {"work": None}
    seconds = costs.take_turns

    def take_turns(*arguments):
        bench_state["work"] = "taking turns"
        try:
            return seconds(*arguments)
        finally:
            bench_state["work"] = None

    monkeypatch.setattr(costs, "take_turns", take_turns)
    monkeypatch.setitem(costs.__dict__, "WORK", {"decode": costs.WORK["decode"]})
    list(costs.measure([al.DoRA(r=4)], TINY, with_peft=False))
    assert prepared and "taking turns" not in prepared


def test_a_model_is_measured_in_all_its_layers():
    setting = Setting(kind="model", width=64, tokens=128, blocks=2, rounds=2)
    row = [row for row in costs.measure([al.LoRA(r=2)], setting) if row["by"] == "adapterlab"][0]
    contender = costs.put_on("adapterlab", setting.base(), al.LoRA(r=2), setting)
    assert len(contender.adapter.targets) == 14 and row["kept"] > 0


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_peft_wraps_the_same_layers_with_as_many_parameters(variant):
    if variant.name == "antipasto":
        assert not al.peft.knows(variant)
        with pytest.raises(ValueError, match="antipasto|AntiPaSTO"):
            al.peft.wrap(TINY.base(), variant, ["q_proj"])
        return
    ours, theirs = (costs.put_on(by, TINY.base(), variant, TINY) for by in ("adapterlab", "peft"))
    trained = sum(p.numel() for p in theirs.model.parameters() if p.requires_grad)
    assert trained == ours.adapter.num_parameters
    x = TINY.inputs()
    assert torch.allclose(theirs.model(x), ours.model(x), atol=1e-5)


def test_peft_has_only_its_own_delora():
    assert al.peft.knows(al.DeLoRA()) and not al.peft.knows(al.DeLoRA(start="copy"))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"kind": "brain"}, "'brain'"),
        ({"width": 0}, "width = 0"),
        ({"dtype": "int8"}, "int8"),
        ({"kind": "model", "tokens": 100}, "multiple of 128"),
    ],
)
def test_a_setting_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        Setting(**fields)


# ---- the command ----------------------------------------------------------------------------------

QUICK = ["--width", "32", "--tokens", "8", "--rounds", "2", "--ranks", "2"]


def test_the_command_prints_a_table_and_writes_the_record(tmp_path, capsys):
    file, picture = tmp_path / "costs.json", tmp_path / "costs.svg"
    assert cli.main(["bench", "lora", "ia3", *QUICK, "--json", str(file), "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "lora r=2" in printed and "peft" in printed and "step" in printed
    found = json.loads(file.read_text())
    assert found["command"].startswith("adapterlab bench lora ia3 --width 32") and found["machine"]
    assert found["versions"]["torch"] == torch.__version__ and found["setting"]["seed"] == 0
    assert len(found["rows"]) == 6 and all(len(row["seconds"]["step"]) == 2 for row in found["rows"])
    assert "<svg" in picture.read_text()


def test_the_record_alone_on_standard_output(capsys):
    assert cli.main(["bench", "lora", *QUICK, "--no-peft", "--json", "-"]) == 0
    assert [row["by"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["bare", "adapterlab"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nora"], "nora"),
        (["lora", "--dtype", "int4"], "int4"),
        (["lora", "--device", "abacus"], "abacus"),
        (["lora", "--ranks", "0"], "r = 0"),
        (["lora", "--json", "/no/such/folder/x.json"], "/no/such/folder"),
        (["lora", "--plot", "costs.png"], "costs.png"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(arguments, message, capsys):
    assert cli.main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_the_commands_are_listed_and_another_is_refused(capsys):
    assert cli.main([]) == 0 and "bench" in capsys.readouterr().out
    assert cli.main(["bend"]) == 2 and "'bend'" in capsys.readouterr().err


@pytest.mark.parametrize("by, variant", [("bare", al.LoRA()), ("adapterlab", al.LoRA(r=4)), ("peft", al.HRA(r=4))])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_where_the_time_of_a_step_goes(by, variant, dtype):
    setting = Setting(width=128, tokens=96, dtype=dtype)
    found = where_time_goes(put_on(by, setting.base(), variant, setting), setting, steps=2)
    assert tuple(found) == KINDS and found["products with W"] > 0 and min(found.values()) >= 0
    assert (found["thin products"] > 0) == (by != "bare")
