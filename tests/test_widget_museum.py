"""The museum in a real browser: what it shows is what the contract said, with the bug and without."""

import json

import nbformat
import pytest
from playwright.sync_api import expect

from adapterlab import museum
from adapterlab.kit import labels, pictures, widgets
from paths import BOOK
from test_widgets_browser import browser, seen, served, settle, visit  # noqa: F401
from widget_runs import museum_reports


@pytest.fixture(scope="module")
def reports():
    return museum_reports()


SIGNS = {"pass": "✓", "fail": "✗", "by design": "◇", "n/a": "–"}


def shown(report):
    return [f"{SIGNS[result.status]} {name}" for name, result in report.items()]


@pytest.mark.browser
def test_choosing_and_switching_shows_what_the_contract_said(visit, reports):  # noqa: F811
    page = visit(widgets.Museum(reports))
    root = page.locator(".al-fig")
    switch, first = root.get_by_role("switch"), seen(root)
    for name, (broken, healthy) in reports.items():
        exhibit = museum.EXHIBITS[name]
        root.locator(".al-option", has_text=f"{exhibit.number} ").locator("input").check(force=True)
        expect(root.locator(".al-code")).to_have_text(exhibit.code(), use_inner_text=False)
        for on, report in ((True, broken), (False, healthy)):
            switch.set_checked(on, force=True)
            settle(page)
            assert root.locator("li").all_inner_texts() == shown(report)
            assert (exhibit.let_through if on else exhibit.fix).replace("`", "") in root.inner_text()
            said = root.locator(".al-say").inner_text()
            assert (f"But {exhibit.caught_by[0]} fails" in said) == on
        switch.set_checked(True, force=True)
    root.get_by_role("button", name="Reset").click()
    settle(page)
    assert seen(root) == first


def test_the_state_is_small_and_says_what_was_seen(reports):
    data = widgets.Museum(reports).data
    assert len(json.dumps(data)) < 4_000
    bias, gate = data["exhibits"]
    assert bias["broken"][2] == "f" and bias["healthy"] == "pppp" and gate["broken"] == "pppf"
    assert "0.17, where at most 1e-09 is allowed" in bias["seen"]["bias"]
    assert "have no gradient at the start (proj.adapter.lora_U)" in gate["seen"]["gradients"]
    assert "identity at t=0 has none in 2 of 2 rows" in widgets.Museum(reports).still().alt


def test_a_label_names_the_checks_that_caught_it_in_the_run():
    text = labels.Labels("The wrong line", in_room("The wrong line"), {"dora-bias": "x.ipynb"})
    first, *others = text._repr_markdown_().split("**1. ")[1].split("**2. ")
    assert "*Caught by* `bias`." in first and "[At work](x.ipynb)." in first
    folded = first.partition(
        "<details><summary>The lines of 1</summary>\n\n```python\n@broken\nclass ScalesBias(DoRA):"
    )[2]
    assert "return *rest, None" in folded and folded.rstrip().endswith("```\n\n</details>")
    assert "```python\n@broken\nclass AlongDim0(DoRA):" in others[0]
    passing = {name: (healthy, healthy) for name, (_, healthy) in text.reports.items()}
    assert "*Caught by* ." in labels.Labels("The wrong line", passing, {})._repr_markdown_()  # no run, no name


def in_room(room):
    """Reports of a room's exhibits, of the checks that catch them."""
    found = [exhibit for exhibit in museum.EXHIBITS.values() if exhibit.family == room]
    return {e.name: (e.check(only=e.caught_by), e.check(broken=False, only=e.caught_by)) for e in found}


def test_every_symptom_leads_to_its_exhibits():
    rows = labels.symptoms(dict.fromkeys(museum.ROOMS, "#here")).rows
    assert [row[0] for row in rows] == list(museum.SYMPTOMS)
    numbers = " ".join(row[1] for row in rows)
    assert all(f"({exhibit.number})" in numbers for exhibit in museum.EXHIBITS.values())
    assert all(row[2] for row in rows)


def test_the_tally_counts_what_fails_with_the_bug_and_passes_without(reports):
    rows = {name: counts for name, *counts in labels.tally(reports, ["identity", "dense", "bias", "gradients"]).rows}
    assert rows == {"`identity`": ["0", "0"], "`dense`": ["0", "0"], "`bias`": ["1", "0"], "`gradients`": ["2", "1"]}


def test_a_picture_of_lines_tells_their_ends():
    lines = [
        pictures.Line("with", "dora", [(1, 0.5), (10, 2.0)]),
        pictures.Line("without", "dora", [(1, 1), (10, 1)], True),
    ]
    shown = pictures.picture(pictures.Panel("loss", "step", "", lines, log="x"), alt="Two lines.", caption="See.")
    assert shown.alt == "Two lines. loss, with: 0.5 to 2. loss, without: 1 to 1."
    assert shown.svg == pictures.picture(pictures.Panel("loss", "step", "", lines, log="x"), alt="a", caption="").svg
    two = [pictures.Panel("loss", "step", unit, lines) for unit in ("nats", "bits")]
    labelled, once = (pictures.picture(*panels, alt="a", caption="") for panels in (two, [two[0], two[0]]))
    assert labelled.svg != once.svg  # a unit of its own is said


def test_every_exhibit_has_its_picture_and_its_lines_in_the_chapter():
    cells = [cell for cell in nbformat.read(BOOK / "museum.ipynb", 4).cells if cell.get("outputs")]
    data = [(cell.source, cell.outputs[-1].get("data", {})) for cell in cells]
    drawn = "".join(source for source, d in data if "<figure" in d.get("text/html", "") and "pictures." in source)
    told = "\n\n".join(d["text/markdown"] for source, d in data if source.startswith("label("))
    otherwise = {"hra-gram-schmidt": "apply_GS=True", "merge-cycles": "merge_adapter()"}
    for exhibit in museum.EXHIBITS.values():
        assert otherwise.get(exhibit.name, f'"{exhibit.name}"') in drawn, exhibit.name
        part = told.partition(f"**{exhibit.number}. ")[2].partition("\n\n**")[0]
        assert "*Let through:*" in part and "*Caught by* `" in part and "*Instead:*" in part
        assert "```python" in part, exhibit.name
