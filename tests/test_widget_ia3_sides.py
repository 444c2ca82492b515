"""IA3-FF's sides in a real browser: the output gate stretches, the input gate turns, and the block's output is one."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from playwright.sync_api import expect

import adapterlab as al
from adapterlab.kit import widgets
from test_widgets_browser import browser, seen, served, settle, visit  # noqa: F401

pytestmark = pytest.mark.browser

UP, GATE, DOWN = [[0.9, -0.3], [0.2, 0.7]], [[0.5, 0.4], [0.8, 0.3]], [[0.7, 0.4], [-0.2, 0.6], [0.5, -0.7]]
GATES = (1.5, 0.4)


def sides():
    return widgets.Ia3Sides(UP, GATE, DOWN)


@pytest.fixture
def opened(visit):  # noqa: F811
    page = visit(sides())
    return page, page.locator(".al-fig")


def turn(page, root, name, keys):
    root.get_by_role("slider", name=name).focus()
    for key in keys:
        page.keyboard.press(key)
    settle(page)


def to_gates(page, root, side):
    place = {"output": "on a row of up_proj", "input": "on an axis of down_proj"}[side]
    turn(page, root, f"gate 1, {place}", ["Shift+ArrowRight"] * 2)
    turn(page, root, f"gate 2, {place}", ["Shift+ArrowDown"] * 2 + ["ArrowLeft"] * 2)


def told(root):
    return json.loads(root.get_attribute("data-seen"))


def by_torch(side):
    """-> up', down' and the block's output, by the package's own adapters on the numbers that the page was given."""
    data = sides().data
    layers = {}
    for name in ("up", "gate", "down"):
        weight = torch.tensor(data[name], dtype=torch.float64)
        layers[name] = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
        layers[name].weight.data = weight
    adapted = layers["up" if side == "output" else "down"]
    al.attach(adapted, al.IA3() if side == "output" else al.IA3FF(), dtype=torch.float64)
    with torch.no_grad():
        adapted.adapter.lora_g.copy_(torch.tensor(GATES, dtype=torch.float64))
        x = torch.tensor(data["x"], dtype=torch.float64)
        y = layers["down"](F.silu(layers["gate"](x)) * layers["up"](x))
        weights = {name: al.effective_weight(one)[0] if one is adapted else one.weight for name, one in layers.items()}
    return weights["up"].detach().numpy(), weights["down"].detach().numpy(), y.numpy()


@pytest.mark.parametrize("side", ["output", "input"])
def test_the_page_computes_what_the_package_does(opened, side):
    page, root = opened
    root.get_by_role("radio").nth(["output", "input"].index(side)).check(force=True)
    settle(page)
    to_gates(page, root, side)
    found = told(root)
    up, down, y = by_torch(side)
    assert np.allclose(found["gates"], GATES) and np.allclose(found["up"], up) and np.allclose(found["down"], down)
    assert np.allclose(found["here"], y, rtol=0, atol=1e-12)


def test_carried_over_the_output_stays(opened):
    page, root = opened
    to_gates(page, root, "input")
    before = told(root)
    assert not np.allclose(before["down"], sides().data["down"]) and np.allclose(before["up"], sides().data["up"])
    root.get_by_role("radio").nth(0).check(force=True)
    settle(page)
    after = told(root)
    assert np.allclose(after["down"], sides().data["down"]) and not np.allclose(after["up"], before["up"])
    assert np.allclose(after["here"], before["here"], rtol=0, atol=1e-12)
    assert "the difference is 0" in root.locator(".al-say").inner_text()


def test_the_output_gate_stretches_and_the_input_gate_turns(opened):
    page, root = opened

    def turned():
        rows = [line.split("\t") for line in root.locator("table").inner_text().splitlines()[1:]]
        return [row[1] for row in rows], [int(row[2].rstrip("°")) for row in rows]

    to_gates(page, root, "input")
    lengths, angles = turned()
    assert angles[:2] == [0, 0] and min(angles[2:]) > 5 and lengths[:2] == ["× 1.00"] * 2
    root.get_by_role("radio").nth(0).check(force=True)
    settle(page)
    lengths, angles = turned()
    assert angles == [0] * 5 and lengths[:2] == ["× 1.50", "× 0.40"]


def test_the_mouse_drags_and_reset_brings_it_back(opened):
    page, root = opened
    first = seen(root)
    box = root.get_by_role("slider", name="gate 1, on an axis").locator(".al-knob").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=4)
    page.mouse.up()
    settle(page)
    assert told(root)["gates"][0] > 1.2 and told(root)["gates"][1] == 1
    root.get_by_role("button", name="Reset").click()
    settle(page)
    assert seen(root) == first


@pytest.mark.parametrize("view", ["light", "dark", "phone"])
@pytest.mark.parametrize("side", [0, 1])
def test_it_stays_on_its_card(visit, view, side):  # noqa: F811
    page = visit(sides(), view=view)
    root = page.locator(".al-fig")
    root.get_by_role("radio").nth(side).check(force=True)
    for place in (("on a row of up_proj",), ("on an axis of down_proj",))[side]:
        for k in (1, 2):
            turn(page, root, f"gate {k}, {place}", ["Shift+ArrowRight"] * 4)
    card = root.bounding_box()
    for part in root.locator("text, td, .al-knob, p").all():
        box = part.bounding_box()
        assert box is None or (card["x"] <= box["x"] and box["x"] + box["width"] <= card["x"] + card["width"])


def test_the_first_frame_stands_without_scripts(visit):  # noqa: F811
    made = sides()
    still = f'[data-al-still="{made.still_id}"]'
    page = visit(made, scripts=False)
    expect(page.locator(still)).to_be_visible()
    assert "rows turn" in page.locator(f"{still} img").get_attribute("alt")
    expect(visit(made).locator(still)).to_be_hidden()


def test_matrices_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"down has shape \(2, 2\): it must be \(3, 2\)"):
        widgets.Ia3Sides(UP, GATE, DOWN[:2])
