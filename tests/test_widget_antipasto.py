"""AntiPaSTO's slider in a real browser: the drawn axes are the package's, and what is told is the grid's."""

import json
import re
from functools import lru_cache

import numpy as np
import pytest
import torch
from playwright.sync_api import expect

import adapterlab as al
from adapterlab import kit
from adapterlab.kit import widgets
from adapterlab.kit.widgets import antipasto_steer
from test_widgets_browser import browser, seen, served, settle, visit  # noqa: F401

browser_only = pytest.mark.browser
PROMPTS = ["57+28=", "sort k e y s ="]


@lru_cache(maxsize=1)
def steered_model():
    model, tokenizer = kit.load_base()
    adapter = al.attach(model, al.AntiPaSTO(r=8, max_angle=0.5), targets=r"self_attn\.(q|k)_proj$", layers=[1])
    torch.manual_seed(0)
    with torch.no_grad():
        for p in adapter.parameters():
            p.normal_(std=0.6)
    return model, tokenizer, adapter, model.model.layers[1].self_attn.q_proj


@lru_cache(maxsize=1)
def data():
    model, tokenizer, adapter, layer = steered_model()
    return widgets.AntipastoSteer(model, tokenizer, adapter, layer, PROMPTS, caps=(0.1, 0.5), n=8).data


class Made(widgets.AntipastoSteer):
    """The same figure, without computing its grid again."""

    def __init__(self):
        antipasto_steer.Figure.__init__(self, data())


@pytest.fixture
def opened(visit):  # noqa: F811
    page = visit(Made())
    return page, page.locator(".al-fig")


def by_torch(pair, cap, c):
    """Where a layer of two axes alone takes them, by the package."""
    layer = torch.nn.Linear(2, 2, bias=False, dtype=torch.float64)
    layer.weight.data = torch.diag(torch.tensor(pair["S"], dtype=torch.float64))
    adapter = al.attach(layer, al.AntiPaSTO(r=2, block_size=2, max_angle=cap), dtype=torch.float64)
    p = layer.adapter
    order = torch.tensor(pair["S"]).argsort(descending=True)
    assert order.tolist() == [0, 1] and torch.allclose(p.lora_U @ p.lora_Vh, torch.eye(2, dtype=torch.float64))
    with torch.no_grad():
        p.lora_delta_s.copy_(torch.tensor(pair["dS"]))
        p.lora_rot_T.fill_(pair["t"] * (p.lora_Vh[0, 0] * p.lora_Vh[1, 1]).item())  # an axis may come with its sign
    adapter.coefficient = c
    return al.effective_weight(layer)[0].detach().T.numpy()  # row k: the image of axis k


def put(page, root, c):
    """Move the coefficient there by the keyboard."""
    slider = root.get_by_role("slider", name="coefficient")
    slider.focus()
    page.keyboard.press("Home")
    for _ in range(antipasto_steer.COEFFICIENTS.index(c)):
        page.keyboard.press("ArrowRight")
    settle(page)


def drawn(root):
    return np.array(json.loads(root.get_attribute("data-tips")))


