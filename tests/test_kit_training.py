"""kit.train, its live curve, and what notebooks show."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import adapterlab as al
from adapterlab import kit
from adapterlab.kit import curve, show, style
from paths import ROOT


@pytest.fixture
def base():
    return kit.load_base()


@pytest.fixture
def notebook(monkeypatch):
    """A notebook's display, recorded: each frame's mime bundle."""
    frames = []
    handle = SimpleNamespace(update=lambda bundle, raw: frames.append(bundle))
    monkeypatch.setattr(curve, "_in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw, display_id: frames.append(bundle) or handle)
    monkeypatch.setattr(curve, "SECONDS_PER_FRAME", 0.0)
    return frames


def test_lora_learns_a_task_from_about_nothing_to_over_ninety_percent(base):
    model, tokenizer = base
    torch.manual_seed(0)
    adapter = al.attach(model, al.LoRA(r=8, alpha=16))
    run = kit.train(model, tokenizer, "sub_neg")
    assert run.evaluations[0][1] < 0.05 and run.exact_match > 0.9
    assert kit.answer(model, tokenizer, "28-57=") == "-29"
    with adapter.disabled():
        assert kit.answer(model, tokenizer, "57-28=") == "29"


def test_a_seed_fixes_the_run(base):
    model, tokenizer = base
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        with al.attach(model, al.LoRA(r=2)):
            losses.append(kit.train(model, tokenizer, steps=3, seed=seed, live=False).losses)
    assert losses[0] == losses[1] != losses[2]


def test_a_gradient_that_was_left_does_not_count(base):
    model, tokenizer = base
    losses = []
    for left in (False, True):
        torch.manual_seed(0)
        with al.attach(model, al.LoRA(r=2)) as adapter:
            for parameter in adapter.parameters():
                parameter.grad = torch.randn_like(parameter) if left else None
            losses.append(kit.train(model, tokenizer, steps=3, live=False).losses)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("variant", [al.DoRA(r=4), al.HRA(r=4)])
def test_other_variants_learn_too(base, variant):
    model, tokenizer = base
    torch.manual_seed(0)
    al.attach(model, variant)
    run = kit.train(model, tokenizer, steps=30, live=False)
    assert run.label == variant.name
    assert run.evaluations[-1][2] < 0.35 * run.evaluations[0][2]  # held-out loss


def test_prose_can_be_learned(base):
    model, tokenizer = base
    torch.manual_seed(0)
    al.attach(model, al.LoRA(r=8))
    run = kit.train(model, tokenizer, "kjv", steps=20, batch_size=8, live=False)
    assert run.exact_match is None and run.evaluations[-1][2] < run.evaluations[0][2] - 0.03


def test_mode_is_restored(base):
    model, tokenizer = base
    al.attach(model, al.LoRA(r=2))
    kit.train(model, tokenizer, steps=1, live=False)
    assert not model.training
    model.train()
    kit.train(model, tokenizer, steps=1, live=False)
    assert model.training


def test_training_nothing_is_refused(base):
    model, tokenizer = base
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        kit.train(model, tokenizer)


def test_zero_steps_are_refused(base):
    with pytest.raises(ValueError, match="steps = 0"):
        kit.train(*base, steps=0)


def test_a_loss_that_is_not_finite_stops_the_run(base):
    model, tokenizer = base
    al.attach(model, al.LoRA(r=2))
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.adapter.lora_B.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 0.*lower learning rate"):
        kit.train(model, tokenizer, steps=2, live=False)
    assert not model.training


def test_the_curve_draws_while_it_trains_and_its_text_never_changes(base, notebook):
    model, tokenizer = base
    al.attach(model, al.LoRA(r=2))
    kit.train(model, tokenizer, steps=4)
    assert len(notebook) >= 4  # the first, one per step, the last
    assert len({frame["text/plain"] for frame in notebook}) == 1
    assert len({frame["text/html"] for frame in notebook}) >= 4
    assert "<progress" in notebook[1]["text/html"] and "<progress" not in notebook[-1]["text/html"]
    assert 'alt="lora on add_rev: the loss goes from' in notebook[-1]["text/html"]


def test_live_false_shows_nothing(base, notebook, capfd):
    model, tokenizer = base
    al.attach(model, al.LoRA(r=2))
    kit.train(model, tokenizer, steps=1, live=False)
    assert not notebook and capfd.readouterr() == ("", "")


def test_without_a_display_it_trains_in_silence():
    code = (
        "import torch, adapterlab as al; from adapterlab import kit; torch.set_num_threads(1)\n"
        "model, tokenizer = kit.load_base(); al.attach(model, al.LoRA(r=2))\n"
        "print(len(kit.train(model, tokenizer, steps=2).losses))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_runs_and_ghosts_share_a_picture(base):
    model, tokenizer = base
    al.attach(model, al.LoRA(r=2))
    run = kit.train(model, tokenizer, steps=2, live=False)
    full = kit.train(model, tokenizer, steps=2, label="full", live=False)
    together = kit.plot([run], ghosts=[full])
    assert together.svg != kit.plot([run]).svg
    assert together.svg == kit.plot([run], ghosts=[full]).svg  # byte for byte


def test_runs_side_by_side_have_a_panel_each(base):
    model, tokenizer = base
    al.attach(model, al.LoRA(r=2))
    run = kit.train(model, tokenizer, steps=2, live=False)
    other = kit.train(model, tokenizer, steps=2, label="other", live=False)
    picture = curve.side_by_side([run, other], run)
    assert 'id="axes_2"' in picture.svg and 'id="axes_3"' not in picture.svg
    assert "lora on add_rev" in picture.alt and "other on add_rev" in picture.alt


# ---- what notebooks show --------------------------------------------------------------------------


def figure():
    fig, axes = style.figure()
    axes.plot([0, 1], [0, 1])
    return fig


def test_a_picture_needs_alt_text():
    with pytest.raises(ValueError, match="alt text"):
        kit.Picture(figure(), "  ")


def test_a_picture_escapes_its_words(tmp_path):
    picture = kit.Picture(figure(), 'a "quoted" <line>', "r < d")
    assert 'alt="a &quot;quoted&quot; &lt;line&gt;"' in picture.html() and "r &lt; d" in picture.html()
    assert repr(picture) == '[picture: a "quoted" <line>]'
    picture.save(tmp_path / "line.svg")
    assert (tmp_path / "line.svg").read_text().startswith("<svg")


def test_a_table_is_markdown_and_text():
    table = kit.Table(["a|b", "n"], [("x", 1), ("long", 22)])
    assert table._repr_markdown_().splitlines() == ["| a\\|b | n |", "| --- | --- |", "| x | 1 |", "| long | 22 |"]
    assert repr(table).splitlines() == ["a|b   n", "x     1", "long  22"]
    with pytest.raises(ValueError, match="3 cells under 2 columns"):
        kit.Table(["a", "b"], [(1, 2, 3)])


def test_source_is_the_packages_own():
    source = show.Source(al.LoRA.effective_weight)
    assert repr(source).startswith("def effective_weight") and "p.lora_B @ p.lora_A" in source._repr_markdown_()


def test_the_readme_code_runs(tmp_path):
    code = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].endswith(" 58") and done.stdout.splitlines()[1] == "85"
    assert (tmp_path / "curve.svg").exists() and (tmp_path / "dora.safetensors").exists()
