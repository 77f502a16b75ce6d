"""The notebooks run from top to bottom, quietly: no cell raises, and no library draws a red box."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parent.parent / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def run(path: Path, folder: Path):
    """Return a notebook with what its cells print, run in a folder of its own."""
    book = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": folder}})
    client.execute()
    return book


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == [
        "1_the_game",
        "2_your_own_data_and_reward",
        "3_another_algorithm_compared",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_nothing_is_red(path, tmp_path):
    book = run(path, tmp_path)
    outputs = [o for cell in book.cells if cell.cell_type == "code" for o in cell.outputs]
    red = [o for o in outputs if o.get("name") == "stderr" or o.output_type == "error"]
    assert not red
    assert outputs
    # A table that is redrawn in place is one output, not one for each iteration.
    assert max(len(cell.get("outputs", ())) for cell in book.cells) <= 8


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_and_installs_first(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert "pip" in "".join(code[0]["source"])
