"""DeLoRA's figure: the page trains what the package trains, and the cliff is where the chapter says it is."""

import math
from itertools import product

import pytest
from playwright.sync_api import expect

import adapterlab as al
from adapterlab.kit import widgets
from adapterlab.kit.widgets import delora_cliff
from adapterlab.kit.widgets.figure import bundle
from test_widgets_browser import served, settle, visit  # noqa: F401  (fixtures, by their names)

SETTING = delora_cliff.SETTING
browser_test = pytest.mark.browser


def variant(start, r=8, lambda0=15):
    return al.LoRA(r, alpha=2 * r) if start == "lora" else al.DeLoRA(r, lambda0=lambda0, start=start)


def first(start, rate, r=8, lambda0=15, d_in=128):
    return delora_cliff.train(SETTING, variant(start, r, lambda0), d_in, rate, 1)[1]


# ---- what it teaches, in Python ---------------------------------------------------------------------


@pytest.mark.parametrize("r, lambda0, d_in", [(2, 15, 128), (8, 15, 128), (8, 4, 1024)])
def test_from_zero_the_first_step_is_lambda_over_root_r_d_at_any_rate(r, lambda0, d_in):
    cliff = lambda0 / math.sqrt(r * d_in)
    for rate in (3.2e-5, 1e-3, 1e-2):
        assert first("zero", rate, r, lambda0, d_in) == pytest.approx(cliff, rel=0.1)


def test_below_the_clamp_it_follows_the_rate():
    edge = 1e-4 / math.sqrt(SETTING["d_out"])
    assert first("zero", edge / 10) == pytest.approx(first("zero", edge) / 10, rel=0.01)
    assert first("zero", 10 * edge) == pytest.approx(first("zero", edge), rel=0.01)


def test_the_copy_and_lora_follow_the_rate_and_not_the_width():
    for start in ("copy", "lora"):
        assert first(start, 1e-3) == pytest.approx(10 * first(start, 1e-4), rel=0.05)
        assert first(start, 1e-3, d_in=1024) == pytest.approx(first(start, 1e-3), rel=0.1)
    assert first("zero", 1e-3) > 2.5 * first("zero", 1e-3, d_in=1024)


@pytest.mark.parametrize("name, value", [("lambda0", 2), ("r", 7), ("d_in", 129), ("rate", 2e-3)])
def test_it_starts_at_a_stop_of_its_controls(name, value):
    with pytest.raises(ValueError, match=f"{value} is none of"):
        widgets.DeloraCliff(**{name: value})


# ---- in the page ------------------------------------------------------------------------------------


@browser_test
def test_the_page_trains_what_the_package_trains(visit):  # noqa: F811
    page = visit(widgets.DeloraCliff())
    code = bundle("delora_cliff.js") + "\nexport { makeTask, trainDelora, firstStep };"
    cases = [
        (start, lambda0, r, d_in, rate)
        for start, (lambda0, r, d_in), rate in product(
            ("zero", "copy", "lora"), [(15, 8, 128), (4, 2, 128), (1, 2, 1024)], (1e-5, 5.6e-3, 0.1)
        )
    ]
    found = page.evaluate(
        """async ([code, setting, cases]) => {
            const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
            const { makeTask, trainDelora, firstStep } = await import(url);
            return cases.map(([start, lambda, r, d_in, rate]) => {
              const task = makeTask(setting, d_in, r);
              const [[, one]] = firstStep(task, start, lambda, [rate]);
              return { ...trainDelora(task, start, lambda, rate, setting.steps), one };
            });
        }""",
        [code, SETTING, cases],
    )
    for (start, lambda0, r, d_in, rate), theirs in zip(cases, found):
        ours = delora_cliff.train(SETTING, variant(start, r, lambda0), d_in, rate, SETTING["steps"])
        assert theirs["moved"][0] == ours[0] == 0
        assert theirs["moved"][1:] == pytest.approx(ours[1:], rel=1e-5)
        assert theirs["one"] == pytest.approx(ours[1], rel=1e-5)
        if start != "lora":
            assert all(moved < bound * 1.0001 for moved, bound in zip(theirs["moved"], theirs["bounds"]))


