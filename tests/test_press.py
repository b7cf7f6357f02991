"""What the press keeps of an executed notebook."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ntf_utils import ROOT
from ntf_utils.press.pairs import keep_text
from ntf_utils.refusal import Refusal

PATH = ROOT / "notebooks" / "invented" / "01_invented.py"


def executed(*outputs):
    """A notebook as a kernel leaves it: its code cell shows `outputs`."""
    volatile = {"execution": {"at": "noon"}}
    cell = new_code_cell("x", execution_count=3, outputs=list(outputs), metadata=volatile)
    return new_notebook(cells=[cell, new_markdown_cell("words")], metadata={"widgets": {}})


def test_text_stays_and_pictures_go():
    figure = new_output("display_data", {"image/png": "…", "text/plain": "<Figure size 640x480>"})
    picture_alone = new_output("display_data", {"image/svg+xml": "<svg/>"})
    table = new_output("execute_result", {"text/html": "<table/>", "text/plain": "a  1"}, execution_count=3)
    notebook = executed(figure, picture_alone, table, new_output("stream", name="stdout", text="hello\n"))
    keep_text(notebook, PATH)
    cell = notebook.cells[0]
    assert [output.get("data") for output in cell.outputs[:2]] == [
        {"text/plain": "<Figure size 640x480>"},
        {"text/plain": "a  1"},
    ]
    assert cell.outputs[2].text == "hello\n"
    assert not cell.metadata
    assert not notebook.metadata


def test_cell_ids_depend_on_the_text_alone():
    first, second = executed(), executed()
    second.cells.append(new_code_cell("x"))  # a repeated cell
    for notebook in (first, second):
        keep_text(notebook, PATH)
    ids = [cell.id for cell in second.cells]
    assert ids[:2] == [cell.id for cell in first.cells]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (new_output("stream", name="stderr", text="beware"), "cell 0: writes to stderr.*: beware"),
        (new_output("display_data", {"text/plain": "<B at 0x7f00dead>"}), "cell 0: shows <B at 0x7f00dead>"),
    ],
)
def test_what_would_not_be_the_same_twice_is_refused(output, sentence):
    with pytest.raises(Refusal, match=sentence):
        keep_text(executed(output), PATH)
