"""Execute notebooks in place: `python book/_tools/execute.py [notebooks ...]`, all of them if none is named.

What is written is normal: a second run on the same machine gives the same bytes. A cell tagged `varies` (timings,
trained scores) keeps the outputs it has while its source stays the same; REFRESH=1 takes the new ones.
"""

import copy
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from paths import ROOT, notebooks

# Notebooks run in this environment here and under pytest: sums depend on the number of threads, hash order on the seed.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}

WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
REFERENCE = re.compile(r"IPY_MODEL_([0-9a-f]{32})")

# In a cell's metadata: a digest of the source that its kept outputs came from.
OUTPUTS_OF = "outputs_of"

CELL_TIMEOUT = 300


def digest(*parts: object) -> str:
    return hashlib.sha256(":".join(map(str, parts)).encode()).hexdigest()


def is_varying(cell) -> bool:
    return cell.cell_type == "code" and "varies" in cell.metadata.get("tags", [])


def source_digest(cell) -> str:
    return digest(cell.source)[:16]


# --- widgets -----------------------------------------------------------------


def widget_state(nb) -> dict:
    return nb.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})


def shown_models(cell) -> list[str]:
    """The ids of the widgets that a cell displays."""
    views = [output.get("data", {}).get(WIDGET_VIEW) for output in cell.get("outputs", [])]
    return [view["model_id"] for view in views if view]


def references(model) -> list[str]:
    return REFERENCE.findall(json.dumps(model, sort_keys=True))


def reachable(ids, state) -> Iterator[str]:
    """The models that `ids` name and those they refer to, in an order that does not depend on the ids."""
    seen = set()
    stack = list(reversed(ids))
    while stack:
        model = stack.pop()
        if model in state and model not in seen:
            seen.add(model)
            yield model
            stack.extend(reversed(references(state[model])))


def normal_widget_ids(nb) -> dict[str, str]:
    """A new id per widget: after the cell that shows it first, and for the rest (links) after what it holds."""
    state = widget_state(nb)
    ids: dict[str, str] = {}

    def name(models, scope):
        for k, model in enumerate(models):
            if model not in ids:
                ids[model] = digest("widget", scope, k)[:32]

    for cell in nb.cells:
        name(reachable(shown_models(cell), state), cell.id)

    def content(model):
        return REFERENCE.sub(lambda found: ids.get(found[1], ""), json.dumps(state[model], sort_keys=True))

    unshown = sorted(set(state) - set(ids), key=content)
    inner = {reference for model in unshown for reference in references(state[model])}
    roots = [model for model in unshown if model not in inner]
    name(reachable(roots + unshown, state), "unshown")
    return ids


# --- the normal form ---------------------------------------------------------


def merge_streams(outputs: list) -> list:
    """Join neighbouring pieces of one stream: where the kernel cuts them is chance."""
    merged: list = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output["output_type"] == last.get("output_type") == "stream" and output["name"] == last["name"]:
            last["text"] += output["text"]
        else:
            merged.append(output)
    return merged


