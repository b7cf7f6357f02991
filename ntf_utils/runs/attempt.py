"""An attempt at a run: where its checkpoints lie, and the lock that keeps two processes from the same run.

Both live beside the records, in `<store>/cache/runs/<experiment>/`, and are gone when the run is recorded. They
never decide what a record says.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from ntf_utils.runs.timebox import OutOfTime, must_stop

LOOK_AGAIN = 0.1  # seconds between two looks at a lock that somebody else holds


@dataclass
class Attempt:
    """An attempt at one run, in this process.

    Attributes:
        folder: for the run's checkpoints; made when the first one is written.
        seconds_before: what earlier attempts spent on the work that this one goes on with.
        loops: training loops that have asked for their file so far; the order of a run's loops is always the same.
    """

    folder: Path
    seconds_before: float = 0.0
    loops: int = 0

    def next_file(self) -> Path:
        """The checkpoint of the run's next training loop."""
        self.loops += 1
        return self.folder / f"{self.loops:02d}.safetensors"

    def forget(self) -> None:
        """Remove the checkpoints: the run is recorded."""
        shutil.rmtree(self.folder, ignore_errors=True)


_current: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


def current_attempt() -> Attempt | None:
    """The attempt that this code is part of; None in a notebook, a replay or a test, where nothing is kept."""
    return _current.get()


@contextmanager
def attempting(folder: Path) -> Iterator[Attempt]:
    """Let training loops meanwhile keep checkpoints under `folder`."""
    attempt = Attempt(folder)
    token = _current.set(attempt)
    try:
        yield attempt
    finally:
        _current.reset(token)


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock of a run. The system frees it when the process dies, however it dies.

    The file goes away only when the work under the lock ends well or is put off. So a lock file that nobody holds
    tells of a run that failed or was cut short (`cut_short`).

    Args:
        wait: wait for another holder to end; else give up at once.

    Yields:
        Whether the caller may work: False where somebody else does. True on file systems without locks, where two
        processes may then make the same run, and write the same record.

    Raises:
        OutOfTime: time ran out while waiting.
    """
    try:
        descriptor = _take(path, wait)
    except BlockingIOError:
        descriptor = None
    except OSError:
        descriptor = -1
    if descriptor is None or descriptor < 0:
        yield descriptor is not None
        return
    try:
        yield True
    except OutOfTime:
        path.unlink(missing_ok=True)
        raise
    else:
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _take(path: Path, wait: bool) -> int:
    """The descriptor of the locked file; BlockingIOError where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
            os.close(descriptor)  # its last holder has removed the file since: take the new one
        except BlockingIOError:
            os.close(descriptor)
            if not wait:
                raise
            if must_stop():
                raise OutOfTime("out of time while another process makes the run") from None
            time.sleep(LOOK_AGAIN)
        except OSError:
            os.close(descriptor)
            raise


def held(path: Path) -> bool:
    """Whether a process is at the run now."""
    if not path.exists():
        return False
    try:
        os.close(_take(path, wait=False))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def cut_short(path: Path) -> bool:
    """Whether the last attempt at the run failed or died."""
    return path.exists() and not held(path)
