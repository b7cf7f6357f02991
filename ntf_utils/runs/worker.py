"""One run in one process, and the worker process that makes runs for a sweep.

A worker reads jobs as JSON lines from its standard input and answers each with a JSON line. When its input ends
it stops, whatever it is doing, with as much time as a long run needs to keep a checkpoint: a parent that is killed
leaves no orphan.
"""

import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from subprocess import PIPE, Popen
from typing import Literal

from threadpoolctl import ThreadpoolController

from ntf_utils.refusal import Refusal
from ntf_utils.runs.attempt import attempting, current_attempt, locked
from ntf_utils.runs.config import Config
from ntf_utils.runs.experiment import Experiment
from ntf_utils.runs.record import Commit, Provenance, Record
from ntf_utils.runs.store import Store
from ntf_utils.runs.timebox import GRACE, OutOfTime, ask_to_stop, must_stop


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and BLAS meanwhile: the order of sums, and so the result, is then the same
    in every process and on any number of cores."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    with _pools(len(sys.modules)).limit(limits=1):
        if torch:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _pools(modules: int) -> ThreadpoolController:
    """The thread pools of the loaded libraries. To look for them takes longer than a short run, so it is done again
    only when the number of modules has changed, and with it, perhaps, the libraries."""
    return ThreadpoolController()


def record_run(experiment: Experiment, config: Config, commit: Commit, store: Store, wait: bool = True) -> bool:
    """Make a run and record it, unless another process has done so by now. It goes on from its last checkpoint.

    Args:
        wait: where another process is at this run, wait for it; else give up at once.

    Returns:
        False where another process is at this run, and nothing was done.

    Raises:
        OutOfTime: the run was stopped; its checkpoints are kept.
        Refusal: the record cannot be written; and whatever `make_record` raises.
    """
    lock = store.lock_path(experiment, config)
    with locked(lock, wait) as mine:
        if mine and store.recorded(experiment, config) is None:
            with attempting(lock.with_suffix("")) as attempt:
                store.put(make_record(experiment, config, commit))
                attempt.forget()
    return mine


def make_record(experiment: Experiment, config: Config, commit: Commit) -> Record:
    """Run the experiment here, on one thread, and describe the run.

    Raises:
        Refusal: the rows contradict the config; and whatever the experiment raises.
    """
    start = time.perf_counter()
    with one_thread():
        outcome = experiment(config)
        seconds = time.perf_counter() - start
        attempt = current_attempt()
        provenance = Provenance.now(commit, config, seconds + (attempt.seconds_before if attempt else 0))
    clash = outcome.rows[0].keys() & {"key", *config.as_dict()}
    if clash:
        raise Refusal(f"the rows of {experiment.name} repeat {sorted(clash)}, columns that the config fills")
    return Record.of(experiment, config, outcome, provenance)


@dataclass(frozen=True)
class Failure:
    """Why a run gave no record.

    `kind` is "refused" where the experiment refused its input, "error" where the stack is worth seeing, "stopped"
    where time ran out, and "busy" where another process is at the run.
    """

    kind: Literal["refused", "error", "stopped", "busy"]
    sentence: str
    stack: str = ""

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        if isinstance(error, OutOfTime):
            return cls("stopped", str(error))
        refused = isinstance(error, Refusal)
        sentence = str(error) if refused else f"{type(error).__name__}: {error}"
        return cls("refused" if refused else "error", sentence, "".join(traceback.format_exception(error)))


def try_to_record(
    experiment: Experiment, config: Config, commit: Commit, store: Store, wait: bool = True
) -> Failure | None:
    """`record_run`, with what went wrong as a value; None when the record is in the store."""
    if must_stop():
        return Failure("stopped", "out of time")
    try:
        mine = record_run(experiment, config, commit, store, wait)
    except Exception as error:
        return Failure.of(error)
    return None if mine else Failure("busy", "another process is at this run")


class Worker:
    """The parent's end of a worker process.

    Args:
        place: its number among the workers of the sweep, which a replacement takes over.
        device: the one GPU that the process shall see, as CUDA_VISIBLE_DEVICES names it; None leaves all as it is.
    """

    def __init__(self, store: Store, commit: Commit, place: int, device: str | None) -> None:
        self.place, self.device = place, device
        own = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        if device is not None:
            own["CUDA_VISIBLE_DEVICES"] = device
        self.process = Popen(
            [sys.executable, "-c", "import sys, json; sys.path[:] = json.loads(sys.stdin.readline()); "
             "from ntf_utils.runs.worker import serve; serve()"],
            stdin=PIPE, stdout=PIPE, text=True, bufsize=1,
            env=os.environ | own,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )  # fmt: skip
        self.job: Config | None = None
        self._send(sys.path)
        self._send({"store": str(store.root), **commit.model_dump()})

    def start(self, experiment: Experiment, config: Config, wait: bool) -> None:
        """Hand the worker its next run; `wait` as in `record_run`."""
        self.job = config
        self._send([experiment.__module__, experiment.name, config.model_dump(mode="json"), wait])

    def finish(self) -> Failure | None:
        """Wait for the run's end. None when its record is in the store."""
        answer = self.process.stdout.readline()
        self.job = None
        if answer:
            failure = json.loads(answer)
            return Failure(**failure) if failure else None
        status = self.process.wait()
        cause = f"by signal {-status}" if status < 0 else f"with status {status}"
        return Failure("error", f"the worker process ended {cause} (out of memory?)")

    def stop(self) -> None:
        """End the process, also in the middle of a run."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        with suppress(BrokenPipeError):  # a job that a dead process never read
            self.process.stdin.close()

    def fileno(self) -> int:
        """For `multiprocessing.connection.wait`: readable when the run has ended."""
        return self.process.stdout.fileno()

    def _send(self, message: object) -> None:
        with suppress(BrokenPipeError):  # the process is dead: finish() finds out and says how
            self.process.stdin.write(json.dumps(message) + "\n")


def serve() -> None:
    """The worker process's main loop."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what an experiment prints must not look like an answer
    jobs: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    about = json.loads(jobs.get())
    store, commit = Store(about.pop("store")), Commit(**about)
    while job := jobs.get():
        module, name, values, wait = json.loads(job)
        try:
            experiment = getattr(importlib.import_module(module), name)
            config = experiment.config_type(**values)
        except Exception as error:
            failure = Failure.of(error)
        else:
            failure = try_to_record(experiment, config, commit, store, wait)
        with suppress(BrokenPipeError):  # the parent is dead, and the next job an empty one
            answers.write(json.dumps(failure and vars(failure)) + "\n")
    os._exit(0)


def _listen(jobs: "queue.Queue[str]") -> None:
    for line in sys.stdin:
        jobs.put(line)
    ask_to_stop()  # the parent has closed the pipe or is dead
    jobs.put("")
    time.sleep(GRACE)
    os._exit(0)
