"""The progress of a sweep for the person who waits: runs done and left, time left, one line a worker.

Nothing is written to a log, under CI or in a test: there, a bar is noise.
"""

import os
import sys
import time

from tqdm import tqdm

from ntf_utils.runs.config import Config
from ntf_utils.runs.cost import Costs
from ntf_utils.runs.duration import in_words

EVERY = 0.5  # seconds between two looks at the workers' clocks


class Progress:
    """One bar for the sweep and, on a terminal, a line under it for each worker.

    Args:
        missing: the runs to make.
        costs: what runs cost; None where nobody asks.
        workers: how many runs are made at once.
    """

    def __init__(self, title: str, missing: list[Config], costs: Costs | None, workers: int) -> None:
        self._costs, self._workers = costs, max(1, workers)
        self._left = {id(config): config for config in missing}
        self._lines: dict[int, tqdm] = {}
        self._running: dict[int, tuple[Config, float]] = {}
        self._bar = None if quiet() else tqdm(total=len(missing), desc=title, bar_format=_BAR)
        self._drawn = 0.0

    def started(self, worker: int, config: Config) -> None:
        """A worker has begun a run."""
        self._running[worker] = config, time.monotonic()
        if self._bar is not None and sys.stderr.isatty() and worker not in self._lines:
            position = len(self._lines) + 1
            self._lines[worker] = tqdm(bar_format="{desc}", position=position, leave=False)
        self.draw()

    def ended(self, worker: int, config: Config, done: bool) -> None:
        """A worker has ended a run; `done` where it is recorded."""
        self._running.pop(worker, None)
        if done:
            self._left.pop(id(config), None)
            if self._bar is not None:
                self._bar.update()
        self.draw(now=True)

    def seconds_left(self) -> float | None:
        """Expected seconds to the sweep's end, the workers' time so far counted off; None where unknown."""
        total = self._costs.total(self._left.values()) if self._costs else None
        if total is None:
            return None
        now = time.monotonic()
        spent = sum(min(now - began, self._costs.of(config)) for config, began in self._running.values())
        return (total - spent) / min(self._workers, len(self._left) or 1)

    def draw(self, now: bool = False) -> None:
        """Bring the lines up to date, not oftener than a reader can see."""
        if self._bar is None or not (now or time.monotonic() - self._drawn > EVERY):
            return
        self._drawn = time.monotonic()
        left = self.seconds_left()
        self._bar.set_postfix_str(f"{len(self._left)} left" + ("" if left is None else f", about {in_words(left)}"))
        for worker, line in self._lines.items():
            config, began = self._running.get(worker, (None, 0.0))
            doing = f"{told(config)}, {in_words(self._drawn - began)}" if config else "idle"
            line.set_description_str(f"  worker {worker + 1}: {doing}")

    def close(self) -> None:
        """Take the workers' lines away; the bar stays."""
        for bar in [*self._lines.values(), *([] if self._bar is None else [self._bar])]:
            bar.close()


_BAR = "{desc}: {n_fmt} of {total_fmt} runs |{bar}| {elapsed}{postfix}"


def told(config: Config) -> str:
    """The fields that differ from their defaults, to name a run in a sentence."""
    fields = type(config).model_fields
    values = {name: value for name, value in config.as_dict().items() if value != fields[name].default}
    return ", ".join(f"{name}={value!r}" for name, value in (values or config.as_dict()).items())


def quiet() -> bool:
    """Bars are for people: a terminal or a live notebook, never a log or a test."""
    if os.environ.get("NTF_QUIET") == "1" or os.environ.get("CI"):
        return True
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return not (in_notebook or sys.stderr.isatty())
