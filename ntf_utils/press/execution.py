"""One notebook, executed in a fresh kernel of this very Python."""

import time
from pathlib import Path

from jupyter_client.kernelspec import NoSuchKernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from ntf_utils import ROOT
from ntf_utils.refusal import Refusal


def execute(notebook: NotebookNode, path: Path, cell_timeout: int | None = None) -> float:
    """Run all cells of `notebook` in place, in the folder of `path`.

    Widget state is not kept: a page shows an explorer's html face, which needs none.

    Args:
        notebook: gets its outputs here.
        path: where the notebook lies.
        cell_timeout: seconds a cell may take; None for no limit.

    Returns:
        Seconds from the start of the kernel to the last cell's end.

    Raises:
        Refusal: a cell failed; the sentence names the notebook and ends with the cell's own error.
    """
    client = NotebookClient(
        notebook,
        timeout=cell_timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # or each kernel warns of its own transport
    )
    start = time.perf_counter()
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError, NoSuchKernel) as error:
        raise Refusal(f"{path.relative_to(ROOT)}: {error}") from None
    return time.perf_counter() - start
