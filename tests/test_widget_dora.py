"""DoRA's figure: three outputs in one place at t=0, apart after a step, and each told as Python computes it."""

import math
import re

import pytest
from playwright.sync_api import expect

from adapterlab.kit import widgets
from adapterlab.kit.widgets import dora_row
from test_widgets_browser import browser, served, settle, visit  # noqa: F401  (fixtures, by their names)

pytestmark = pytest.mark.browser

KINDS = ("right", "bias", "dim0")
START = dora_row.SETTING["W"][0]
SIZE = math.hypot(*START)


@pytest.fixture
def page(visit):  # noqa: F811
    return visit(widgets.DoraRow())


def told(page) -> dict[str, list[float]]:
    settle(page)
    texts = {kind: page.locator(f"[data-y={kind}]").inner_text() for kind in KINDS}
    return {kind: [float(n) for n in re.findall(r"-?[\d.]+", text.replace("−", "-"))] for kind, text in texts.items()}


def off(page) -> list[str]:
    return [page.locator(f"[data-off={kind}]").inner_text() for kind in KINDS[1:]]


def handle(page, number):
    return page.locator(".al-handle").nth(number)


def press(page, number, key, times=1):
    handle(page, number).focus()
    for _ in range(times):
        page.keyboard.press(key)


def close(found, expected):
    return all(abs(a - b) < 0.0051 for kind in KINDS for a, b in zip(found[kind], expected[kind], strict=True))


def test_at_the_start_three_formulas_give_one_output(page):
    found = told(page)
    assert found["right"] == found["bias"] == found["dim0"] and off(page) == ["the same", "the same"]
    assert close(found, dora_row.outputs(dora_row.SETTING, START, SIZE))
    expect(page.locator(".al-say")).to_contain_text("one output")


def test_one_key_parts_them_and_reset_brings_them_back(page):
    press(page, 0, "ArrowRight")
    found = told(page)
    assert close(found, dora_row.outputs(dora_row.SETTING, (START[0] + 0.05, START[1]), SIZE))
    assert all(re.fullmatch(r"off by 0\.0[1-9]", text) for text in off(page))
    page.get_by_role("button", name="Reset").click()
    assert told(page)["bias"] == told(page)["right"] and off(page) == ["the same", "the same"]


def test_the_mouse_drags_the_tip(page):
    box = handle(page, 0).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 50, steps=4)
    page.mouse.up()
    found = told(page)
    assert found["right"] != found["bias"] != found["dim0"]
    assert found["bias"][1] == found["right"][1] != found["dim0"][1]  # along dim 0 the other row's output moves


def test_size_comes_from_m_alone(page):
    before = told(page)["right"]
    press(page, 1, "ArrowRight", 3)
    m = SIZE + 0.15
    assert close(told(page), dora_row.outputs(dora_row.SETTING, START, m))
    assert told(page)["right"] != before
    page.get_by_role("button", name="Reset").click()
    settle(page)
    press(page, 0, "ArrowRight", 9)  # by (9, 8) steps the row grows and keeps its direction
    press(page, 0, "ArrowUp", 8)
    assert told(page)["right"] == before != told(page)["bias"]
    expect(page.locator(".al-say")).to_contain_text("depends on m alone")


def test_without_a_bias_the_first_bug_hides(page):
    press(page, 0, "ArrowRight", 4)
    page.get_by_role("switch", name="layer has a bias").click()
    assert told(page)["bias"] == told(page)["right"] != told(page)["dim0"]
    expect(page.locator(".al-say")).to_contain_text("Without a bias")
    page.get_by_role("switch", name="bug: dim 0").click()
    assert told(page)["dim0"] == []


def test_the_row_never_loses_its_direction(page):
    press(page, 0, "Shift+ArrowLeft", 6)
    press(page, 0, "Shift+ArrowDown", 6)
    assert all(math.isfinite(value) for values in told(page).values() for value in values)


def test_touch_drags_it_on_a_phone(visit):  # noqa: F811
    page = visit(widgets.DoraRow(), view="phone")
    box = handle(page, 0).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)
    for kind, places in (("Start", [(0, 0)]), ("Move", [(-20, 20)]), ("Move", [(-40, 30)]), ("End", [])):
        points = [{"x": x + dx, "y": y + dy} for dx, dy in places]
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    assert told(page)["right"] != told(page)["bias"]
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_nothing_leaves_the_card(visit, view):  # noqa: F811
    page = visit(widgets.DoraRow(), view=view)
    for key in ("Shift+ArrowRight", "Shift+ArrowUp", "Shift+ArrowLeft", "Shift+ArrowDown"):
        press(page, 0, key, 9)
        settle(page)
        outside = page.evaluate(
            """() => {
                const card = document.querySelector(".al-fig").getBoundingClientRect();
                return [...document.querySelectorAll(".al-fig text, .al-fig p, .al-fig span, .al-handle .al-ring")]
                  .map((part) => [part.textContent, part.getBoundingClientRect()])
                  .filter(([, box]) => box.width && (box.left < card.left - 1 || box.right > card.right + 1))
                  .map(([text]) => text);
            }"""
        )
        assert not outside


def test_the_still_stands_without_scripts_and_goes_with_them(visit):  # noqa: F811
    made = widgets.DoraRow()
    still = f'[data-al-still="{made.still_id}"]'
    without = visit(made, scripts=False)
    expect(without.locator(still)).to_be_visible()
    assert "circle" in without.locator("img").get_attribute("alt")
    expect(visit(made).locator(still)).to_be_hidden()
