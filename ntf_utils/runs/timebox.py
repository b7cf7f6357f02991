"""Time boxes: whether the work in this process has to stop, and the one way in which it then does.

NTF_DEADLINE, in seconds of this machine's monotonic clock, ends a sweep and the runs of its workers. It does not
move when somebody sets the clock. A parent's death or a cluster's warning asks to stop at once.
"""

import math
import os
import threading
import time

from ntf_utils.refusal import Refusal

GRACE = 2.0  # seconds between a deadline and the end by force of a run that does not stop by itself


class OutOfTime(Refusal):
    """Work was stopped in good order; the same command goes on where it stopped."""


_asked = threading.Event()


def ask_to_stop() -> None:
    """From now on `must_stop` is true in this process."""
    _asked.set()


def must_stop() -> bool:
    """Whether a run should keep what it has and raise OutOfTime; long runs ask after each step."""
    return _asked.is_set() or time_left() <= 0


def time_left() -> float:
    """Seconds to the deadline, negative after it; infinite where there is none."""
    deadline = os.environ.get("NTF_DEADLINE")
    return float(deadline) - time.monotonic() if deadline else math.inf


def set_deadline(seconds: float) -> None:
    """Let the work of this process, and of those that it starts, end in so many seconds."""
    os.environ["NTF_DEADLINE"] = repr(time.monotonic() + seconds)
