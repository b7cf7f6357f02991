"""Fixtures of the whole repository: the notebooks, and the book built from the recorded runs."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A temporary folder, in memory where the system has such a place: a test that syncs hundreds of files does not
    wait for a busy disk."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty store, and no images on the disk."""
    monkeypatch.setenv("NTF_STORE", str(tmp_path))
    monkeypatch.setenv("NTF_DATA", str(tmp_path / "nothing"))


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the book's pages, built strictly from the recorded runs."""
    command = [sys.executable, "-m", "ntf_utils.press", "book"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, f"{built.stdout}\n{built.stderr}"[-8000:]
    return ROOT / "_build" / "html"
