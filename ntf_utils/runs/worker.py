"""One run in one process, and the worker process that makes runs for a sweep.

A worker reads jobs as JSON lines from its standard input and answers each with a JSON line. When
its input ends it stops at once, whatever it is doing: a parent that is killed leaves no orphan.
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
from subprocess import PIPE, Popen

from threadpoolctl import threadpool_limits

from ntf_utils.refusal import Refusal
from ntf_utils.runs.config import Config
from ntf_utils.runs.experiment import Experiment
from ntf_utils.runs.record import Commit, Provenance, Record
from ntf_utils.runs.store import Store


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and BLAS meanwhile: the order of sums, and so the result, is then the same
    in every process and on any number of cores."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    with threadpool_limits(1):
        if torch:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


def make_record(experiment: Experiment, config: Config, commit: Commit) -> Record:
    """Run the experiment here, on one thread, and describe the run.

    Raises:
        Refusal: the rows contradict the config; and whatever the experiment raises.
    """
    start = time.perf_counter()
    with one_thread():
        outcome = experiment(config)
        provenance = Provenance.now(commit, config, time.perf_counter() - start)
    clash = outcome.rows[0].keys() & {"key", *config.as_dict()}
    if clash:
        raise Refusal(f"the rows of {experiment.name} repeat {sorted(clash)}, columns that the config fills")
    return Record.of(experiment, config, outcome, provenance)


@dataclass(frozen=True)
class Failure:
    """Why a run gave no record."""

    refused: bool  # the experiment refused its input; else an error, whose stack is worth seeing
    sentence: str
    stack: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        refused = isinstance(error, Refusal)
        sentence = str(error) if refused else f"{type(error).__name__}: {error}"
        return cls(refused, sentence, "".join(traceback.format_exception(error)))


class Worker:
    """The parent's end of a worker process."""

    def __init__(self, store: Store, commit: Commit) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = Popen(
            [sys.executable, "-c", "import sys, json; sys.path[:] = json.loads(sys.stdin.readline()); "
             "from ntf_utils.runs.worker import serve; serve()"],
            stdin=PIPE, stdout=PIPE, text=True, bufsize=1,
            env=os.environ | threads,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )  # fmt: skip
        self.job: Config | None = None
        self._send(sys.path)
        self._send({"store": str(store.root), **commit.model_dump()})

    def start(self, experiment: Experiment, config: Config) -> None:
        """Hand the worker its next run."""
        self.job = config
        self._send([experiment.__module__, experiment.name, config.model_dump(mode="json")])

    def finish(self) -> Failure | None:
        """Wait for the run's end. None when its record is in the store."""
        answer = self.process.stdout.readline()
        self.job = None
        if answer:
            failure = json.loads(answer)
            return Failure(**failure) if failure else None
        status = self.process.wait()
        cause = f"by signal {-status}" if status < 0 else f"with status {status}"
        return Failure(False, f"the worker process ended {cause} (out of memory?)", "")

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
    while True:
        module, name, values = json.loads(jobs.get())
        failure = None
        try:
            experiment = getattr(importlib.import_module(module), name)
            store.put(make_record(experiment, experiment.config_type(**values), commit))
        except Exception as error:
            failure = vars(Failure.of(error))
        answers.write(json.dumps(failure) + "\n")


def _listen(jobs: "queue.Queue[str]") -> None:
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)  # the parent has closed the pipe or is dead
