"""PiSSA's spectrum in a real browser: the energy that a cut holds, and what rounding costs, as torch computes them."""

import numpy as np
import pytest
import torch
from playwright.sync_api import expect

from adapterlab import kit
from adapterlab.kit import widgets
from adapterlab.kit.widgets import pissa_spectrum
from test_widgets_browser import browser, seen, served, settle, visit  # noqa: F401

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BLOCK, MOST = pissa_spectrum.BLOCK, pissa_spectrum.MOST


@pytest.fixture(scope="module")
def weights():
    block = kit.load_base()[0].model.layers[1]
    return {"q_proj": block.self_attn.q_proj.weight.detach(), "down_proj": block.mlp.down_proj.weight.detach()}


@pytest.fixture
def opened(visit, weights):  # noqa: F811
    page = visit(widgets.PissaSpectrum(weights))
    return page, page.locator(".al-fig")


def told(root, name: str) -> float:
    return float(root.get_attribute(f"data-{name}"))


def expected(layer: dict, W, r: int, kind: str) -> tuple[float, float]:
    """-> the energy of W's top r, and by how much a block stored without them is off, by torch's casts."""
    S = torch.linalg.svdvals(W.double())
    B0, A0 = (torch.frombuffer(bytearray(layer[key]), dtype=torch.float32).double() for key in ("B0", "A0"))
    W, top = W[:BLOCK, :BLOCK].to(DTYPES[kind]).double(), B0.view(BLOCK, MOST)[:, :r] @ A0.view(MOST, BLOCK)[:r]
    error = (W - top).to(DTYPES[kind]).double() + top - W
    return (S[:r].square().sum() / S.square().sum()).item(), (error.norm() / W.norm()).item()


def choose(page, root, group: str, option: str) -> None:
    root.get_by_role("radiogroup", name=group).locator("label", has_text=option).locator("input").check()
    settle(page)


def cut_at(page, root, r: int) -> None:
    root.locator("input[type=range]").fill(str(r))
    settle(page)


def coloured(root, number: int) -> int:
    """How many cells of a map are not the card's colour."""
    return (
        root.locator("canvas")
        .nth(number)
        .evaluate(
            """(canvas) => {
            const card = getComputedStyle(canvas).getPropertyValue("--al-card").trim();
            const ground = [1, 3, 5].map((i) => parseInt(card.slice(i, i + 2), 16));
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let count = 0;
            for (let i = 0; i < data.length; i += 4) count += ground.some((c, k) => data[i + k] !== c);
            return count;
        }"""
        )
    )


@pytest.mark.parametrize("kind", DTYPES)
def test_stored_is_torchs_cast(kind):
    smallest = {"fp32": 2.0**-126, "fp16": 2.0**-14, "bf16": 2.0**-126}[kind]
    x = np.random.default_rng(0).normal(size=20_000) * 2.0 ** np.random.default_rng(1).integers(-20, 4, 20_000)
    ties = (1 + (2 * np.arange(64) + 1) / 2 ** (pissa_spectrum.BITS[kind][0] + 1)) * 0.25
    x = np.concatenate([x, ties, -ties, [0.0, smallest, smallest / 2, -smallest / 3]]).astype(np.float32)
    x = x.astype(float) if kind == "fp32" else x
    cast = torch.from_numpy(x).to(DTYPES[kind]).double().numpy()
    assert np.array_equal(pissa_spectrum.stored(x.astype(float), kind), cast)
    assert kind == "fp32" or not np.array_equal(x, cast)


def test_state_is_small_and_holds_the_svd(weights):
    data = widgets.PissaSpectrum(weights).data
    assert sum(len(layer[key]) for layer in data["layers"] for key in ("W", "B0", "A0")) < 60_000
    for layer, W in zip(data["layers"], weights.values()):
        U, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
        B0, A0 = (np.frombuffer(layer[key], "<f4") for key in ("B0", "A0"))
        top = torch.from_numpy(B0.reshape(BLOCK, MOST) @ A0.reshape(MOST, BLOCK))
        exact = (U[:, :MOST] * S[:MOST] @ Vh[:MOST])[:BLOCK, :BLOCK]
        assert (top - exact).norm() < 1e-4 * exact.norm()


def test_a_small_weight_is_refused():
    with pytest.raises(ValueError, match=r"tiny has shape \(64, 63\): the figure cuts up to 64"):
        widgets.PissaSpectrum({"tiny": torch.ones(64, 63)})


@pytest.mark.browser
def test_each_number_is_torchs(opened, weights):
    page, root = opened
    layers = widgets.PissaSpectrum(weights).data["layers"]
    for layer, (name, W) in zip(layers, weights.items()):
        choose(page, root, "the layer", name)
        for kind in DTYPES:
            choose(page, root, "W is stored in", kind)
            for r in (1, 8, 64):
                cut_at(page, root, r)
                share, off = expected(layer, W, r, kind)
                assert told(root, "share") == pytest.approx(share, rel=1e-3)
                assert told(root, "off") == pytest.approx(off, rel=1e-3) and off > 0
                assert told(root, "kept") == 0.0


@pytest.mark.browser
def test_only_the_mutated_weight_has_speckles_and_the_more_the_fewer_bits(opened):
    page, root = opened
    found = {}
    for kind in DTYPES:
        choose(page, root, "W is stored in", kind)
        found[kind] = coloured(root, 0)
        assert coloured(root, 1) == 0
    assert found["bf16"] > 0.9 * BLOCK**2 > found["fp16"] > 0.3 * BLOCK**2 and found["fp32"] == 0


@pytest.mark.browser
def test_mouse_keys_and_reset_move_the_cut(opened):
    page, root = opened
    expect(root.get_by_role("img", name="q_proj: 49\u00a0%, down_proj: 27\u00a0%")).to_be_visible()  # the guess
    expect(root.locator(".al-say")).to_contain_text("top 8 of 128 directions of q_proj hold 49")
    first = seen(root)
    box = root.locator(".al-scrub").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 60, steps=4)
    page.mouse.up()
    settle(page)
    assert int(root.locator("input[type=range]").input_value()) > 20
    root.get_by_role("button", name="Reset").click()
    settle(page)
    assert seen(root) == first
    root.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    expect(root.locator(".al-say")).to_contain_text("top 9 of 128")


@pytest.mark.browser
@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_it_stays_on_its_card(visit, weights, view):  # noqa: F811
    page = visit(widgets.PissaSpectrum(weights), view=view)
    root = page.locator(".al-fig")
    choose(page, root, "the layer", "down_proj")
    for r in (1, 64):
        cut_at(page, root, r)
        card = root.bounding_box()
        for part in root.locator("text, p, canvas, label").all():
            box = part.bounding_box()
            assert box is None or (card["x"] <= box["x"] and box["x"] + box["width"] <= card["x"] + card["width"])


@pytest.mark.browser
def test_the_first_frame_stands_without_scripts(visit, weights):  # noqa: F811
    made = widgets.PissaSpectrum(weights)
    still = f'[data-al-still="{made.still_id}"]'
    page = visit(made, scripts=False)
    expect(page.locator(still)).to_be_visible()
    assert "49% of the energy" in page.locator(f"{still} img").get_attribute("alt")
