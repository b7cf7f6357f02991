"""Fixtures of the whole repository: the notebooks, and the book built from the recorded runs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the book's pages, built strictly from the recorded runs."""
    command = [sys.executable, "-m", "ntf_utils.press", "book"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, f"{built.stdout}\n{built.stderr}"[-8000:]
    return ROOT / "_build" / "html"
