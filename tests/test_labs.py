"""What every lab has, in the order in which a reader meets it; and that a reader's own answer is what is graded."""

import copy
import json
import re

import nbformat
import pytest

from adapterlab.kit import grade
from execute import run
from paths import ROOT

LABS = {lab: nbformat.read(ROOT / "labs" / f"{lab}.ipynb", as_version=4) for lab in grade.labs()}
each_lab = pytest.mark.parametrize("lab", LABS)

FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["hide-cell"]}


def code_cells(lab):
    return [cell for cell in LABS[lab].cells if cell.cell_type == "code"]


def steps(cells, call):
    """(index of the cell, name of the step) where `lab.call` takes an answer."""
    found = []
    for k, cell in enumerate(cells):
        if match := re.search(rf'lab\.{call}\(\s*"(\w+)"', cell.source):
            found.append((k, match[1]))
        elif match := re.search(rf"@lab\.{call}\b[^\n]*\n(?:@.*\n)*(?:def|class) (\w+)", cell.source):
            found.append((k, match[1]))
    return found


def test_there_are_nine_and_the_contents_have_them():
    assert [lab[:4] for lab in LABS] == [f"lab{k}" for k in range(1, 10)]
    assert sorted(path.stem for path in (ROOT / "labs").glob("*.ipynb")) == list(LABS)
    contents = (ROOT / "_toc.yml").read_text()
    assert re.findall(r"file: labs/(lab\w+)", contents) == list(LABS)


@each_lab
def test_it_says_what_it_is_and_ends_in_what_was_done(lab):
    first = LABS[lab].cells[0]
    assert first.cell_type == "markdown" and first.source.startswith(f"# Lab {lab[3]} · ")
    for row in ("goal", "time", "you need"):
        assert re.search(rf"^\| *\**{row}\** *\|", first.source, re.MULTILINE), row
    low, high = map(int, re.search(r"(\d+) to (\d+) minutes", first.source).groups())
    assert 20 <= low < high <= 40
    titles = [line for cell in LABS[lab].cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    assert sum(title.startswith("## Step ") for title in titles) >= 3
    assert "## Stretch" in [title[:10] for title in titles] and "## What you take home" in titles
    assert any("lab.summary()" in cell.source for cell in code_cells(lab)[-3:])


@each_lab
def test_after_each_exercise_come_its_folded_solution_and_its_grade(lab):
    cells = code_cells(lab)
    asked, solved, graded = (steps(cells, call) for call in ("exercise", "solution", "grade"))
    assert [name for _, name in asked] == [name for _, name in solved] == [name for _, name in graded]
    assert [k for k, _ in solved] == [k + 1 for k, _ in asked] and [k for k, _ in graded] == [k + 2 for k, _ in asked]
    for k, name in asked:
        assert "..." in cells[k].source, name
        printed = "".join(output.get("text", "") for output in cells[k].outputs)
        assert f"{name}: empty so far" in printed
        metadata = copy.deepcopy(cells[k + 1].metadata)
        prompts = metadata.pop("mystnb")
        assert metadata == FOLDED and prompts["code_prompt_show"] == "Show the solution"
        assert cells[k + 1].source.startswith("# @title Solution")
        assert f"{name}: the solution stands in" in "".join(o.get("text", "") for o in cells[k + 1].outputs)


@pytest.mark.parametrize("right", [True, False])
def test_a_readers_own_answer_is_what_is_graded_and_run_all_reaches_the_end(right):
    notebook = copy.deepcopy(LABS["lab2_bias_bug"])
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    place = dict((name, k) for k, name in steps(cells, "exercise"))["effective"]
    divisor = "V.norm(dim=1)" if right else "W.norm(dim=1)"
    cells[place].source = (
        f"@lab.exercise\ndef effective(W, b, A, B, s, m):\n    V = W + s * B @ A\n    d = {divisor}\n"
        "    mine.append(len(V))\n    return (m / d)[:, None] * V, b\n\n\nmine = []"
    )
    last = next(cell for cell in reversed(cells) if "lab.summary()" in cell.source)
    last.source = "print('last cell reached, called', len(mine) > 2)\n" + last.source
    done = [cell for cell in run(notebook, ROOT / "labs").cells if cell.cell_type == "code"]
    said = json.dumps(done[place + 1].outputs) + json.dumps(done[place + 2].outputs)
    assert "yours stays" in said and ("Right." in said if right else "Not yet." in said)
    assert "the solution's" not in json.dumps(done[place + 2].outputs)
    assert "last cell reached, called True" in json.dumps(done[-1].outputs)
    assert "effective yours" in " ".join(json.dumps(done[-1].outputs).replace("|", " ").split())
