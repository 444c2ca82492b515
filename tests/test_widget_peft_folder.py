"""The PEFT folder in a real browser: what it shows is what to_peft wrote, to scale, and what it refused."""

import json
import math

import pytest
from playwright.sync_api import expect
from safetensors.torch import load_file
from torch import nn

import adapterlab as al
from adapterlab.kit import widgets
from adapterlab.kit.widgets.peft_folder import contents
from adapterlab.peft import TENSORS, to_peft
from helpers import far_from_start, linear
from test_widgets_browser import browser, seen, served, settle, visit  # noqa: F401

pytestmark = pytest.mark.browser

VARIANTS = {
    "lora": al.LoRA(r=4),
    "pissa": al.PiSSA(r=4),
    "delora": al.DeLoRA(r=4),
    "dora": al.DoRA(r=4),
    "hra": al.HRA(r=4),
    "antipasto": al.AntiPaSTO(r=8),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """-> the figure, and what lies on disk: (member, form) -> tensors of the layer, or the message."""
    shown, disk = [], {}
    for member, variant in VARIANTS.items():
        model = nn.Sequential(linear(32, 20), nn.Tanh(), linear(20, 16))
        far_from_start(al.attach(model, variant))
        one = {"member": member}
        for form in ("own", "lora"):
            folder = tmp_path_factory.mktemp(f"{member}-{form}")
            try:
                to_peft(model, folder, as_lora=form == "lora")
            except ValueError as error:
                one[form], disk[member, form] = {"refused": str(error)}, str(error)
                continue
            one[form] = contents(folder, "0") | {"readers": {"PeftModel": True, "a LoRA server": form == "lora"}}
            named = load_file(folder / TENSORS).items()
            disk[member, form] = {n.split(".0.")[1]: list(t.shape) for n, t in named if ".model.0." in n}
        shown.append(one)
    return widgets.PeftFolder(shown, "0", (20, 32)), disk


@pytest.fixture
def opened(visit, made):  # noqa: F811
    page = visit(made[0])
    return page, page.locator(".al-fig")


def choose(page, root, member, form):
    labels = list(VARIANTS)
    root.get_by_role("radiogroup", name="variant").get_by_role("radio").nth(labels.index(member)).check(force=True)
    root.get_by_role("radiogroup", name="written as").get_by_role("radio").nth(int(form == "lora")).check(force=True)
    settle(page)
    return json.loads(root.get_attribute("data-seen"))


@pytest.mark.parametrize("form", ["own", "lora"])
def test_it_shows_what_is_on_disk(opened, made, form):
    page, root = opened
    for member in VARIANTS:
        expected, found = made[1][member, form], choose(page, root, member, form)
        said = root.locator(".al-say").inner_text()
        if isinstance(expected, str):
            assert expected in said and "is refused" in said and found["tensors"] == []
            expect(root.get_by_text("nothing is written")).to_be_visible()
            expect(root.get_by_text("PeftModel")).to_be_hidden()
            continue
        assert dict(found["tensors"]) == expected
        total = sum(math.prod(shape) for shape in expected.values())
        assert found["total"] == total and f"{total:,} numbers for 0" in said
        assert root.get_by_text("✓ PeftModel").is_visible()
        assert ("nothing that knows only LoRA" in said) == (form == "own")


def test_the_ranks_and_the_refusals(opened):
    page, root = opened
    shapes = {member: dict(choose(page, root, member, "lora")["tensors"]) for member in VARIANTS}
    ranks = {member: tensors["lora_A.weight"][0] for member, tensors in shapes.items() if tensors}
    assert ranks == {"lora": 4, "pissa": 8, "delora": 4, "hra": 4, "antipasto": 8}
    assert choose(page, root, "antipasto", "own")["tensors"] == []


def test_boxes_are_to_scale(opened):
    page, root = opened
    choose(page, root, "pissa", "lora")
    ghost, A, B = [box.bounding_box() for box in root.locator(".al-view rect").all()]
    unit = ghost["width"] / 32
    for box, (high, wide) in ((ghost, (20, 32)), (A, (8, 32)), (B, (20, 8))):
        assert box["width"] == pytest.approx(unit * wide, rel=0.03)
        assert box["height"] == pytest.approx(unit * high, rel=0.03)


def test_keys_choose_and_reset_brings_it_back(opened):
    page, root = opened
    first = seen(root)
    assert json.loads(root.get_attribute("data-seen"))["member"] == "hra"
    root.get_by_role("radiogroup", name="variant").get_by_role("radio").nth(4).focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    assert json.loads(root.get_attribute("data-seen"))["member"] == "antipasto"
    root.get_by_role("button", name="Reset").click()
    settle(page)
    assert seen(root) == first


@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_it_stays_on_its_card(visit, made, view):  # noqa: F811
    page = visit(made[0], view=view)
    root = page.locator(".al-fig")
    card = root.bounding_box()
    for member, form in made[1]:
        choose(page, root, member, form)
        for part in root.locator("rect, p, .al-view div").all():
            box = part.bounding_box()
            assert box is None or (card["x"] <= box["x"] and box["x"] + box["width"] <= card["x"] + card["width"])


def test_the_first_frame_stands_without_scripts(visit, made):  # noqa: F811
    still = f'[data-al-still="{made[0].still_id}"]'
    page = visit(made[0], scripts=False)
    expect(page.locator(still)).to_be_visible()
    alt = page.locator(f"{still} img").get_attribute("alt")
    assert "AntiPaSTO: no PEFT's own form" in alt and "DoRA: " in alt
    expect(visit(made[0]).locator(still)).to_be_hidden()


def test_a_layer_that_is_not_in_the_folder_is_refused(tmp_path):
    model = nn.Sequential(linear(12, 8))
    al.attach(model, al.LoRA(r=2))
    to_peft(model, tmp_path)
    with pytest.raises(ValueError, match="nothing of '7'"):
        contents(tmp_path, "7")
