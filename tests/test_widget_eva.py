"""EVA's figures in a real browser: what the needle catches is torch's number, the ranks are those the package gives."""

import math

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from torch import nn

import adapterlab as al
from adapterlab import calibrate
from adapterlab.kit import widgets
from helpers import linear, randn
from test_widgets_browser import browser, seen, served, settle, visit  # noqa: F401

pytestmark = pytest.mark.browser


def cloud():
    """(90, 6) off the origin, longest across the way to the mean."""
    spread = torch.tensor([0.3, 1.4, 0.5, 0.4, 0.3, 0.2], dtype=torch.float64)
    return randn(90, 6, seed=4) * spread + torch.tensor([2.0, 0.2, 0, 0, 0, 0], dtype=torch.float64)


def energy(x, degrees, center):
    """What a needle at that angle from the mean catches, from the inputs themselves."""
    mean = x.mean(0)
    right = mean / mean.norm()
    principal = torch.linalg.svd(x - mean, full_matrices=False)[2][0]
    up = principal - (principal @ right) * right
    up = up / up.norm()
    if ((x @ up) ** 3).sum() < 0:
        up = -up
    needle = math.cos(math.radians(degrees)) * right + math.sin(math.radians(degrees)) * up
    x = x - mean if center else x
    return ((x @ needle).square().sum() / x.square().sum()).item()


class Layers(nn.Module):
    """Inputs of unlike spectra, in two blocks; a and b of a block share theirs."""

    def __init__(self):
        super().__init__()
        for i in range(2):
            for name in "abc":
                self.add_module(f"{i}_{name}", linear(30, 26, dtype=torch.float32, seed=i))

    def forward(self, x):
        for i in range(2):
            y, z = x * 0.9 ** torch.arange(30), (x + 1) * (0.4 + 0.3 * i) ** torch.arange(30)
            self.get_submodule(f"{i}_a")(y), self.get_submodule(f"{i}_b")(y), self.get_submodule(f"{i}_c")(z)


DATA = [randn(40, 30, seed=i, dtype=torch.float32) for i in range(3)]


def ranks_figure():
    model = Layers()
    layers = dict(model.named_children())
    moments = calibrate.second_moments(layers, calibrate.layer_inputs(model, layers, DATA))
    shares = {
        path: {name: m.directions(center, 30)[1].tolist() for name, center in (("raw", False), ("centred", True))}
        for path, m in moments.items()
    }
    return widgets.EvaRanks(shares, {path: layer.in_features + layer.out_features for path, layer in layers.items()})


def explained_by_svd(ranks, center):
    """The share of each layer's energy in its first directions, from the inputs themselves."""
    model, found = Layers(), []
    for path, layer in model.named_children():
        x = torch.cat([seen[path] for seen in calibrate.layer_inputs(model, {path: layer}, DATA)]).double()
        squares = torch.linalg.svdvals(x - x.mean(0) if center else x).square()
        found.append((squares[: ranks[path]].sum() / squares.sum()).item())
    return found


def packages_ranks(r, rho, center):
    model = Layers()
    adapter = al.attach(model, al.EVA(r=r, alpha=6, rho=rho, center=center), calibration_data=DATA)
    given = dict.fromkeys(dict(model.named_children()), 0)
    return given | {path: len(model.get_submodule(path).adapter.lora_A) for path in adapter.targets}


def press(page, root, label, *keys):
    root.get_by_role("slider", name=label).focus()
    for key in keys:
        page.keyboard.press(key)
    settle(page)


# ---- the needle ---------------------------------------------------------------------------------------


@pytest.fixture
def needle(visit):  # noqa: F811
    page = visit(widgets.EvaNeedle(cloud()))
    return page, page.locator(".al-fig")


def caught(root):
    return float(root.get_attribute("data-caught"))


def test_the_needle_catches_what_the_inputs_say(needle):
    page, root = needle
    angle = 120
    assert caught(root) == pytest.approx(energy(cloud(), angle, False), abs=1e-4)
    for key, step in [("Shift+ArrowLeft", 10), ("ArrowUp", 2), ("ArrowRight", -2), ("Shift+ArrowDown", -10)] * 2:
        press(page, root, "needle", key, key)
        angle += 2 * step
        for option, center in ((1, True), (0, False)):
            root.get_by_role("radio").nth(option).check(force=True)
            settle(page)
            assert caught(root) == pytest.approx(energy(cloud(), angle, center), abs=1e-4)


def test_raw_the_best_is_at_the_mean_and_centred_across_it(needle):
    page, root = needle
    x = cloud()
    for option, center in ((0, False), (1, True)):
        root.get_by_role("radio").nth(option).check(force=True)
        best = max(range(180), key=lambda angle: energy(x, angle, center))
        assert (min(best, 180 - best) < 10) != center
        now = int(root.get_by_role("slider", name="needle").get_attribute("aria-valuenow"))
        turn = (best - now) % 180 // 2
        press(page, root, "needle", *["ArrowLeft"] * turn)
        assert "the best there is in this plane" in root.locator(".al-say").inner_text()
        exact = torch.linalg.svdvals(x - x.mean(0) if center else x).square()
        share = 100 * (exact[0] / exact.sum()).item()
        assert f"catches more than {share:.2g} %" in root.locator(".al-say").inner_text()


