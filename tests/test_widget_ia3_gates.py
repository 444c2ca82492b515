"""IA3's gates in a real browser: the page's Adam is torch's, in float32 and in bfloat16, and rounds where it should."""

import json

import numpy as np
import pytest
import torch
from playwright.sync_api import expect

from adapterlab.kit import widgets
from adapterlab.kit.widgets.ia3_gates import RATES, WANTED, run
from test_widgets_browser import browser, seen, served, settle, visit  # noqa: F401

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(visit):  # noqa: F811
    page = visit(widgets.Ia3Gates())
    return page, page.locator(".al-fig")


def set_to(page, root, rate, step):
    """By the keyboard, as a reader would."""
    for name, value in (("learning rate", RATES.index(rate)), ("step", step)):
        slider = root.get_by_role("slider", name=name)
        slider.focus()
        page.keyboard.press("Home")
        for _ in range(value):
            page.keyboard.press("ArrowRight")
    settle(page)


def gates(root):
    return {name: np.array(values) for name, values in json.loads(root.get_attribute("data-gates")).items()}


@pytest.mark.parametrize("rate, step", [(0.001, 20), (0.003, 1), (0.003, 25), (0.01, 40)])
def test_the_pages_adam_is_torchs(opened, rate, step):
    page, root = opened
    set_to(page, root, rate, step)
    found = gates(root)
    assert np.allclose(found["float32"], run(rate, step, torch.float32), rtol=0, atol=2e-6)
    assert np.array_equal(found["bfloat16"], run(rate, step, torch.bfloat16))


def test_dead_then_one_way_then_alive(opened):
    page, root = opened
    up, down = np.array(WANTED) > 0, np.array(WANTED) < 0
    for rate, risen, sunk in ((0.001, 0, 0), (0.003, 0, 8), (0.01, 8, 8)):
        set_to(page, root, rate, 12)
        found = gates(root)
        assert (found["float32"][up] > 1).all() and (found["float32"][down] < 1).all()
        assert ((found["bfloat16"] > 1).sum(), (found["bfloat16"] < 1).sum()) == (risen, sunk)
        told = root.locator(".al-say").inner_text()
        assert f"bfloat16: {risen} risen, {sunk} sunk, {16 - risen - sunk} still exactly 1" in told
    assert "leaves 1 in both directions" in told


def test_the_rounding_is_bfloat16s():
    """The thresholds that the page draws: the grey strip from 1 - 2^-9 to 1 + 2^-8."""
    one = torch.ones((), dtype=torch.bfloat16)
    for step, moves in ((2**-8, False), (2**-8 * 1.01, True), (-(2**-9), False), (-(2**-9) * 1.01, True)):
        assert ((1 + torch.tensor(step)).to(torch.bfloat16) != one) == moves


def test_a_finger_moves_the_step_and_reset_brings_it_back(visit):  # noqa: F811
    page = visit(widgets.Ia3Gates(), view="phone")
    root = page.locator(".al-fig")
    first = seen(root)
    box = root.get_by_role("slider", name="step").bounding_box()
    page.touchscreen.tap(box["x"] + 0.6 * box["width"], box["y"] + box["height"] / 2)
    settle(page)
    assert (gates(root)["bfloat16"] < 1).sum() == 8 and (gates(root)["bfloat16"] > 1).sum() == 0
    root.get_by_role("button", name="Reset").click()
    settle(page)
    assert seen(root) == first


@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_it_stays_on_its_card(visit, view):  # noqa: F811
    page = visit(widgets.Ia3Gates(), view=view)
    root = page.locator(".al-fig")
    set_to(page, root, 0.015, 40)
    card = root.bounding_box()
    for part in root.locator("text, p, output").all():
        box = part.bounding_box()
        assert box is None or (card["x"] <= box["x"] and box["x"] + box["width"] <= card["x"] + card["width"])


def test_the_first_frame_stands_without_scripts(visit):  # noqa: F811
    made = widgets.Ia3Gates()
    still = f'[data-al-still="{made.still_id}"]'
    page = visit(made, scripts=False)
    expect(page.locator(still)).to_be_visible()
    assert "still exactly 1" in page.locator(f"{still} img").get_attribute("alt")
    expect(visit(made).locator(still)).to_be_hidden()
