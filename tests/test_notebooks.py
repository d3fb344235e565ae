"""Every notebook is kept with its outputs, and runs clean again."""

from itertools import groupby
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_clean(path, monkeypatch):
    monkeypatch.setenv("NOTEBOOK_QUICK", "1")  # fewer steps and seeds, the same kinds of output
    notebook = nbformat.read(path, as_version=4)
    kept = [_kinds(cell) for cell in notebook.cells]
    resources = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    assert [_kinds(cell) for cell in notebook.cells] == kept


def _kinds(cell):
    """The sorts of a cell's outputs: last digits differ from machine to machine.

    A stream is counted once, however many messages it came in: that is a matter of timing.
    """
    outputs = cell.get("outputs", [])
    kinds = [(output.output_type, sorted(output.get("data", {})), output.get("name")) for output in outputs]
    return [kind for kind, _ in groupby(kinds)]
