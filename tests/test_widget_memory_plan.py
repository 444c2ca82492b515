"""The memory figure: its record counted again, and in a real browser what it adds up is what the planner does."""

import json
import random
import re

import pytest
from playwright.sync_api import expect

from adapterlab.kit import plans, widgets
from adapterlab.kit.widgets import memory_plan
from adapterlab.planner import Setup, models, plan
from adapterlab.planner.command import made
from test_widgets_browser import browser, seen, served, settle, visit  # noqa: F401


@pytest.fixture
def opened(visit):  # noqa: F811
    page = visit(widgets.MemoryPlan())
    return page, page.locator(".al-fig")


def to(page, root, **state):
    names = {"gpus": ("GPUs", plans.GPUS), "tokens": ("tokens of a row", memory_plan.TOKENS)}
    labels = {"ddp": "copies (DDP)", "fsdp2": "shares (FSDP2)", "bf16": "bf16", "8bit": "8 bits", "4bit": "4 bits"}
    groups = {"model": "the base", "base": "its weights in", "engine": "each GPU holds"}
    for key, value in state.items():
        if key in names:
            label, stops = names[key]
            root.get_by_role("slider", name=label).fill(str(stops.index(value)))
        elif key in groups:
            label = (labels | memory_plan.MODELS)[value]
            root.get_by_role("radiogroup", name=groups[key]).get_by_label(label, exact=True).check(force=True)
        else:
            root.get_by_role("switch").set_checked(value, force=True)
    settle(page)


def found(root):
    return json.loads(root.get_attribute("data-found"))


STATES = [
    dict(model="llama-3.2-1b", gpus=1, engine="ddp", base="bf16", tokens=512, checkpointing=False),
    dict(model="llama-3.1-70b", gpus=64, engine="fsdp2", base="bf16", tokens=16_384, checkpointing=True),
    dict(model="llama-3.1-8b", gpus=4, engine="ddp", base="8bit", tokens=4096, checkpointing=False),
    dict(model="llama-3.1-70b", gpus=2, engine="fsdp2", base="4bit", tokens=1024, checkpointing=True),
    dict(model="llama-3.1-8b", gpus=1, engine="fsdp2", base="bf16", tokens=2048, checkpointing=False),
]


@pytest.mark.browser
def test_the_page_adds_up_what_the_planner_does(opened):
    page, root = opened
    for k, state in enumerate(STATES):
        to(page, root, **state)
        shown = found(root)
        quantize = None if state["base"] == "bf16" else state["base"]
        setup = Setup(
            processes=state["gpus"],
            engine="ddp" if quantize else state["engine"],
            quantize=quantize,
            tokens=state["tokens"],
            checkpointing=state["checkpointing"],
        )
        assert set(shown) == set(plans.NAMES)
        for name in random.Random(k).sample(plans.NAMES, 2):
            one = plan(models.config(state["model"]), made(name, plans.R), setup)
            trained = one.adapter + one.gradients + one.optimizer
            expected = [one.weights, trained, one.activations, one.transient]
            assert list(shown[name].values()) == pytest.approx(expected, rel=1e-9), (name, state)
        for name in plans.NAMES:
            assert shown[name] == pytest.approx(plans.parts(name=name, **state), rel=1e-9)


@pytest.mark.browser
def test_the_sentence_names_the_card_and_says_what_is_not_shared(opened):
    page, root = opened
    say = root.locator(".al-say")
    to(page, root, **STATES[1] | {"tokens": 512})
    low, high = (f(sum(v.values()) for v in found(root).values()) / 1e9 for f in (min, max))
    told = re.search(r"([\d.]+)\sGB to ([\d.]+)\sGB", say.inner_text())
    assert [float(n) for n in told.groups()] == pytest.approx([low, high], rel=0.01)
    assert "Every variant fits into a card of 24\u00a0GB" in say.inner_text() and high < 23
    to(page, root, model="llama-3.1-70b", gpus=8, engine="fsdp2", base="4bit")
    assert "copied to every GPU, not shared out" in say.inner_text()
    to(page, root, base="bf16", engine="ddp")
    assert "fits into none of these cards" in say.inner_text() and "the frozen weights" in say.inner_text()


@pytest.mark.browser
def test_more_gpus_help_what_is_shared_and_not_what_is_copied(opened):
    page, root = opened
    to(page, root, model="llama-3.1-8b", base="bf16", engine="fsdp2", gpus=2)
    two = found(root)["lora"]
    to(page, root, gpus=64)
    many = found(root)["lora"]
    assert many["weights"] < two["weights"] / 25 and many["activations"] == two["activations"]
    to(page, root, engine="ddp")
    copied = found(root)["lora"]
    to(page, root, gpus=2)
    assert found(root)["lora"] == copied


@pytest.mark.browser
def test_keys_move_it_and_reset_brings_it_back(opened):
    page, root = opened
    first, before = seen(root), found(root)
    root.get_by_role("slider", name="tokens").focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    assert found(root)["dora"]["activations"] > 1.5 * before["dora"]["activations"]
    root.get_by_role("button", name="Reset").click()
    settle(page)
    assert seen(root) == first and found(root) == before


@pytest.mark.browser
@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_it_stays_on_its_card(visit, view):  # noqa: F811
    page = visit(widgets.MemoryPlan(), view=view)
    root = page.locator(".al-fig")
    for state in STATES[:2]:
        to(page, root, **state)
        card = root.bounding_box()
        for part in root.locator("text, p, .al-option span, rect").all():
            box = part.bounding_box()
            assert box is None or (card["x"] <= box["x"] and box["x"] + box["width"] <= card["x"] + card["width"])
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@pytest.mark.browser
def test_the_first_frame_stands_without_scripts(visit):  # noqa: F811
    made_here = widgets.MemoryPlan()
    still = f'[data-al-still="{made_here.still_id}"]'
    page = visit(made_here, scripts=False)
    expect(page.locator(still)).to_be_visible()
    one = sum(made_here.parts()["pissa"].values()) / 1e9
    assert f"{one:.3g} GB" in page.locator(f"{still} img").get_attribute("alt")
    expect(visit(made_here).locator(still)).to_be_hidden()


def test_a_handful_of_the_record_counted_again_is_the_same():
    record = plans.recorded()
    assert re.fullmatch(r"python -m adapterlab.kit.plans --json \S*data/plans.json", record["command"])
    assert re.fullmatch(r"[0-9a-f]{40}\+?", record["commit"]) and record["versions"]["torch"] and record["machine"]
    assert (record["r"], record["gpus"]) == (plans.R, plans.GPUS) and set(record["sizes"]) == set(models.SIZES)
    rows = [(model, name) for model in models.SIZES for name in plans.NAMES]
    assert all(name in record["sizes"][model]["variants"] for model, name in rows)
    for model, name in random.Random(6).sample(rows, 4):
        assert plans.sizes(model, name) == record["sizes"][model]["variants"][name], (model, name)


def test_a_start_between_the_stops_is_refused():
    with pytest.raises(ValueError, match=r"gpus = 3: choose one of \[1, 2"):
        widgets.MemoryPlan(gpus=3)
