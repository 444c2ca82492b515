"""The interactive figures without a browser: one module each, the palette's colours, small and stable state."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import adapterlab as al
from adapterlab import kit
from adapterlab.kit import curve, style, widgets
from adapterlab.kit.widgets import figure, lora_rates, run_scrubber
from test_style import contrast
from widget_runs import made_up_run, museum_reports

QUESTION = {"question": "Who has a gradient?", "answers": ["both", "A", "B"], "right": 2, "because": "B is zero."}
LAYERS = ("bias, equal", "bias, unequal", "none, equal", "none, unequal")
WRONG = {
    "label": "wrong",
    "member": "dora",
    "errors": {layer: [0, 0.1, 0.3] for layer in LAYERS},
    "passes": [True, False],
    "blind": "without a bias nothing shows",
}

FOLDER = {
    "member": "hra",
    "own": {
        "fields": {"peft_type": "HRA", "r": 8},
        "tensors": [["hra_u", [128, 8]]],
        "layers": 28,
        "bytes": 150_000,
        "readers": {"PeftModel": True, "a LoRA server": False},
    },
    "lora": {"refused": "it has full rank"},
}


def steered():
    model, tokenizer = kit.load_base()
    adapter = al.attach(model, al.AntiPaSTO(r=4, max_angle=0.5), targets=r"q_proj$", layers=[1])
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(torch.linspace(0.1, 0.4, p.numel()).view_as(p))
    layer = model.get_submodule(adapter.targets[0])
    return widgets.AntipastoSteer(model, tokenizer, adapter, layer, ["57+28="], caps=(0.1, 0.5), n=4)


MAKE = {
    "AntipastoSteer": steered,
    "Guess": lambda: widgets.Guess(**QUESTION),
    "LoraRates": widgets.LoraRates,
    "RunScrubber": lambda: widgets.RunScrubber(made_up_run(), ghosts=[made_up_run("full")]),
    "CostsAtYourSize": widgets.CostsAtYourSize,
    "MemoryPlan": widgets.MemoryPlan,
    "DeloraCliff": widgets.DeloraCliff,
    "DoraRow": widgets.DoraRow,
    "Ia3Gates": widgets.Ia3Gates,
    "Ia3Sides": lambda: widgets.Ia3Sides(
        [[1.0, 0.2], [0.3, 0.8]], [[1.0, -0.2], [0.3, 0.8]], [[1.0, 0.2], [0.3, 0.8], [-0.5, 0.4]]
    ),
    "EvaNeedle": lambda: widgets.EvaNeedle(np.random.default_rng(0).normal(1, 1, (40, 6))),
    "EvaRanks": lambda: widgets.EvaRanks(*made_up_shares()),
    "HraMirrors": lambda: widgets.HraMirrors([[1.0, 0.2], [0.3, 0.8], [-0.5, 0.4]]),
    "Museum": lambda: widgets.Museum(museum_reports()),
    "PeftFolder": lambda: widgets.PeftFolder([FOLDER], "k_proj", (64, 128)),
    "PissaSpectrum": lambda: widgets.PissaSpectrum({"W": torch.eye(64) + torch.arange(64.0) / 64}),
    "QuantBlocks": lambda: widgets.QuantBlocks(np.linspace(-0.3, 0.3, 128).tolist(), "q_proj"),
    "Contract": lambda: widgets.Contract([WRONG], ["same at t=0", "far from it"], [0, 1, 2]),
    "Ask": lambda: widgets.Ask(*kit.load_base(), ["57+28=", "sort c a b ="]),
}


def made_up_shares():
    spectra = {f"blocks.{i}.q_proj": [2.0**-k / (i + 2) for k in range(24)] for i in range(3)}
    both = {path: {"raw": values, "centred": values[::-1]} for path, values in spectra.items()}
    return both, dict.fromkeys(both, 20)


FIGURES = [getattr(widgets, name) for name in widgets.__all__ if name != "Figure"]
CSS = (figure.FOLDER / "figure.css").read_text()


# ---- the code -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FIGURES, ids=lambda kind: kind.__name__)
def test_a_figure_is_one_module_that_loads_nothing(kind):
    code = kind._esm
    assert len(re.findall(r"^export default", code, re.MULTILINE)) == 1
    assert not re.search(r"^\s*(import\b|export (?!default))|\bimport\(", code, re.MULTILINE)
    assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[\w.-]+\.\w+/", code + kind._css)
    assert len(code) < 80_000  # each figure carries its own copy


@pytest.mark.parametrize("kind", FIGURES, ids=lambda kind: kind.__name__)
def test_joined_files_share_no_top_level_name(kind):
    names = re.findall(r"^(?:async )?(?:const|let|class|function) (\w+)", kind._esm, re.MULTILINE)
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


def test_a_bundle_holds_each_file_once_and_first_what_others_need(tmp_path, monkeypatch):
    files = {
        "a.js": "/* guide */\nexport const a = 1;\n",
        "b.js": 'import { a } from "./a.js";\nexport function b() { return a; }\n',
        "c.js": 'import {\n  a,\n} from "./a.js";\nimport { b } from "./b.js";\nexport default { render: b };\n',
    }
    for name, source in files.items():
        (tmp_path / name).write_text(source)
    monkeypatch.setattr(figure, "FOLDER", tmp_path)
    lines = figure.bundle("c.js").split("\n")
    assert [line for line in lines if line] == [
        "const a = 1;",
        "function b() { return a; }",
        "export default { render: b };",
    ]


# ---- colours --------------------------------------------------------------------------------------


def test_colours_come_from_the_palette():
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|\brgba?\(|\bhsla?\(", CSS)
    sheet = figure.stylesheet()
    for name, mark in style.MARKS.items():
        variable = f"--al-{name.replace('_', '-')}"
        assert f"{variable}: {mark.light};" in sheet and f"{variable}: {mark.dark};" in sheet
    assert set(re.findall(r"var\(--al-([\w-]+)", CSS)) <= {
        name.replace("_", "-") for name in [*style.MARKS, *figure.GROUNDS]
    }


@pytest.mark.parametrize("name", [*style.MARKS, "ink", "muted", "focus", "good", "bad"])
def test_words_are_legible_on_the_card(name):
    mark = style.MARKS.get(name)
    light, dark = (mark.light, mark.dark) if mark else figure.GROUNDS[name]
    assert contrast(light, figure.GROUNDS["card"][0]) >= 4.5
    assert contrast(dark, figure.GROUNDS["card"][1]) >= 4.5


def test_words_on_filled_controls_are_legible():
    for k in (0, 1):  # the chosen option is card on ink; a strip's words are ink on grid
        assert contrast(figure.GROUNDS["ink"][k], figure.GROUNDS["card"][k]) >= 4.5
        assert contrast(figure.GROUNDS["ink"][k], figure.GROUNDS["grid"][k]) >= 4.5


# ---- what a notebook keeps ------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKE)
def test_a_figure_is_the_same_twice(name):
    one, two = MAKE[name](), MAKE[name]()
    assert one.data == two.data and one.still_id == two.still_id
    assert one.still_bundle() == two.still_bundle()  # byte for byte, SVG included
    for text in (repr(one), one.still_bundle()["text/plain"], one.widget_bundle()["text/plain"]):
        assert text.strip() and "0x" not in text and one.model_id not in text
    assert repr(one) == repr(two)


@pytest.mark.parametrize("name", MAKE)
def test_shown_it_is_a_still_and_a_widget(name, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    made = MAKE[name]()
    made._ipython_display_()
    still, widget = shown
    assert f'data-al-still="{made.still_id}"' in still["text/html"]
    assert widget["application/vnd.jupyter.widget-view+json"]["model_id"] == made.model_id
    assert "text/html" not in widget


@pytest.mark.parametrize("name, most", [("Guess", 500), ("LoraRates", 1000), ("RunScrubber", 12_000)])
def test_state_is_small(name, most):
    assert len(json.dumps(MAKE[name]().data)) < most


def test_numbers_are_short():
    assert figure.rounded({"a": [0.123456, 12345.6, 2.0, True, "x", None]}) == {"a": [0.123, 12300, 2, True, "x", None]}
    assert figure.rounded([np.float32(0.5), float("nan"), float("inf")]) == [0.5, None, None]
    assert np.frombuffer(figure.floats([[1, 2], [3, 4]]), "<f4").tolist() == [1, 2, 3, 4]


def test_a_figure_without_a_still_is_refused_at_its_class():
    with pytest.raises(TypeError, match=r"Bare needs a method still\(\)"):

        class Bare(figure.Figure, js="guess.js"):
            pass


def test_every_figure_is_tested():
    assert set(MAKE) == {kind.__name__ for kind in FIGURES}


# ---- each figure ----------------------------------------------------------------------------------


def test_ask_shows_the_models_answers_where_no_script_runs():
    assert repr(MAKE["Ask"]().still()) == "Ask the model\n57+28= 85\nsort c a b = a b c"


def test_ask_carries_the_adapter_and_refuses_one_that_it_cannot_scale():
    model, tokenizer = kit.load_base()
    with al.attach(model, al.LoRA(r=2), targets="q_proj"):
        asked = widgets.Ask(model, tokenizer, ["57+28="])
        assert asked.data["variant"] == "LoRA" and 1000 < len(asked.data["adapter"]) < 10_000
    with al.attach(model, al.DoRA(r=2), targets="q_proj"), pytest.raises(ValueError, match="DoRA.*not of low rank"):
        widgets.Ask(model, tokenizer, ["57+28="])


def test_a_guess_needs_its_right_answer():
    with pytest.raises(ValueError, match="right = 3: there are 3 answers"):
        widgets.Guess(**QUESTION | {"right": 3})


def test_a_guess_without_scripts_folds_its_answer_away():
    html = widgets.Guess(**QUESTION).still().html()
    assert html.index("<li>B</li>") < html.index("<details>") < html.index("B is zero.")


def test_the_u_slides_as_one_knob():
    setting = lora_rates.SETTING
    rates = np.array(setting["rates"])

    def best(r, s):
        losses = lora_rates.sweep(setting, r, s)
        k = losses.argmin()
        assert 0 < k < len(rates) - 1 and losses[0] > 0.9 and losses[-1] > 0.1  # a U
        return rates[k]

    assert best(8, 0.25) > 1.5 * best(8, 2) > 1.5 * best(8, 8)  # a larger scale, a smaller rate
    assert 0.4 < best(32, 0.5) / best(8, 2) < 1.01  # alpha / r: about the same for each r
    assert lora_rates.sweep(setting, 2, 8).min() > 5 * lora_rates.sweep(setting, 4, 4).min()  # rank 2 of 4


def test_lora_rates_starts_at_a_stop_of_its_sliders():
    assert widgets.LoraRates(r=4, alpha=32).data["alpha"] == 32
    with pytest.raises(ValueError, match=r"r = 7: choose one of \[1, 2"):
        widgets.LoraRates(r=7)


def test_the_scrubber_needs_a_trace():
    run = made_up_run()
    run.trace = None
    with pytest.raises(ValueError, match="no trace"):
        widgets.RunScrubber(run)
    with_ghost = widgets.RunScrubber(made_up_run(), ghosts=[run])  # a ghost needs none
    assert with_ghost.data["ghosts"][0]["answers"] == []


def test_the_scrubber_keeps_only_changes_and_no_rounding():
    data = widgets.RunScrubber(made_up_run()).data
    assert data["answers"] == [[0, "85"], [20, "5858"], [40, "58"]]
    assert data["spectra"][50][7] > 0 == data["spectra"][50][8]
    assert "85 at first, 5858 from step 20 on, 58 from step 40 on" in widgets.RunScrubber(made_up_run()).still().caption


def test_a_run_of_a_readers_own_variant_has_its_own_name():
    still = widgets.RunScrubber(made_up_run("VeRA"), ghosts=[made_up_run()]).still()
    assert still.alt.startswith("VeRA on add_rev") and "full fine-tuning" not in still.alt


# ---- a traced run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traced():
    """(run without a trace, the same run with one), 5 steps of LoRA."""
    runs = []
    for trace in (None, ("57+28=", "58")):
        model, tokenizer = kit.load_base()
        torch.manual_seed(0)
        al.attach(model, al.LoRA(r=2))
        runs.append(kit.train(model, tokenizer, steps=5, trace=trace, live=False))
    return runs


def test_tracing_changes_nothing_of_the_run(traced):
    plain, run = traced
    assert plain.trace is None and plain.losses == run.losses and plain.evaluations == run.evaluations


def test_a_trace_tells_what_happened(traced):
    trace = traced[1].trace
    assert trace.layer == "model.layers.1.self_attn.q_proj"
    assert [done for done, _ in trace.answers] == [done for done, _, _ in trace.spectra] == [0, 2, 4, 5]
    assert trace.answers[0][1] == "85"
    (_, at_start, share), *_, (_, values, moved) = trace.spectra
    assert max(at_start) == share == 0.0 < moved
    assert values[1] > 1e-3 * values[0] > 0 and values[2] < run_scrubber.ROUNDING  # rank 2
    assert set(trace.gradients) == {"lora_A", "lora_B"} and len(trace.gradients["lora_A"]) == 5
    assert trace.gradients["lora_A"][0] == 0.0 < trace.gradients["lora_B"][0]  # only B has one in the first step


def test_full_fine_tuning_can_be_traced():
    model, tokenizer = kit.load_base()
    run = kit.train(model.requires_grad_(True), tokenizer, steps=1, lr=1e-3, trace=("57+28=", "58"), live=False)
    assert set(run.trace.gradients) == {"weight", "bias"} and run.trace.spectra[-1][1][11] > 0


def test_a_live_scrubber_grows_and_its_text_never_changes(monkeypatch):
    frames = []
    handle = SimpleNamespace(update=lambda bundle, raw: frames.append(bundle))
    monkeypatch.setattr(curve, "_in_notebook", lambda: True)
    monkeypatch.setattr(curve, "SECONDS_PER_FRAME", 0.0)
    monkeypatch.setattr("IPython.display.display", lambda bundle, **_: frames.append(bundle) or handle)
    grown = []
    update = widgets.RunScrubber.update
    monkeypatch.setattr(
        widgets.RunScrubber, "update", lambda self: update(self) or grown.append(len(self.data["losses"]))
    )
    model, tokenizer = kit.load_base()
    al.attach(model, al.LoRA(r=2))
    kit.train(model, tokenizer, steps=3, trace=("57+28=", "58"))
    still, widget, last = frames
    assert still["text/plain"] == last["text/plain"] == "[run scrubber of lora on add_rev]"
    assert still["text/html"] != last["text/html"] and "57+28= is answered by 85" in last["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in widget and grown == [1, 2, 3, 3]
