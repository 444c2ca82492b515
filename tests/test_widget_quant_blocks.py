"""The quantisation figure: the codes that the page shows are those that bitsandbytes stores."""

import logging

import numpy as np
import pytest
import torch
from bitsandbytes import functional
from playwright.sync_api import expect

from adapterlab import kit
from adapterlab.kit import widgets
from adapterlab.kit.widgets import quant_blocks
from test_widgets_browser import served, settle, visit  # noqa: F401  (fixtures, by their names)

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
browser_test = pytest.mark.browser
KINDS = [("nf4", 32), ("nf4", 64), ("nf4", 128), ("fp4", 32), ("fp4", 64), ("fp4", 128), ("int8", 128)]
each_kind = pytest.mark.parametrize("kind, size", KINDS)


def row():
    model, _ = kit.load_base()
    return model.model.layers[1].self_attn.q_proj.weight[5].detach()


def by_bitsandbytes(weights, kind, size):
    """-> codes, scales, weights given back."""
    if kind == "int8":
        codes, scales, _ = functional.int8_vectorwise_quant(weights.half()[None])
        return codes[0], scales, codes[0] * (scales / 127)
    packed, state = functional.quantize_4bit(weights, blocksize=size, quant_type=kind)
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten()
    return codes, state.absmax, functional.dequantize_4bit(packed, state)


def agrees(found, weights, kind, size):
    for ours, theirs in zip(found, by_bitsandbytes(weights, kind, size), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy().ravel(), rtol=1e-6)


# ---- in Python ------------------------------------------------------------------------------------


@each_kind
def test_python_stores_what_bitsandbytes_stores(kind, size):
    for scale in (0.01, 0.05, 0.3):
        weights = (scale * torch.randn(4096, generator=torch.Generator().manual_seed(0))).half().float()
        weights = weights.view(-1, 128) if kind == "int8" else weights[None]
        for one in weights:
            agrees(quant_blocks.quantised(one.numpy(), kind, size), one, kind, size)


@pytest.mark.parametrize("kind", quant_blocks.CODES)
def test_the_codes_are_the_librarys(kind):
    codes = functional.get_4bit_type(kind, device="cpu")
    assert torch.equal(torch.tensor(quant_blocks.CODES[kind]), codes)


def test_a_row_of_another_length_or_beyond_reach_is_refused():
    for weights in (torch.zeros(64), torch.full((128,), 0.9)):
        with pytest.raises(ValueError, match="a row is 128 weights within 0.75"):
            widgets.QuantBlocks(weights.tolist(), "W")


# ---- in the page ----------------------------------------------------------------------------------


@pytest.fixture
def opened(visit):  # noqa: F811
    page = visit(widgets.QuantBlocks(row().tolist(), "q_proj"))
    return page, page.locator(".al-fig")


def shown(root):
    """-> codes, scales, weights given back, as the page computes them."""
    settle(root.page)
    return [np.array(root.get_attribute(f"data-{name}").split(","), float) for name in ("codes", "scales", "back")]


def choose(root, kind, size):
    root.get_by_role("radiogroup", name="stored as").get_by_label(kind).check(force=True)
    root.get_by_role("radiogroup", name="weights in a block").get_by_label(str(size)).check(force=True)


def press(root, *keys):
    root.locator(".al-handle").focus()
    for key in keys:
        root.page.keyboard.press(key)


def moved(weights, at, value):
    weights = weights.clone()
    weights[at] = round(value * 1024) / 1024
    return weights


@browser_test
def test_the_page_stores_what_bitsandbytes_stores(opened):
    _, root = opened
    weights = row()
    far = moved(weights, 43, weights[40].item() + 10 / 32 + 3 / 32)  # a key adds a 32nd and keeps the height
    for now, keys in ((weights, ()), (far, ("ArrowRight",) * 3 + ("Shift+ArrowUp",) * 2 + ("ArrowUp",) * 3)):
        press(root, *keys)
        for kind, size in KINDS:
            choose(root, kind, size)
            agrees(shown(root), now, kind, size)


@browser_test
def test_an_outlier_makes_its_block_coarse_and_no_other(opened):
    _, root = opened
    weights = row().numpy()

    def off():
        error = np.square(shown(root)[2] - weights)
        error[40] = 0
        return np.sqrt(error.reshape(2, 64).sum(1))

    before = off()
    press(root, *["Shift+ArrowUp"] * 4)
    after = off()
    assert after[0] > 2 * before[0] and after[1] == before[1]
    assert "alone sets the scale" in root.locator(".al-say").inner_text()
    choose(root, "int8", 64)
    assert off().max() < before.min() / 2  # one scale for the row, and still finer than 16 levels
    before_blocks = off()
    choose(root, "int8", 32)
    assert np.array_equal(off(), before_blocks)
    root.get_by_role("button", name="Reset").click()
    assert np.array_equal(off(), before)


@browser_test
@pytest.mark.parametrize("view", ["light", "phone"])
def test_mouse_and_finger_drag_a_weight(visit, view):  # noqa: F811
    page = visit(widgets.QuantBlocks(row().tolist(), "q_proj"), view=view)
    root = page.locator(".al-fig")
    before = shown(root)
    box = root.locator(".al-knob").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    path = [(x, y - step) for step in (20, 50, 90)]
    if view == "phone":
        touch = page.context.new_cdp_session(page)
        for kind, points in [("touchStart", [(x, y)]), *(("touchMove", [p]) for p in path), ("touchEnd", [])]:
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": a, "y": b} for a, b in points]})
    else:
        page.mouse.move(x, y)
        page.mouse.down()
        for point in path:
            page.mouse.move(*point)
        page.mouse.up()
    after = shown(root)
    assert after[1][0] > 1.5 * before[1][0] and after[1][1] == before[1][1]
    root.get_by_role("button", name="Reset").click()
    assert all(np.array_equal(a, b) for a, b in zip(shown(root), before))


@browser_test
@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_it_stays_on_its_card(visit, view):  # noqa: F811
    page = visit(widgets.QuantBlocks(row().tolist(), "q_proj"), view=view)
    root = page.locator(".al-fig")
    for kind, size in (("nf4", 32), ("int8", 32)):
        choose(root, kind, size)
        press(root, *["Shift+ArrowUp"] * 9)  # to the reach
        settle(page)
        card = root.bounding_box()
        for part in root.locator("text, td, th, p, .al-knob, span").all():
            box = part.bounding_box()
            assert box is None or (card["x"] <= box["x"] and box["x"] + box["width"] <= card["x"] + card["width"])
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@browser_test
def test_the_first_frame_stands_without_scripts(visit):  # noqa: F811
    made = widgets.QuantBlocks(row().tolist(), "q_proj")
    still = f'[data-al-still="{made.still_id}"]'
    page = visit(made, scripts=False)
    expect(page.locator(still)).to_be_visible()
    assert "nf4 levels" in page.locator(f"{still} img").get_attribute("alt")
    expect(visit(made).locator(still)).to_be_hidden()