@pytest.mark.parametrize("cap", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("c", [-2.0, -0.5, 0.0, 1.0])
def test_the_axes_are_the_packages(cap, c):
    angle, found = antipasto_steer.tips(data()["pair"], cap, c)
    assert np.allclose(found, by_torch(data()["pair"], cap, c), atol=1e-12)
    assert abs(angle) <= cap and (angle == 0) == (c == 0)


@browser_only
def test_the_page_draws_the_same(opened):
    page, root = opened
    for k, cap in enumerate(data()["caps"]):
        root.get_by_role("radio").nth(k).check(force=True)
        for c in (-2.0, -0.75, 0.0, 1.0):
            put(page, root, c)
            assert np.allclose(drawn(root), antipasto_steer.tips(data()["pair"], cap, c)[1], atol=1e-12)


def test_the_pair_is_the_one_that_turns_most():
    layer, pair = steered_model()[-1], data()["pair"]
    p, (i, j) = layer.adapter, (axis - 1 for axis in pair["axes"])
    S, moved = p.lora_S, {}
    for block in range(2):
        entries = iter(p.lora_rot_T[block].tolist())
        for a in range(4):
            for b in range(a + 1, 4):
                one, two = 4 * block + a, 4 * block + b
                moved[one, two] = abs(next(entries)) * (S[one] * S[two]).item() ** 0.5
    assert (i, j) == max(moved, key=moved.get)
    assert pair["S"] == [float(f"{S[k]:.3g}") for k in (i, j)]


def test_the_grid_is_what_the_model_says_and_the_model_is_left_as_it_was():
    model, tokenizer, adapter, layer = steered_model()
    assert adapter.coefficient == 1.0 and layer.adapter.variant.max_angle == 0.5 and layer.adapter.prepared is None
    coefficients, half = data()["coefficients"], len(data()["coefficients"]) // 2
    assert coefficients[half] == 0 and data()["trained"] == 0.5
    for c in (-2.0, 0.0, 1.0):
        adapter.coefficient = c
        i = coefficients.index(c)
        assert data()["answers"][1][i] == [kit.answer(model, tokenizer, q, max_new_tokens=8) for q in PROMPTS]
        score = kit.evaluate(model, tokenizer, "sort", 8)["exact_match"]
        assert data()["scores"]["sort"][1][i] == pytest.approx(score, abs=1e-3)
    W, found = [], []
    for c in (0.5, -0.5):
        adapter.coefficient = c
        layers = [model.get_submodule(path) for path in adapter.targets]
        W.append(torch.cat([(al.effective_weight(one)[0] - one.weight).flatten() for one in layers]))
    adapter.coefficient = 1.0
    found = data()["cosines"][1][coefficients.index(0.5) - half - 1]
    assert found == pytest.approx(torch.cosine_similarity(*W, dim=0).item(), abs=1e-3) and -1 < found < -0.5


@browser_only
def test_answers_scores_and_cosine_follow_the_slider(opened):
    page, root = opened
    half = len(data()["coefficients"]) // 2
    for c in (-2.0, 1.0):
        put(page, root, c)
        i = data()["coefficients"].index(c)
        rows = root.locator("table tr").all_inner_texts()
        for row, prompt, answer in zip(rows, PROMPTS, data()["answers"][1][i], strict=True):
            assert prompt in row and (answer[:11].strip() or "(nothing)") in row
        said = root.locator(".al-say").inner_text().replace("−", "-")
        score, cosine = data()["scores"]["add_rev"][1][i], data()["cosines"][1][abs(i - half) - 1]
        assert f"add_rev scores {score:.2f} here" in said
        assert float(re.search(r"cosine (-[\d.]+\d)", said)[1]) == pytest.approx(cosine, abs=0.006)
    put(page, root, 0.0)
    assert "base model, bit for bit" in root.locator(".al-say").inner_text()
    assert all("as the base" in row for row in root.locator("table tr").all_inner_texts())


@browser_only
def test_the_cap_holds_the_turn_and_the_mouse_moves_the_plots(opened):
    page, root = opened
    first = seen(root)
    base = np.diag(data()["pair"]["S"])
    root.get_by_role("radio").first.check(force=True)
    settle(page)
    v = drawn(root)[0]
    stretched = data()["pair"]["S"][0] + data()["pair"]["dS"][0]
    assert (
        0 < np.arctan2(abs(v[1]) / (data()["pair"]["S"][1] + data()["pair"]["dS"][1]), v[0] / stretched) <= 0.1 + 1e-9
    )
    box = root.locator(".al-scrub").first.bounding_box()
    page.mouse.click(box["x"] + 50, box["y"] + 60)  # the left end: coefficient -2
    settle(page)
    assert root.get_by_role("slider", name="coefficient").get_attribute("aria-valuetext") == "−2"
    assert not np.allclose(drawn(root), base)
    root.get_by_role("button", name="Reset").click()
    settle(page)
    assert seen(root) == first


@browser_only
@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_it_stays_on_its_card(visit, view):  # noqa: F811
    page = visit(Made(), view=view)
    root = page.locator(".al-fig")
    for c in (-2.0, 2.0):
        put(page, root, c)
        card = root.bounding_box()
        for part in root.locator("text, td, p").all():
            box = part.bounding_box()
            assert box is None or (card["x"] <= box["x"] and box["x"] + box["width"] <= card["x"] + card["width"])


@browser_only
def test_the_first_frame_stands_without_scripts(visit):  # noqa: F811
    made = Made()
    still = f'[data-al-still="{made.still_id}"]'
    page = visit(made, scripts=False)
    expect(page.locator(still)).to_be_visible()
    assert "ellipse" in page.locator(f"{still} img").get_attribute("alt")
    expect(visit(made).locator(still)).to_be_hidden()
