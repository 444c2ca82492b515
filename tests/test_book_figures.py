"""Every interactive figure of the built book: it moves by keyboard and by mouse, and stands still without scripts."""

import nbformat
import pytest

from paths import ROOT
from test_book_browser import PAGES, VIEWS, browser, site, visit  # noqa: F401  fixtures

pytestmark = pytest.mark.browser


def stills(name):
    """How many figures a chapter shows: each leaves a still among its outputs."""
    path = ROOT / f"{name}.ipynb"
    cells = nbformat.read(path, as_version=4).cells if path.exists() else []
    shown = [o.get("data", {}).get("text/html", "") for c in cells for o in c.get("outputs", [])]
    return sum("data-al-still=" in html for html in shown)


FIGURES = {name: count for name in PAGES if (count := stills(name))}
# What a figure is moved by: the first of these that it has. A selector, a key.
CONTROLS = {
    "input[type=range]": "ArrowRight",
    ".al-handle": "ArrowUp",
    ".al-answer": "Enter",
    "input[type=text]": "1",
    "input[type=radio]:not(:checked)": " ",
    "input[type=checkbox]": " ",
}
MOST_BYTES = 1_500_000  # of a chapter, beside the scripts that all pages share


def figures(page, name):
    page.wait_for_function(f"document.querySelectorAll('.al-fig').length >= {FIGURES[name]}", timeout=20_000)
    return [page.locator(".al-fig").nth(k) for k in range(page.locator(".al-fig").count())]


def control(root):
    return next((root.locator(c).first, key) for c, key in CONTROLS.items() if root.locator(c).count())


def seen(root):
    """What a reader sees change: words, controls and drawings, without where the focus is."""
    values = "node => [...node.querySelectorAll('input')].map(i => i.type == 'checkbox' ? i.checked : i.value).join()"
    return root.inner_html(), root.evaluate(values)


def changed(page, root, before):
    for _ in range(40):
        if seen(root) != before:
            return True
        page.wait_for_timeout(50)
    return False


def test_there_are_figures_to_test():
    assert {"book/lora", "book/dora", "book/hra"} <= set(FIGURES)


@pytest.mark.parametrize("view", ["light", "phone"])
@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_moves_by_keyboard(visit, name, view):  # noqa: F811
    page, complaints = visit(name, view)
    for root in figures(page, name):
        node, key = control(root)
        node.scroll_into_view_if_needed()
        node.focus()
        before = seen(root)
        page.keyboard.press(key)
        assert changed(page, root, before), root.get_attribute("aria-label")
    page.wait_for_load_state("networkidle")
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_moves_by_mouse_and_resets(visit, name):  # noqa: F811
    page, complaints = visit(name)
    for root in figures(page, name):
        label = root.get_attribute("aria-label")
        node, _ = control(root)
        node.scroll_into_view_if_needed()
        says = root.locator(".al-say").inner_text()
        before, box = seen(root), node.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        if node.get_attribute("type") == "text":
            root.locator(".al-ready button").last.click()
        else:
            page.mouse.move(x, y)
            page.mouse.down()
            page.mouse.move(x + 0.3 * max(box["width"], 100), y - 15, steps=4)
            page.mouse.move(x + 4, y - 1) if node.evaluate("n => n.tagName") == "BUTTON" else None
            page.mouse.up()
        assert changed(page, root, before), label
        root.get_by_role("button", name="Reset").click()
        page.wait_for_timeout(300)
        assert root.locator(".al-say").inner_text() == says, label
    page.wait_for_load_state("networkidle")
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("name", FIGURES)
def test_without_scripts_each_figure_shows_its_first_frame(site, browser, name):  # noqa: F811
    context = browser.new_context(java_script_enabled=False, **VIEWS["light"])
    page = context.new_page()
    page.goto(f"{site}/{name}.html")
    stills = page.locator("[data-al-still]")
    assert stills.count() == FIGURES[name]
    assert all(stills.nth(k).is_visible() for k in range(stills.count()))
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_light(site, browser, name):  # noqa: F811
    """The page itself and what only it loads; the shared scripts and fonts are cached after the first page."""
    context = browser.new_context(**VIEWS["light"])
    page, sizes = context.new_page(), []
    page.on("response", lambda r: "/_static/" in r.url or sizes.append(len(r.body())))
    page.goto(f"{site}/{name}.html", wait_until="networkidle")
    assert 0 < sum(sizes) < MOST_BYTES
    context.close()


def test_the_base_model_answers_in_the_page(visit):  # noqa: F811
    page, complaints = visit("book/base_model")
    root = page.locator(".al-fig", has=page.locator(".al-question"))
    root.locator(".al-question").fill("34+41=")
    page.wait_for_function("document.querySelector('.al-reply').textContent === '75'", timeout=10_000)
    root.locator(".al-question").fill("sort d a c =")
    page.wait_for_function("document.querySelector('.al-reply').textContent === 'a c d'", timeout=10_000)
    assert not complaints


def test_the_adapter_turns_the_answer_over_in_the_page(visit):  # noqa: F811
    page, complaints = visit("book/lora")
    root = page.locator(".al-fig", has=page.locator(".al-question"))
    assert root.locator(".al-reply").inner_text() == "58"
    root.locator("input[type=range]").focus()
    page.keyboard.press("Home")  # strength 0: the base model
    page.wait_for_function("document.querySelector('.al-reply').textContent === '85'", timeout=10_000)
    assert "The base model answers 85" in root.locator(".al-say").inner_text()
    assert not complaints