@pytest.fixture
def opened(visit):  # noqa: F811
    page = visit(widgets.DeloraCliff())
    return page, page.locator(".al-fig")


def moved(root):
    settle(root.page)
    return float(root.get_attribute("data-first"))


def choose(root, text):
    root.locator(".al-option", has_text=text).locator("input").check(force=True)


def reset(root):
    root.get_by_role("button", name="Reset").click()


@browser_test
def test_the_rate_moves_lora_and_not_delora_until_the_start_is_the_papers(opened):
    page, root = opened
    cliff, slider = moved(root), root.locator("input[type=range]")
    assert cliff == pytest.approx(15 / math.sqrt(8 * 128), rel=0.1)
    said = root.locator(".al-say").inner_text()
    slider.focus()
    for _ in range(4):  # quarters of a decade
        page.keyboard.press("ArrowLeft")
    assert moved(root) == pytest.approx(cliff, rel=1e-6)
    assert root.locator(".al-say").inner_text() != said  # LoRA's step is ten times shorter
    choose(root, "paper")
    low = moved(root)
    assert low < cliff / 100
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert moved(root) == pytest.approx(10 * low, rel=0.05)
    expect(root.locator(".al-say")).to_contain_text("and it follows")
    page.keyboard.press("End")
    assert moved(root) < 0.8 * 100 * 10 * low  # at 0.1 no longer
    expect(root.locator(".al-say")).to_contain_text("a lower rate it follows")
    reset(root)
    assert moved(root) == cliff
    expect(root.locator(".al-say")).to_have_text(said)


@browser_test
def test_width_rank_and_lambda_move_the_cliff(opened):
    _, root = opened
    cliff = moved(root)
    for text, share in (("4096", math.sqrt(1 / 32)), ("32", 0.5)):
        choose(root, text)
        assert moved(root) == pytest.approx(cliff * share, rel=0.1)
        reset(root)
    root.get_by_role("radiogroup", name="λ").get_by_role("radio").first.check(force=True)
    assert moved(root) == pytest.approx(cliff / 15, rel=1e-6)


@browser_test
@pytest.mark.parametrize("view", ["light", "phone"])
def test_mouse_and_finger_drag_over_the_rates(visit, view):  # noqa: F811
    page = visit(widgets.DeloraCliff(), view=view)
    root = page.locator(".al-fig")
    readout = root.locator(".al-readout")
    before = readout.inner_text()
    box = root.locator(".al-scrub").bounding_box()
    x, y = box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2
    if view == "phone":
        page.touchscreen.tap(x, y)
    else:
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 9, y)
        page.mouse.up()
    settle(page)
    assert readout.inner_text() != before
    reset(root)
    settle(page)
    assert readout.inner_text() == before


@browser_test
@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_it_stays_on_its_card(visit, view):  # noqa: F811
    page = visit(widgets.DeloraCliff(), view=view)
    root = page.locator(".al-fig")
    for text in ("paper", "4096"):
        choose(root, text)
        settle(page)
        card = root.bounding_box()
        for part in root.locator("text, p, label").all():
            box = part.bounding_box()
            assert box is None or (card["x"] <= box["x"] and box["x"] + box["width"] <= card["x"] + card["width"])
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@browser_test
def test_the_first_frame_stands_without_scripts(visit):  # noqa: F811
    made = widgets.DeloraCliff()
    still = f'[data-al-still="{made.still_id}"]'
    page = visit(made, scripts=False)
    expect(page.locator(still)).to_be_visible()
    assert "first step" in page.locator(f"{still} img").get_attribute("alt")
    expect(visit(made).locator(still)).to_be_hidden()
