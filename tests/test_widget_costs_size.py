"""The costs figure in a real browser: what the page computes is what bench/formulas.py does, at every stop."""

import json

import pytest
from playwright.sync_api import expect

from adapterlab.bench import formulas
from adapterlab.kit import widgets
from adapterlab.kit.widgets import costs_size
from test_widgets_browser import browser, seen, served, settle, visit  # noqa: F401

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(visit):  # noqa: F811
    page = visit(widgets.CostsAtYourSize())
    return page, page.locator(".al-fig")


def to(page, root, slider, stop, stops):
    root.get_by_role("slider", name=slider).fill(str(stops.index(stop)))
    settle(page)


def at_size(page, root, width, tokens, r, dtype):
    to(page, root, "features", width, costs_size.WIDTHS)
    to(page, root, "tokens", tokens, costs_size.TOKENS)
    to(page, root, "rank", r, costs_size.RANKS)
    root.get_by_role("radiogroup", name="the base is in").get_by_label(dtype).check(force=True)
    settle(page)


def found(root):
    return json.loads(root.get_attribute("data-found"))


@pytest.mark.parametrize("dtype", costs_size.DTYPES)
@pytest.mark.parametrize("width, tokens, r", [(512, 128, 4), (4096, 512, 8), (8192, 4096, 64), (1024, 2048, 16)])
def test_the_page_computes_what_the_formulas_do(opened, width, tokens, r, dtype):
    page, root = opened
    at_size(page, root, width, tokens, r, dtype)
    seen_in_page, size = found(root), costs_size.DTYPES[dtype]
    for what, table, value in (
        ("kept", formulas.KEPT, formulas.kept),
        ("multiplied", formulas.MULTIPLIED, formulas.multiplied),
    ):
        wanted = {who: value(*who, tokens, width, r, size) for who in table}
        assert {(name, by): v for by, of in seen_in_page[what].items() for name, v in of.items()} == wanted


def test_every_stop_stays_inside_its_axes():
    for width in costs_size.WIDTHS:
        for tokens in costs_size.TOKENS:
            for r in costs_size.RANKS:
                for size in costs_size.DTYPES.values():
                    for who in formulas.KEPT:
                        share = formulas.multiplied(*who, tokens, width, r, size) / (2 * tokens * width**2)
                        assert 2**13 <= formulas.kept(*who, tokens, width, r, size) <= 2**35
                        assert share == 0 or 5e-4 <= share <= 200


def test_tokens_move_what_keeps_inputs_and_not_what_keeps_matrices(opened):
    page, root = opened
    before = found(root)["kept"]
    to(page, root, "tokens", 1024, costs_size.TOKENS)
    after = found(root)["kept"]
    assert after["adapterlab"]["lora"] == 2 * before["adapterlab"]["lora"]
    assert after["peft"]["hra"] < 1.02 * before["peft"]["hra"]
    assert "PEFT keeps" in root.locator(".al-say").inner_text()
    assert "whatever the number of tokens" in root.locator(".al-say").inner_text()


@pytest.mark.parametrize("name", costs_size.NAMES)
def test_the_parts_add_up(opened, name):
    page, root = opened
    label = dict(row[:2] for row in widgets.CostsAtYourSize().data["variants"])[name]
    root.get_by_role("radiogroup", name="list the parts of").get_by_label(label, exact=True).check(force=True)
    settle(page)
    units = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    for table, by in zip(root.locator("table").all(), ("adapterlab", "peft")):
        cells = [row.rsplit("\t", 1)[1].split() for row in table.inner_text().splitlines() if "\t" in row]
        assert sum(float(n) * units[unit] for n, unit in cells) == pytest.approx(
            found(root)["kept"][by].get(name, 0), rel=0.01
        )
    assert root.locator(".al-say").inner_text().startswith(f"{label} keeps")


def test_keys_move_it_and_reset_brings_it_back(opened):
    page, root = opened
    first = seen(root)
    root.get_by_role("slider", name="rank").focus()
    page.keyboard.press("ArrowRight")
    root.get_by_role("radiogroup", name="the base is in").get_by_label("bfloat16").check(force=True)
    settle(page)
    assert found(root)["kept"]["peft"]["hra"] == formulas.kept("hra", "peft", 512, 4096, 16, 2)
    root.get_by_role("button", name="Reset").click()
    settle(page)
    assert seen(root) == first


@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_it_stays_on_its_card(visit, view):  # noqa: F811
    page = visit(widgets.CostsAtYourSize(), view=view)
    root = page.locator(".al-fig")
    for size in ((512, 128, 4, "bfloat16"), (8192, 4096, 64, "float32")):
        at_size(page, root, *size)
        card = root.bounding_box()
        for part in root.locator("text, td, p, .al-option span").all():
            box = part.bounding_box()
            assert box is None or (card["x"] <= box["x"] and box["x"] + box["width"] <= card["x"] + card["width"])
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


def test_the_first_frame_stands_without_scripts(visit):  # noqa: F811
    made = widgets.CostsAtYourSize()
    still = f'[data-al-still="{made.still_id}"]'
    page = visit(made, scripts=False)
    expect(page.locator(still)).to_be_visible()
    assert "8.27 MiB here and 648 MiB in PEFT" in page.locator(f"{still} img").get_attribute("alt")
    expect(visit(made).locator(still)).to_be_hidden()


def test_a_start_between_the_stops_is_refused():
    with pytest.raises(ValueError, match=r"r = 7: choose one of \[4, 8"):
        widgets.CostsAtYourSize(r=7)