def normalise(nb) -> str:
    """The notebook's text in normal form. Normalising twice changes nothing more."""
    nb = copy.deepcopy(nb)
    widgets = nb.metadata.get("widgets")
    nb.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    if widgets and widgets.get(WIDGET_STATE, {}).get("state"):
        nb.metadata["widgets"] = widgets
    nb.nbformat, nb.nbformat_minor = 4, 5

    seen = set()
    for number, cell in enumerate(nb.cells):
        # Ids are kept, so that an inserted cell changes no other; a missing or repeated one is made from the place.
        if "id" not in cell or cell.id in seen:
            cell["id"] = digest("cell", number, cell.source)[:8]
        seen.add(cell.id)
        for transient in ("execution", "ExecuteTime", "collapsed", "outputId", "colab"):
            cell.metadata.pop(transient, None)
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)

    ids = normal_widget_ids(nb)
    text = nbformat.writes(nb)
    text = re.sub(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", lambda found: ids.get(found[0], found[0]), text)
    # Once more, because keys are sorted and the widgets' ids are keys.
    return nbformat.writes(nbformat.reads(text, as_version=4)).rstrip("\n") + "\n"


# --- cells that vary ---------------------------------------------------------


def keep_outputs(before, after, refresh: bool = False):
    """Give the cells of `after` that vary the outputs, widgets included, that they have in `before`. Both normal."""
    after = copy.deepcopy(after)
    old_cells = {cell.id: cell for cell in before.cells}
    old_state, state = widget_state(before), widget_state(after)
    dropped: set[str] = set()
    for cell in after.cells:
        cell.metadata.pop(OUTPUTS_OF, None)
        if not is_varying(cell):
            continue
        cell.metadata[OUTPUTS_OF] = source_digest(cell)
        old = old_cells.get(cell.id)
        if refresh or old is None or old.metadata.get(OUTPUTS_OF) != source_digest(cell):
            continue
        dropped.update(reachable(shown_models(cell), state))
        cell.outputs = copy.deepcopy(old.outputs)
        for output in cell.outputs:
            if "execution_count" in output:
                output["execution_count"] = cell.execution_count
        state.update({model: old_state[model] for model in reachable(shown_models(cell), old_state)})
    shown = set(reachable([model for cell in after.cells for model in shown_models(cell)], state))
    for model in dropped - shown:
        del state[model]
    return after


# --- the command -------------------------------------------------------------


class ExecutionFailed(Exception):
    """A sentence for the author of the notebook."""


def ends_in_error(cell) -> bool:
    return any(output.output_type == "error" for output in cell.get("outputs", []))


def run(nb, folder: Path):
    """A fresh execution of the notebook's code."""
    nb = copy.deepcopy(nb)
    nb.metadata.pop("widgets", None)
    client = NotebookClient(
        nb,
        kernel_name="python3",
        timeout=CELL_TIMEOUT,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        # Errors only: a kernel on this machine need not warn that its loopback traffic is not encrypted.
        extra_arguments=["--IPKernelApp.log_level=40"],
    )
    try:
        return client.execute()
    except CellExecutionError as error:
        number, cell = next((k, cell) for k, cell in enumerate(nb.cells, 1) if ends_in_error(cell))
        source = "\n".join("    " + line for line in cell.source.splitlines())
        raise ExecutionFailed(f"cell {number} fails with {error.ename}: {error.evalue}\n{source}") from error
    except CellTimeoutError as error:
        raise ExecutionFailed(f"a cell ran longer than {CELL_TIMEOUT} s.") from error
    except DeadKernelError as error:
        raise ExecutionFailed("the kernel died; it may have run out of memory.") from error


def write_whole(path: Path, text: str) -> None:
    """Replace the file in one step, so that an interrupted run leaves the old one."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text)
    os.chmod(file.name, path.stat().st_mode)
    os.replace(file.name, path)


def execute(path: Path, refresh: bool = False) -> bool:
    """Execute one notebook in place; True if the file changed."""
    text = path.read_text()
    # Normal from the start: ids must be the same before and after for outputs to be kept.
    before = nbformat.reads(normalise(nbformat.reads(text, as_version=4)), as_version=4)
    after = nbformat.reads(normalise(run(before, path.parent)), as_version=4)
    result = normalise(keep_outputs(before, after, refresh))
    if result == text:
        return False
    write_whole(path, result)
    return True


def main(arguments: list[str]) -> int:
    os.environ.update(ENVIRONMENT)
    paths = [Path(argument).resolve() for argument in arguments] or notebooks()
    if not paths:
        print("There are no notebooks yet.")
    failed = 0
    for path in paths:
        name = os.path.relpath(path, ROOT)
        if not path.is_file():
            print(f"{name}: there is no such file.", file=sys.stderr)
            failed += 1
            continue
        nb = nbformat.read(path, as_version=4)
        print(f"{name}: {sum(cell.cell_type == 'code' for cell in nb.cells)} code cells ... ", end="", flush=True)
        start = time.monotonic()
        try:
            changed = execute(path, refresh=os.environ.get("REFRESH") == "1")
        except ExecutionFailed as error:
            print(f"failed; the file is left as it was.\n{name}: {error}", file=sys.stderr)
            failed += 1
            continue
        print(f"{'changed' if changed else 'unchanged'}, {time.monotonic() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
