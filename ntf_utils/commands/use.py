"""Which records the book uses: those behind a verdict, and those that a notebook asks for."""

import json
import os
import tempfile
from pathlib import Path

import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from ntf_utils import ROOT
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Store

NOTEBOOKS = ROOT / "notebooks"


def keys_in_use(store: Store) -> set[str]:
    """The keys of the records that the book rests on.

    Every notebook is executed from the records, at its own scale and with each profile that has verdicts.

    Raises:
        Refusal: a notebook does not run from the records, so nobody can tell what it uses.
    """
    used = _behind_verdicts(store)
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder, "used")
        for notebook in sorted(NOTEBOOKS.glob("*/*.ipynb")):
            for values in _scales(notebook, store):
                _run(notebook, values, notes, Path(folder, "out.ipynb"), store)
        return used | set(notes.read_text().split() if notes.exists() else [])


def _behind_verdicts(store: Store) -> set[str]:
    verdicts = [json.loads(path.read_text(encoding="utf-8")) for path in (store.root / "verdicts").rglob("*.json")]
    return {key for verdict in verdicts for key in verdict.get("runs", [])}


def _scales(notebook: Path, store: Store) -> list[dict]:
    """The parameters to run a notebook with: its own, and those of each recorded profile."""
    scales = [{}]
    for path in sorted((notebook.parent / "profiles").glob("*.yaml")):
        if (store.root / "verdicts" / notebook.parent.name / path.stem).is_dir():
            scales.append(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    return scales


def _run(notebook: Path, values: dict, notes: Path, output: Path, store: Store) -> None:
    told = {"NTF_USED": str(notes), "NTF_RECORDED_ONLY": "1", "NTF_STORE": str(store.root), "NTF_FRESH_SINCE": ""}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)  # the kernel inherits it
    try:
        papermill.execute_notebook(
            notebook, output, values, cwd=notebook.parent, progress_bar=False,
            extra_arguments=["--log-level=CRITICAL"],
        )  # fmt: skip
    except (PapermillExecutionError, DeadKernelError) as error:
        reason = getattr(error, "evalue", "") or "its kernel died"
        name = f"{notebook.parent.name}/{notebook.stem}"
        raise Refusal(f"nobody can tell what {name} uses, since it does not run from the records: {reason}") from None
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
