"""The notebooks run from top to bottom, use the public API alone, and are committed with their pictures."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import splax

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
LARGEST = 400_000  # bytes of a file
TIMEOUT = 600  # seconds for a cell, on a machine with other things to do

pytestmark = [
    # Neither is about our code: pyzmq and jupyter_client ask for an event loop in ways that new Pythons
    # deprecate, and jupyter_core announces that it will move its folders.
    pytest.mark.filterwarnings("ignore:There is no current event loop:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Jupyter is migrating its paths:DeprecationWarning"),
]

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_of(path: Path) -> list[str]:
    return [cell.source for cell in read(path).cells if cell.cell_type == "code"]


def outputs_of(path: Path) -> list[nbformat.NotebookNode]:
    return [output for cell in read(path).cells for output in cell.get("outputs", [])]


def test_there_are_notebooks():
    assert [path.name[:3] for path in NOTEBOOKS] == ["01_", "02_", "03_"]


@each_notebook
def test_it_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("SPLAX_FAST", "1")
    notebook = read(path)
    client = NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        # The message holds the cell and its traceback; the traceback of nbclient would hide it.
        pytest.fail(f"{path.name}: {error}", pytrace=False)


@each_notebook
def test_it_uses_only_the_public_api(path):
    for source in code_of(path):
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not [name for name in node.names if name.name.startswith("splax.")]
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("splax."), node.module
                if node.module == "splax":
                    assert {name.name for name in node.names} <= splax._MODULES.keys()
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "splax":
                assert node.attr in splax._MODULES, f"splax.{node.attr}"


@each_notebook
def test_it_is_committed_with_its_outputs(path):
    outputs = outputs_of(path)
    assert any("image/png" in output.get("data", {}) for output in outputs), "run it and save it"
    assert not any(output.output_type == "error" for output in outputs)
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run it top to bottom"
    assert path.stat().st_size < LARGEST


@each_notebook
def test_its_outputs_name_no_place_of_a_machine(path):
    for output in outputs_of(path):
        text = output.get("text", "") + "".join(map(str, output.get("data", {}).get("text/plain", "")))
        assert not re.search(r"(?<![\w.])/(\w[\w.-]*/){2}|[A-Z]:\\\\", text), text
        assert "Warning" not in text


@each_notebook
def test_its_metadata_is_of_no_machine_and_no_time(path):
    notebook = read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    assert all("execution" not in cell.metadata for cell in notebook.cells)
