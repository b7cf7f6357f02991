"""The notebook pairs: the `.py` is the source, the `.ipynb` beside it keeps the text that the code prints.

Pictures, html and widget state stay out of git, so a diff shows which numbers moved. Every output has its
text: what is not printed as text is not reviewed.
"""

import hashlib
import re
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from ntf_utils import ROOT
from ntf_utils.press.execution import execute
from ntf_utils.refusal import Refusal

# myst-nb's glue stores a value under its own prefix.
TEXT_TYPES = ("text/plain", "text/markdown", "text/latex", "application/papermill.record/text/plain")


def refresh(paper: str | None = None, check: bool = False) -> None:
    """Execute the sources and write their notebooks, each in its fresh kernel.

    Args:
        paper: a folder of `notebooks/`; None for all of them.
        check: write nothing.

    Raises:
        Refusal: no such paper; a cell fails; with `check`, a notebook in git is not what the code gives.
    """
    sources = sorted((ROOT / "notebooks").glob(f"{paper or '*'}/*.py"))
    if not sources:
        raise Refusal(f"no notebooks in notebooks/{paper or ''}")
    stale = []
    for source in sources:
        notebook = jupytext.read(source)
        seconds = execute(notebook, source)
        keep_text(notebook, source)
        text = nbformat.writes(notebook) + "\n"
        target = source.with_suffix(".ipynb")
        name = str(target.relative_to(ROOT))
        moved = not target.exists() or target.read_text(encoding="utf-8") != text
        if moved and not check:
            target.write_text(text, encoding="utf-8")
        if moved:
            stale.append(name)
        print(f"{name}: {seconds:.0f} s, {'changed' if moved else 'unchanged'}", flush=True)
    if check and stale:
        raise Refusal(
            f"not what the code gives: {', '.join(stale)}; run `make notebooks` and review the diff"
        )


def keep_text(notebook: NotebookNode, path: Path) -> None:
    """Strip an executed notebook, in place, to what is reviewed in git.

    Raises:
        Refusal: a cell writes to stderr, or prints a memory address, which is never the same twice.
    """
    notebook.metadata = _only(notebook.metadata, "jupytext", "kernelspec")
    taken: set[str] = set()
    for number, cell in enumerate(notebook.cells):
        cell.id = _stable_id(cell, taken)
        if cell.cell_type != "code":
            continue
        cell.metadata = _only(cell.metadata, "tags", "mystnb")
        where = f"{path.relative_to(ROOT)}, cell {number}"
        cell.outputs = [output for output in cell.outputs if _keep_text_of(output, where)]


def _keep_text_of(output: NotebookNode, where: str) -> bool:
    """Strip one output in place; False where nothing of it is text."""
    if output.output_type == "stream":
        if output.name == "stderr":
            raise Refusal(f"{where}: writes to stderr, which fails the strict book: {output.text.strip()}")
        return True
    output.data = _only(output.data, *TEXT_TYPES)
    output.metadata = NotebookNode()
    for text in output.data.values():
        if address := re.search(r"<.* at 0x[0-9a-f]{6,}>", text):
            raise Refusal(f"{where}: shows {address[0]}; show something whose text says what it holds")
    return bool(output.data)


def _only(mapping: dict, *names: str) -> NotebookNode:
    return NotebookNode({name: mapping[name] for name in names if name in mapping})


def _stable_id(cell: NotebookNode, taken: set[str]) -> str:
    """A cell id from the cell's text alone, so that executing again changes no line of the file."""
    text = f"{cell.cell_type}\n{cell.source}"
    while (name := hashlib.sha256(text.encode()).hexdigest()[:8]) in taken:
        text += "\n"  # a repeated cell
    taken.add(name)
    return name
