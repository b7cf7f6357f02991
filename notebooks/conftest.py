"""Strict `pytest --nbval notebooks`: every committed text is what the code prints, from the recorded runs."""

import os

import pytest

# What `make notebooks` keeps out of git, so that only a fresh run has it.
NOT_COMMITTED = ("text/html", "image/svg+xml", "image/png", "application/javascript")
GLUE = "application/papermill.record/"  # myst-nb's prefix for glued values

os.environ["NTF_RECORDED_ONLY"] = "1"  # the kernels inherit it: a test never trains


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    files = yield
    for file in files:
        if hasattr(file, "skip_compare"):  # nbval's notebooks
            file.skip_compare += NOT_COMMITTED + tuple(GLUE + kind for kind in NOT_COMMITTED)
    return files
