"""The local engine: runs in this process or in a pool of worker processes, one a core or one a GPU."""

import os
import sys
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait

from ntf_utils.refusal import Refusal
from ntf_utils.runs.config import Config
from ntf_utils.runs.cost import Costs
from ntf_utils.runs.experiment import Experiment
from ntf_utils.runs.progress import EVERY, Progress
from ntf_utils.runs.record import Commit
from ntf_utils.runs.store import Store
from ntf_utils.runs.timebox import GRACE, time_left
from ntf_utils.runs.worker import Failure, Worker, try_to_record

Ended = Generator[tuple[Config, Failure | None], None, None]  # runs as they end, with what went wrong


@dataclass(frozen=True)
class Work:
    """What an engine is to do: make the missing runs of one experiment.

    Attributes:
        workers: how many at once; 0 is this process alone.
        costs: what runs cost; None where nobody waits and no deadline binds.
    """

    experiment: Experiment
    missing: list[Config]
    store: Store
    workers: int
    costs: Costs | None
    progress: Progress

    def fits(self, config: Config) -> bool:
        """Whether a run may be begun: it keeps checkpoints, or is expected to end before the deadline."""
        left = time_left()
        if left <= 0:
            return False
        expected = self.costs.of(config) if self.costs else None
        return self.experiment.resumable or expected is None or expected <= left


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none on a CPU."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        devices = [name.strip() for name in named.split(",") if name.strip()]
        return devices[: devices.index("-1")] if "-1" in devices else devices
    torch = sys.modules.get("torch")  # an experiment that can use a GPU has imported it
    return [str(index) for index in range(torch.cuda.device_count())] if torch else []


def number_of_workers(asked: int | None) -> int:
    """The number of workers asked for, here or by NTF_WORKERS, else one a GPU, else one a core.

    Raises:
        Refusal: not a number from 0 up.
    """
    text = os.environ.get("NTF_WORKERS") if asked is None else str(asked)
    if not text:
        return len(visible_devices()) or os.cpu_count() or 1
    if not text.isdecimal():
        raise Refusal(f"the number of workers is 0 or more, not {text!r}")
    return int(text)


def run_locally(work: Work) -> Ended:
    """Make the runs. What the deadline leaves undone ends as "stopped"."""
    alone = work.workers == 0 or (len(work.missing) == 1 and time_left() == float("inf"))
    return _run_here(work) if alone else _run_in_workers(work)


def _run_here(work: Work) -> Ended:
    """In this process, one after the other; what another process is making comes last."""
    commit = Commit.current()
    for config, wait_for_it in (queue := _Queue(work)):
        work.progress.started(0, config)
        failure = try_to_record(work.experiment, config, commit, work.store, wait_for_it)
        work.progress.ended(0, config, failure is None)
        if failure and failure.kind == "busy":
            queue.put_off(config)
        else:
            yield config, failure
    yield from queue.stopped()


def _run_in_workers(work: Work) -> Ended:
    """In worker processes, as they come free; a worker that dies is replaced, on the same device."""
    commit = Commit.current()
    queue = _Queue(work)
    devices = visible_devices() or [None]
    busy: list[Worker] = []
    try:
        for place in range(min(work.workers, len(work.missing))):
            if job := next(queue, None):
                busy.append(Worker(work.store, commit, place, devices[place % len(devices)]))
                _start(busy[-1], work, *job)
        while busy:
            for worker in wait(busy, timeout=max(0.01, min(EVERY, time_left() + GRACE))):
                config, failure = worker.job, worker.finish()
                dead = worker.process.poll() is not None
                work.progress.ended(worker.place, config, failure is None)
                if failure and failure.kind == "busy":
                    queue.put_off(config)
                job = next(queue, None)
                if dead or not job:
                    worker.stop()
                    busy.remove(worker)
                if job:
                    if dead:
                        worker = Worker(work.store, commit, worker.place, worker.device)
                        busy.append(worker)
                    _start(worker, work, *job)
                if not (failure and failure.kind == "busy"):
                    yield config, failure
            if time_left() < -GRACE:
                break
            work.progress.draw()
        for worker in busy:
            yield worker.job, Failure("stopped", "out of time")
        yield from queue.stopped()
    finally:
        for worker in busy:
            worker.stop()


def _start(worker: Worker, work: Work, config: Config, wait_for_it: bool) -> None:
    worker.start(work.experiment, config, wait_for_it)
    work.progress.started(worker.place, config)


class _Queue:
    """The runs to begin, with whether to wait for another process that may be at them."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._first, self._last = deque(work.missing), deque()

    def __iter__(self) -> Iterator[tuple[Config, bool]]:
        return self

    def __next__(self) -> tuple[Config, bool]:
        for waiting in (self._first, self._last):
            for config in waiting:
                if self._work.fits(config):
                    waiting.remove(config)
                    return config, waiting is self._last
        raise StopIteration

    def put_off(self, config: Config) -> None:
        """Another process is at this run: come back when nothing else is left."""
        self._last.append(config)

    def stopped(self) -> Ended:
        """The runs for which no time was left."""
        for config in (*self._first, *self._last):
            yield config, Failure("stopped", "out of time")
