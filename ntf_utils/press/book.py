"""The book: every page executed from the recorded runs, then built strictly by jupyter-book.

Jupyter-book's cache knows only a page's own cells, so a change in the package or in a record would leave
stale numbers on the page. Here a digest over all that a page rests on decides whether the cache may be used.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.readers import get_reader
from nbformat import NotebookNode

from ntf_utils import ROOT
from ntf_utils.press.execution import execute
from ntf_utils.refusal import Refusal

BUILD = ROOT / "_build"
CACHE = BUILD / ".jupyter_cache"
DIGEST = BUILD / "rests_on.sha256"
INDEX = BUILD / "html" / "index.html"
RESTS_ON = ("ntf_utils/**/*.py", "ntf_utils/**/*.css", "ntf_utils/**/*.js", "data/runs/**/*.json",
            "data/verdicts/**/*.json", "data/benchmarks/*.json", "data/models/**/*.*", "notebooks/*/claims.yaml",
            "constraints.txt")  # fmt: skip
# A cell reads records; one that takes longer is computing what should have been recorded.
CELL_TIMEOUT = 300  # seconds


def build_book() -> None:
    """Build the book into `_build/html` and print where its first page lies.

    Raises:
        Refusal: a record is missing, a page fails, or the strict build warns.
    """
    os.environ["NTF_RECORDED_ONLY"] = "1"  # the kernels inherit it: a page never trains
    _drop_stale_cache()
    _fill_cache()
    shutil.rmtree(BUILD / "html", ignore_errors=True)  # a renamed page must not stay
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    strictly = ["--all", "-q", "-W", "--keep-going", "-n"]
    if subprocess.run([jupyter_book, "build", *strictly, "."], cwd=ROOT).returncode or not INDEX.exists():
        raise Refusal("the book was not built: the warnings above say why")
    print(f"The book: {INDEX}")


def _drop_stale_cache() -> None:
    digest = hashlib.sha256()
    for path in sorted(path for pattern in RESTS_ON for path in ROOT.glob(pattern)):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    if not DIGEST.exists() or DIGEST.read_text() != digest.hexdigest():
        shutil.rmtree(CACHE, ignore_errors=True)
        BUILD.mkdir(exist_ok=True)
        DIGEST.write_text(digest.hexdigest())


def _fill_cache() -> None:
    """Execute the pages that the cache lacks, two kernels at a time where jupyter-book would run one."""
    cache = get_cache(CACHE)
    with ThreadPoolExecutor(max_workers=2) as pool:
        running: dict[Future[float], tuple[Path, NotebookNode]] = {}
        for path, page in _pages_with_code():
            try:
                cache.match_cache_notebook(page)
            except KeyError:
                running[pool.submit(execute, page, path, CELL_TIMEOUT)] = path, page
        try:
            for done in as_completed(running):
                path, page = running[done]
                seconds = done.result()
                bundle = CacheBundleIn(page, str(path), data={"execution_seconds": seconds})
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
                print(f"{path.relative_to(ROOT)}: executed in {seconds:.0f} s", flush=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _pages_with_code() -> Iterator[tuple[Path, NotebookNode]]:
    """The notebooks, and the prose pages that compute something, read as jupyter-book reads them."""
    for path in sorted(ROOT.glob("notebooks/*/*.ipynb")):
        yield path, get_reader({"name": "nbformat", "type": "plugin"})(str(path))
    for path in sorted(ROOT.glob("book/*.md")):
        if "{code-cell}" in path.read_text(encoding="utf-8"):
            yield path, get_reader({"name": "myst_nb_md", "type": "plugin"})(str(path))
