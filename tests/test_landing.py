"""What the landing page says, against the package and the pages of the book."""

import re

import nbformat
import pytest
import torch
import yaml

import adapterlab as al
import landing
from adapterlab.kit.style import MARKS
from helpers import attach, with_fields
from paths import BOOK, ROOT

DATA = landing.load()
VARIANTS = DATA["variants"]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = {TOC["root"]} | {chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]}


def anchors(page: str) -> set[str]:
    """The headings of a page, as links name them."""
    path = ROOT / f"{page}.ipynb"
    if path.exists():
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
        text = "\n".join(cells)
    else:
        text = (ROOT / f"{page}.md").read_text()
    headings = re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_is_a_card_for_each_of_the_nine():
    assert set(VARIANTS) == {name for name, mark in MARKS.items() if mark.family != "none"}
    for facts in VARIANTS.values():
        assert set(facts) == {"equation", "supposes", "rank", "serve", "package", "measured"}
        assert facts["rank"] in ("r", "2r", "full") and isinstance(facts["measured"], list)


def test_the_package_has_what_the_data_says():
    named = {name for name, cls in al.VARIANTS.items() if cls.__module__.startswith("adapterlab.")}
    assert {name for name, facts in VARIANTS.items() if facts["package"]} == named


@pytest.mark.parametrize("name", [name for name, facts in VARIANTS.items() if facts["package"]])
def test_the_rank_of_the_trained_difference(name):
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 20, dtype=torch.float64)
    adapter = attach(layer, with_fields(al.VARIANTS[name](), r=8), dtype=torch.float64)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += torch.randn_like(parameter)
    difference = al.effective_weight(layer)[0] - layer.weight
    rank = int(torch.linalg.matrix_rank(difference.detach(), rtol=1e-9))
    assert rank == {"r": 8, "2r": 16, "full": 20}[VARIANTS[name]["rank"]]
    assert ("as LoRA" in VARIANTS[name]["serve"]) == (rank < 20)


def test_what_is_not_measured_says_so():
    card = landing.card("lora", {**VARIANTS["lora"], "measured": []}, lambda page: True)
    assert "nothing yet" in card


def test_a_card_links_to_its_chapter_once_there_is_one():
    for name, facts in VARIANTS.items():
        assert "chapter to come" in landing.card(name, facts, lambda page: False)
    assert "(lora.ipynb)" in landing.card("lora", VARIANTS["lora"], lambda page: True)


def test_no_card_ranks():
    text = landing.DATA.read_text("utf-8")
    assert not re.search(r"\d %|\bbest\b|\bbetter\b|\bwins?\b", text)


@pytest.mark.parametrize("row", DATA["symptoms"], ids=lambda row: row["see"])
def test_a_symptom_leads_somewhere(row):
    assert row["see"] and row["often"] and row["find"]
    for place in row["find"]:
        if place["page"] in PAGES:
            assert place.get("anchor", "") in anchors(place["page"]) | {""}, place
        else:  # to come: then no file is there that the contents forgot
            assert not (ROOT / f"{place['page']}.ipynb").exists(), f"{place['page']} is not in _toc.yml"


def test_every_variant_chapter_in_the_contents_has_a_card():
    chapters = {path.stem for path in BOOK.glob("*.ipynb")} & set(MARKS)
    assert chapters <= set(VARIANTS)
