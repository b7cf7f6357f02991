"""The notebook pairs: both files say the same, and git holds text outputs only."""

from pathlib import Path

import jupytext
import pytest

from ntf_utils import ROOT
from ntf_utils.press.pairs import TEXT_TYPES

NOTEBOOKS = ROOT / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("*/*.py"))
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")


def cells(path: Path) -> list[tuple]:
    """What must agree between the two files of a pair."""
    return [
        (cell.cell_type, cell.source, cell.metadata.get("tags"), cell.metadata.get("mystnb"))
        for cell in jupytext.read(path).cells
    ]


def test_every_notebook_has_its_source():
    assert SOURCES
    assert sorted(NOTEBOOKS.glob("*/*.ipynb")) == [source.with_suffix(".ipynb") for source in SOURCES]


@each_source
def test_pair_is_in_sync(source):
    notebook = source.with_suffix(".ipynb")
    assert cells(source) == cells(notebook), f"{source.name} was edited: run `make notebooks`"


@each_source
def test_papermill_finds_kernel_and_parameters(source):
    notebook = jupytext.read(source)
    kernel = notebook.metadata.kernelspec
    assert (kernel.name, kernel.language) == ("python3", "python")
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1


@each_source
def test_git_holds_text_only(source):
    notebook = jupytext.read(source.with_suffix(".ipynb"))
    assert set(notebook.metadata) <= {"jupytext", "kernelspec"}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            assert set(output.get("data", {})) <= set(TEXT_TYPES)
