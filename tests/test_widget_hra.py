"""HRA's mirrors in a real browser: they cancel at the start, turn by twice the angle, and a third leaves F mirrored."""

import numpy as np
import pytest
from playwright.sync_api import expect

from adapterlab.kit import widgets
from test_widgets_browser import browser, seen, served, settle, visit  # noqa: F401

pytestmark = pytest.mark.browser

LETTERS = """(root) => [...root.querySelector(".al-plane").querySelectorAll("polygon")]
    .map((shape) => [...shape.points].map((p) => [p.x, -p.y])).filter((points) => points.length === 10)"""
ORIGIN = """(root) => {
    const dots = root.querySelector(".al-plane").querySelectorAll(":scope > g > circle");
    const dot = dots[dots.length - 1];
    return [+dot.getAttribute("cx"), -dot.getAttribute("cy")];
}"""


def mirrors():
    return widgets.HraMirrors([[0.4, -0.05], [0.2, 0.3], [-0.3, -0.1]])


@pytest.fixture
def opened(visit):  # noqa: F811
    page = visit(mirrors())
    return page, page.locator(".al-fig")


def letters(root):
    """-> F before, and after all mirrors: corners about the origin."""
    _, before, after = np.array(root.evaluate(LETTERS)) - np.array(root.evaluate(ORIGIN))
    return before, after


def turned(shape, degrees):
    a = np.deg2rad(degrees)
    return shape @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])


def area(shape):
    """Positive against the clock: a reflection changes the sign."""
    x, y = shape.T
    return (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2


def turn_mirror(page, root, name, *keys):
    root.get_by_role("slider", name=name).focus()
    for key in keys:
        page.keyboard.press(key)
    settle(page)


def drag(page, root, name, degrees):
    """Take a mirror by its handle and turn it by so many degrees about the origin."""
    box = root.get_by_role("slider", name=name).locator(".al-knob").bounding_box()
    start = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
    plane = root.locator(".al-plane").first.bounding_box()
    middle = np.array([plane["x"] + plane["width"] / 2, plane["y"] + plane["height"] / 2])
    path = [middle + turned(start - middle, -degrees * share) for share in (0.25, 0.5, 0.75, 1)]  # the page's y is down
    page.mouse.move(*start)
    page.mouse.down()
    for point in path:
        page.mouse.move(*point)
    page.mouse.up()
    settle(page)
    return start, path


def lengths_and_angles(root):
    rows = [line.split("\t") for line in root.locator("table").inner_text().splitlines()[1:]]
    return [[float(text.rstrip("°")) for text in row[1:]] for row in rows]


def test_at_the_start_the_mirrors_cancel(opened):
    _, root = opened
    before, after = letters(root)
    assert np.array_equal(before, after)
    assert "Nothing moves" in root.locator(".al-say").inner_text()
    base, hra, lora = lengths_and_angles(root)
    assert base == hra == lora


@pytest.mark.parametrize("name, sense", [("mirror H1", 1), ("mirror H0", -1)])
def test_the_mouse_turns_by_twice_the_angle(opened, name, sense):
    page, root = opened
    for angle in (-60, -20, 10, 30):
        drag(page, root, name, angle)
        before, after = letters(root)
        assert np.allclose(after, turned(before, 2 * sense * angle), atol=1e-3)
        assert area(after) == pytest.approx(area(before))
        root.get_by_role("button", name="Reset").click()
        settle(page)


def test_keys_turn_and_the_order_decides_which_way(opened):
    page, root = opened
    turn_mirror(page, root, "mirror H1", "Shift+ArrowLeft", "Shift+ArrowUp", "ArrowRight", "ArrowDown")
    before, after = letters(root)
    assert np.allclose(after, turned(before, 2 * (10 + 10 - 2 - 2)), atol=1e-3)
    assert "turns the F by 32° against the clock" in root.locator(".al-say").inner_text()
    root.get_by_role("radio").nth(1).check(force=True)
    settle(page)
    assert np.allclose(letters(root)[1], turned(before, -32), atol=1e-3)
    assert "turns the F by 32° with the clock" in root.locator(".al-say").inner_text()


def test_a_right_angle_is_half_a_turn_in_either_order(opened):
    page, root = opened
    turn_mirror(page, root, "mirror H1", *["Shift+ArrowLeft"] * 9)
    for order in (0, 1):
        root.get_by_role("radio").nth(order).check(force=True)
        settle(page)
        before, after = letters(root)
        assert np.allclose(after, -before, atol=1e-3)


def test_a_third_mirror_leaves_it_mirrored_wherever_they_stand(opened):
    page, root = opened
    expect(root.get_by_role("slider", name="mirror H2")).to_be_hidden()
    root.get_by_role("switch").check()
    settle(page)
    for name in ("mirror H2", "mirror H1", "mirror H0"):
        turn_mirror(page, root, name, "Shift+ArrowRight", "ArrowRight", "ArrowRight")
        before, after = letters(root)
        assert area(after) == pytest.approx(-area(before))


def test_rows_keep_lengths_and_angles_and_loras_do_not(opened):
    page, root = opened
    turn_mirror(page, root, "mirror H1", "Shift+ArrowLeft", "Shift+ArrowLeft")
    base, hra, lora = lengths_and_angles(root)
    assert base == hra
    assert max(abs(a - b) for a, b in zip(base[:3], lora)) > 0.1


def test_a_finger_drags_and_reset_brings_it_back(visit):  # noqa: F811
    page = visit(mirrors(), view="phone")
    root = page.locator(".al-fig")
    first = seen(root)
    start, path = drag(page, root, "mirror H1", 30)  # only to know the way
    root.get_by_role("button", name="Reset").click()
    settle(page)
    assert seen(root) == first
    touch = page.context.new_cdp_session(page)
    for kind, points in [("touchStart", [start]), *(("touchMove", [point]) for point in path), ("touchEnd", [])]:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})
    settle(page)
    before, after = letters(root)
    assert np.allclose(after, turned(before, 60), atol=1e-3)
    root.get_by_role("button", name="Reset").click()
    settle(page)
    assert seen(root) == first


@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_it_stays_on_its_card(visit, view):  # noqa: F811
    page = visit(mirrors(), view=view)
    root = page.locator(".al-fig")
    root.get_by_role("switch").check()
    drag(page, root, "mirror H1", 45)
    card = root.bounding_box()
    for part in root.locator("text, td, .al-knob, p").all():
        box = part.bounding_box()
        assert box is None or (card["x"] <= box["x"] and box["x"] + box["width"] <= card["x"] + card["width"])


def test_the_first_frame_stands_without_scripts(visit):  # noqa: F811
    made = mirrors()
    still = f'[data-al-still="{made.still_id}"]'
    page = visit(made, scripts=False)
    expect(page.locator(still)).to_be_visible()
    assert "mirror" in page.locator(f"{still} img").get_attribute("alt")
    expect(visit(made).locator(still)).to_be_hidden()


def test_rows_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"three rows of W in two input features are \(3, 2\)"):
        widgets.HraMirrors([[1.0, 0.0]])
