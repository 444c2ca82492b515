"""The committed notebooks keep the rules, and each rule can be broken."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from execute import OUTPUTS_OF, execute, main, normalise, source_digest
from notebook_rules import RULES
from paths import ROOT, notebooks

BY_NAME = {rule.__name__: rule for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_committed_notebooks(rule):
    breaches = [
        f"{path.relative_to(ROOT)}: {breach}"
        for path in notebooks()
        for breach in rule(nbformat.read(path, as_version=4))
    ]
    assert not breaches, "\n".join(breaches)


def test_committed_notebooks_are_normal():
    unusual = [
        str(path.relative_to(ROOT))
        for path in notebooks()
        if normalise(nbformat.reads(path.read_text(), as_version=4)) != path.read_text()
    ]
    assert not unusual, f"run `make notebooks` for {', '.join(unusual)}"


# --- each rule finds what it is for -------------------------------------------


def code(source="1 + 1", count=1, tags=(), outputs=(), **metadata):
    cell = new_code_cell(
        source, execution_count=count, outputs=list(outputs), metadata={"tags": list(tags), **metadata}
    )
    if "varies" in tags and OUTPUTS_OF not in metadata:
        cell.metadata[OUTPUTS_OF] = source_digest(cell)
    return cell


def shows(text=None, **data):
    data = {kind.replace("_", "/"): content for kind, content in data.items()}
    return new_output("display_data", data=data) if data else new_output("stream", name="stdout", text=text)


VARIES = ("varies", "nbval-ignore-output")
GOOD = [
    new_markdown_cell(
        "# Title\n$r$ in a [link](glossary.md#rank), ![a line going down](x.svg) <details>more</details>"
    ),
    code(outputs=[shows("2\n"), shows(text_html='<img src="data:image/png;base64,/tmp/0x00000000" alt="a curve">')]),
    code("train()", 2, VARIES),
    code("assert loss < 1", 3),
    code("time()\nassert True", 4, VARIES),
    code("plot()", 5, outputs=[shows(image_png="iVBO")], mystnb={"image": {"alt": "a curve"}}),
]

BAD = {
    "counts_in_order": [
        [code(count=None)],
        [code(), code(count=3)],
        [code(count=2)],
    ],
    "nothing_skipped": [
        [code(tags=["nbval-skip"])],
        [code("# NBVAL_SKIP\n1")],
        [code("# NBVAL_IGNORE_OUTPUT\n1")],
    ],
    "varying_is_bounded": [
        [code(tags=["varies"]), code("assert x", 2)],
        [code(tags=["nbval-ignore-output"]), code("assert x", 2)],
        [code(tags=VARIES)],
        [code(tags=VARIES), code("x", 2), code("assert x", 3)],
    ],
    "varying_is_current": [
        [code("assert x < 2", tags=VARIES, **{OUTPUTS_OF: "0" * 16})],
    ],
    "legible_everywhere": [
        [new_markdown_cell("```{note}\nraw\n```")],
        [new_markdown_cell(":::{admonition} T\nraw\n:::")],
        [new_markdown_cell("as {cite}`hu2022lora` says")],
    ],
    "images_have_alt_text": [
        [new_markdown_cell("![](x.svg)")],
        [new_markdown_cell('<img src="x.svg">')],
        [new_markdown_cell('<img src="x.svg" alt="">')],
        [code(outputs=[shows(image_png="iVBO")])],
        [code(outputs=[shows(text_html="<img src='x'>")])],
    ],
    "widgets_are_figures": [
        [code(outputs=[shows(**{"application_vnd.jupyter.widget-view+json": {"model_id": "0" * 32}})])],
    ],
    "outputs_are_portable": [
        [code(outputs=[shows("<Thing at 0x7f3a5c0d1e20>")])],
        [code(outputs=[shows("saved to /home/someone/x.pt")])],
        [code(outputs=[shows(f"saved to {ROOT}/x.pt")])],
        [code(outputs=[shows("Traceback (most recent call last)\n")])],
        [code(outputs=[new_output("error", ename="E", evalue="", traceback=[])])],
    ],
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rules_let_a_good_notebook_pass(rule):
    assert list(rule(new_notebook(cells=GOOD))) == []


@pytest.mark.parametrize("name, number", [(name, k) for name, bad in BAD.items() for k in range(len(bad))])
def test_rules_find_a_bad_notebook(name, number):
    assert list(BY_NAME[name](new_notebook(cells=BAD[name][number])))


def test_every_rule_has_a_bad_notebook():
    assert set(BAD) == set(BY_NAME)


# --- the normal form ----------------------------------------------------------

LINKED_SLIDERS = """
import ipywidgets
a, b = ipywidgets.IntSlider(value={value}), ipywidgets.IntSlider()
link = ipywidgets.jslink((a, 'value'), (b, 'value'))
ipywidgets.VBox([a, b])
"""


def test_normalise_joins_streams_and_keeps_unlike_ones():
    pieces = [
        new_output("stream", name="stdout", text="one "),
        new_output("stream", name="stdout", text="two\n"),
        new_output("stream", name="stderr", text="three\n"),
    ]
    outputs = nbformat.reads(normalise(new_notebook(cells=[code(outputs=pieces)])), as_version=4).cells[0].outputs
    assert [(output.name, output.text) for output in outputs] == [("stdout", "one two\n"), ("stderr", "three\n")]


def test_normalise_forgets_the_editor_and_repeated_ids():
    nb = new_notebook(cells=[code(execution={"iopub.status.busy": "now"}), code(count=2)])
    nb.cells[1]["id"] = nb.cells[0]["id"]
    nb.metadata["vscode"] = {"interpreter": "mine"}
    text = normalise(nb)
    ids = [cell.id for cell in nbformat.reads(text, as_version=4).cells]
    assert "vscode" not in text and "iopub" not in text and len(set(ids)) == 2
    assert normalise(nbformat.reads(text, as_version=4)) == text


@pytest.fixture
def notebook(tmp_path):
    """Write a notebook of these cells and return its path."""

    def write(*cells):
        path = tmp_path / "page.ipynb"
        nbformat.write(new_notebook(cells=list(cells)), path)
        return path

    return write


def test_a_second_execution_changes_no_byte(notebook):
    path = notebook(
        new_code_cell(LINKED_SLIDERS.format(value=3)),
        new_code_cell("import os; print(os.environ['OMP_NUM_THREADS'])"),
    )
    assert execute(path)
    first = path.read_text()
    assert "LinkModel" in first
    assert normalise(nbformat.reads(first, as_version=4)) == first
    assert not execute(path)
    assert path.read_text() == first


def test_cells_that_vary_keep_their_outputs_until_refreshed(notebook):
    path = notebook(
        new_code_cell(
            "import time\nnow = time.time_ns()\nassert now > 0\nnow",
            metadata={"tags": ["varies", "nbval-ignore-output"]},
        ),
        new_code_cell(
            LINKED_SLIDERS.format(value="now % 10**6") + "# assert",
            metadata={"tags": ["varies", "nbval-ignore-output"]},
        ),
        new_code_cell("now > 0"),
    )
    execute(path)
    first = path.read_text()
    assert not execute(path) and path.read_text() == first
    assert execute(path, refresh=True) and path.read_text() != first

    # A changed source has no outputs to keep.
    nb = nbformat.read(path, as_version=4)
    nb.cells[0].source = "now = 5\nnow"
    nbformat.write(nb, path)
    execute(path)
    assert nbformat.read(path, as_version=4).cells[0].outputs[0].data["text/plain"] == "5"


def test_a_failing_cell_is_named_and_the_file_left_alone(notebook, capsys):
    path = notebook(new_code_cell("x = 1"), new_code_cell("x / 0"))
    before = path.read_bytes()
    assert main([str(path)]) == 1
    said = capsys.readouterr().err
    assert "page.ipynb: cell 2 fails with ZeroDivisionError: division by zero\n    x / 0" in said
    assert "Traceback" not in said
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_missing_notebook_gets_a_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "none.ipynb")]) == 1
    assert "there is no such file" in capsys.readouterr().err
