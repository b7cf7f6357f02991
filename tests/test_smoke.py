"""Every notebook runs from top to bottom through papermill at smoke size, and really trains."""

import json
import resource

import papermill
import pytest
import yaml

from ntf_utils import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
# 30 s a notebook on two cores. Processor time, so that a busy machine fails no test.
LIMIT = 2 * 30
# Writes with the model that the book ships; tests/test_any_model.py makes its experiment's runs, on invented data.
WITHOUT_RUNS = {"04_any_model"}


def seconds_of_children() -> float:
    """Processor time of the processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_smoke_run_trains(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("NTF_STORE", str(tmp_path))  # an empty store: nothing can come from the records
    monkeypatch.setenv("NTF_QUIET", "1")
    profile = yaml.safe_load((notebook.parent / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))
    start = seconds_of_children()
    papermill.execute_notebook(
        notebook, tmp_path / "out.ipynb", profile, cwd=notebook.parent, progress_bar=False
    )
    seconds = seconds_of_children() - start
    records = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("runs/*/*.json")]
    assert bool(records) == (notebook.stem not in WITHOUT_RUNS)
    assert all(record["provenance"]["seconds"] > 0 for record in records)
    assert seconds < LIMIT
