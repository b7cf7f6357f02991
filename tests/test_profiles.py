"""Profiles are papermill parameter files; a wrong name or value in one stops before any training."""

import papermill
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError

from ntf_utils import ROOT
from ntf_utils.refusal import Refusal

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
PROFILES = sorted((ROOT / "notebooks").glob("*/profiles/*.yaml"))


def name(path):
    return f"{path.relative_to(ROOT / 'notebooks').with_suffix('')}"


each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)


def opening(notebook, parameters):
    """Run a notebook as far as its check of the parameters, with `parameters` injected as papermill does."""
    space = {"__name__": "__main__"}
    injected = False
    for cell in papermill.iorw.load_notebook_node(str(notebook)).cells:
        if cell.cell_type != "code":
            continue
        exec(cell.source, space)
        if injected:
            return
        if "parameters" in cell.metadata.get("tags", []):
            space |= parameters
            injected = True
    raise AssertionError(f"{notebook.name}: no cell follows the parameters")


def test_every_chapter_has_its_profiles():
    for chapter in {notebook.parent for notebook in NOTEBOOKS}:
        assert {path.stem for path in chapter.glob("profiles/*.yaml")} == {"smoke", "gpu", "paper"}


@pytest.mark.parametrize("profile", PROFILES, ids=name)
def test_profile_says_what_it_is_and_is_accepted(profile):
    text = profile.read_text(encoding="utf-8")
    comment = text[: text.index("\n\n")].splitlines()
    assert all(line.startswith("#") for line in comment)
    for word in ("command", "expected", "cost", "machine"):
        assert any(line.lower().startswith(f"# {word}:") for line in comment), f"no '# {word}:' line"
    for notebook in sorted(profile.parents[1].glob("*.ipynb")):
        opening(notebook, yaml.safe_load(text))


@each_notebook
def test_unknown_name_is_refused(notebook):
    with pytest.raises(Refusal, match="unknown parameter 'sedes'"):
        opening(notebook, {"sedes": 3})


@each_notebook
def test_negative_numbers_are_refused(notebook):
    space = papermill.inspect_notebook(notebook)
    numbers = [key for key, known in space.items() if known["inferred_type_name"] in ("int", "float")]
    for number in numbers:
        with pytest.raises(Refusal, match=number):
            opening(notebook, {number: -1})


@pytest.mark.parametrize("chapter", sorted({path.parent for path in NOTEBOOKS}), ids=lambda path: path.name)
def test_papermill_shows_one_sentence_and_nothing_is_run(chapter, tmp_path, monkeypatch):
    monkeypatch.setenv("NTF_STORE", str(tmp_path))
    notebook = min(chapter.glob("*.ipynb"))
    with pytest.raises(PapermillExecutionError) as stopped:
        papermill.execute_notebook(
            notebook, tmp_path / "out.ipynb", {"sedes": 3}, cwd=chapter, progress_bar=False
        )
    assert stopped.value.ename == "Refusal"
    assert stopped.value.evalue.count("\n") == 0
    assert not list(tmp_path.glob("runs/*/*"))