def drag_path(page, root, degrees):
    box = root.get_by_role("slider", name="needle").locator(".al-knob").bounding_box()
    start = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
    plane = root.locator(".al-plane").bounding_box()
    middle = np.array([plane["x"] + plane["width"] / 2, plane["y"] + plane["height"] / 2])
    path = []
    for share in (0.25, 0.5, 0.75, 1):
        a = -np.deg2rad(degrees * share)  # the page's y is down
        c, s = np.cos(a), np.sin(a)
        path.append(middle + np.array([[c, -s], [s, c]]) @ (start - middle))
    return start, path


def test_mouse_finger_and_plot_turn_it_and_reset_brings_it_back(visit):  # noqa: F811
    page = visit(widgets.EvaNeedle(cloud()), view="phone")
    root = page.locator(".al-fig")
    first = seen(root)
    start, path = drag_path(page, root, -60)
    page.mouse.move(*start)
    page.mouse.down()
    for point in path:
        page.mouse.move(*point)
    page.mouse.up()
    settle(page)
    assert caught(root) == pytest.approx(energy(cloud(), 60, False), abs=0.02)
    by_mouse = caught(root)
    root.get_by_role("button", name="Reset").click()
    settle(page)
    assert seen(root) == first
    touch = page.context.new_cdp_session(page)
    for kind, points in [("touchStart", [start]), *(("touchMove", [point]) for point in path), ("touchEnd", [])]:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})
    settle(page)
    assert caught(root) == by_mouse
    box = root.locator(".al-scrub").bounding_box()
    page.touchscreen.tap(box["x"] + 46 + 0.5 * (box["width"] - 60), box["y"] + 60)
    settle(page)
    assert caught(root) == pytest.approx(energy(cloud(), 90, False), abs=0.02)
    root.get_by_role("button", name="Reset").click()
    settle(page)
    assert seen(root) == first


# ---- the ranks ----------------------------------------------------------------------------------------


def test_ranks_are_those_the_package_gives(visit):  # noqa: F811
    page = visit(ranks_figure())
    root = page.locator(".al-fig")
    rank, rho = root.locator("input[type=range]").all()
    unequal = 0
    for r, stop in ((1, 0), (2, 1), (8, 3)):
        rank.fill(str(stop))
        for factor in (1.0, 1.5, 2.0, 3.0):
            rho.fill(str(factor))
            for option, center in ((0, False), (1, True)):
                root.get_by_role("radio").nth(option).check(force=True)
                settle(page)
                shown = [int(text) for text in root.get_attribute("data-ranks").split(",")]
                given = list(packages_ranks(r, factor, center).values())
                assert shown == given == list(ranks_figure().ranks(r, factor, ("raw", "centred")[center]).values())
                assert sum(shown) == 6 * r and root.locator(".al-cell").count() == 6 * r
                drawn = [float(text) for text in root.get_attribute("data-explained").split(",")]
                exact = explained_by_svd(packages_ranks(r, factor, center), center)
                assert drawn == pytest.approx(exact, abs=1e-4)
                bars = [box.bounding_box()["height"] for box in root.locator(".al-share").all()]
                assert bars == pytest.approx([80 * share for share in exact], abs=0.5)
                unequal += len(set(shown)) > 1
    assert unequal > 6


def test_it_says_who_goes_without(visit):  # noqa: F811
    page = visit(ranks_figure())
    root = page.locator(".al-fig")
    first = seen(root)
    rank = root.locator("input[type=range]").first
    assert "Equal ranks, 4 for each of 6 layers" in root.locator(".al-say").inner_text()
    rank.fill("0")
    root.get_by_role("radio").nth(1).check(force=True)
    press(page, root, "ρ (cap ρ r)", "End")
    empty = list(packages_ranks(1, 3.0, True).values()).count(0)
    words = "one layer goes" if empty == 1 else f"{empty} layers go"
    assert empty and f"{words} without an adapter" in root.locator(".al-say").inner_text()
    root.get_by_role("button", name="Reset").click()
    settle(page)
    assert seen(root) == first


# ---- both ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_they_stay_on_their_cards(visit, view):  # noqa: F811
    page = visit(widgets.EvaNeedle(cloud()), ranks_figure(), view=view)
    for root in page.locator(".al-fig").all():
        card = root.bounding_box()
        for part in root.locator("text, rect, .al-knob, p, label").all():
            box = part.bounding_box()
            assert box is None or (card["x"] <= box["x"] and box["x"] + box["width"] <= card["x"] + card["width"])


def test_the_first_frames_stand_without_scripts(visit):  # noqa: F811
    for made in (widgets.EvaNeedle(cloud()), ranks_figure()):
        still = f'[data-al-still="{made.still_id}"]'
        page = visit(made, scripts=False)
        expect(page.locator(still)).to_be_visible()
        assert page.locator(f"{still} img").get_attribute("alt").strip()
        expect(visit(made).locator(still)).to_be_hidden()


def test_what_they_cannot_draw_is_refused():
    with pytest.raises(ValueError, match=r"inputs has shape \(5,\)"):
        widgets.EvaNeedle([1.0, 2, 3, 4, 5])
    shares = {"a": {"raw": [0.5] * 24, "centred": [0.5] * 23}}
    with pytest.raises(ValueError, match="'a' has fewer than 24 directions"):
        widgets.EvaRanks(shares, {"a": 10})
    with pytest.raises(ValueError, match="the same layers"):
        widgets.EvaRanks(shares, {"b": 10})
