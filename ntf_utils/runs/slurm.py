"""The Slurm engine: the runs of a sweep as a job array, through submitit.

Each task of the array makes its own share of the missing runs, and then those of others that nobody has begun. A
run that is recorded or under way is never made again, so jobs may be cancelled, pre-empted, requeued or lost with
their node: this process submits again what none of them has recorded.
"""

import json
import math
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from ntf_utils.refusal import Refusal
from ntf_utils.runs.attempt import cut_short, held
from ntf_utils.runs.config import Config
from ntf_utils.runs.experiment import Experiment
from ntf_utils.runs.local import Ended, Work, number_of_workers
from ntf_utils.runs.record import Commit
from ntf_utils.runs.store import Store
from ntf_utils.runs.timebox import ask_to_stop, must_stop, set_deadline, time_left
from ntf_utils.runs.worker import Failure, try_to_record

MOST_TASKS = 256  # of an array; Slurm's own limit is 1,001 unless the site has set another
MOST_TIMEOUTS = 1000  # requeues of one job: each moves a run that keeps checkpoints on
TRIES = 3  # submissions of a run that ends its job without a record, or of jobs that begin nothing
LOOK_EVERY = (0.3, 10.0)  # seconds between two looks at the queue: the first, and the longest after that
PATIENCE = 5.0  # seconds for running jobs to keep their checkpoints when time is over


class Slurm(Config):
    """What a job of the sweep asks the cluster for.

    Attributes:
        partition, account, qos: as in sbatch; None leaves the site's default.
        gpus, cpus: of one job, which makes one run at a time. A run on CPUs uses one thread.
        minutes: time limit of a job. A run that keeps checkpoints may take longer: its job is requeued.
        memory_gb: of one job; None leaves the site's default.
        warning: seconds before the limit at which Slurm warns the job, to keep a checkpoint and be requeued.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gpus: int = Field(0, ge=0)
    cpus: int = Field(1, ge=1)
    minutes: int = Field(60, ge=1)
    memory_gb: float | None = Field(None, gt=0)
    warning: int = Field(90, ge=1)

    @classmethod
    def current(cls) -> Self:
        """NTF_SLURM (JSON) over the profile's own `slurm:` lines, which NTF_SLURM_PROFILE (JSON) holds.

        Raises:
            Refusal: an unknown name or an impossible value.
        """
        return cls(**_json_of("NTF_SLURM_PROFILE") | _json_of("NTF_SLURM"))


def _json_of(variable: str) -> dict[str, Any]:
    return json.loads(os.environ.get(variable) or "{}")


def number_of_jobs(asked: int | None, missing: int) -> int:
    """Tasks of the array: as many as were asked for, here or by NTF_WORKERS, else one a run."""
    named = asked is not None or os.environ.get("NTF_WORKERS")
    return min(number_of_workers(asked) or 1 if named else MOST_TASKS, missing, MOST_TASKS)


def run_on_slurm(work: Work, asks: Slurm) -> Ended:
    """Make the runs in job arrays, one array after the other until nothing is left.

    Raises:
        Refusal: submitit or Slurm is not installed, or sbatch refuses what is asked for.
    """
    left, lost = list(work.missing), Counter()
    array = None
    try:
        while left and time_left() > 0:
            # A run that ended its job goes last, so that it cannot take others with it again.
            free = sorted((config for config in left if not held(_lock(work, config))), key=lambda c: lost[id(c)])
            array = _Array(work, asks, free) if free else None
            yield from _follow(array, work, left)
            if array is None or time_left() <= 0:
                continue
            for config, failure in array.failures(left):
                left.remove(config)
                yield config, failure
            lost.update(map(id, left))
            for config in [config for config in left if lost[id(config)] >= TRIES]:
                left.remove(config)
                yield config, Failure("error", f"{TRIES} jobs ended without a record of it: see {array.folder}")
        yield from _leave(array, work, left)
    finally:
        if array:
            array.cancel()


def _follow(array: "_Array | None", work: Work, left: list[Config]) -> Ended:
    """The runs that get recorded while jobs of the array, or another process, are at them."""
    pause = LOOK_EVERY[0]
    while left and time_left() > 0:
        alive = array is not None and array.alive()  # asked before the store is: what ended jobs recorded is then seen
        for config in _recorded(work, left):
            pause = LOOK_EVERY[0]
            yield config, None
        if not alive and not any(held(_lock(work, config)) for config in left):
            return
        work.progress.draw()
        time.sleep(min(pause, max(0.0, time_left())))
        pause = min(1.5 * pause, LOOK_EVERY[1])


def _leave(array: "_Array | None", work: Work, left: list[Config]) -> Ended:
    """Time is over: no job begins any more, those that run keep their checkpoints, the rest is left undone."""
    if array and left:
        array.cancel(pending_only=True)
        end = time.monotonic() + PATIENCE
        while array.alive() and time.monotonic() < end:
            time.sleep(LOOK_EVERY[0])
        for config in _recorded(work, left):
            yield config, None
    for config in left:
        yield config, Failure("stopped", "out of time")


def _recorded(work: Work, left: list[Config]) -> list[Config]:
    """Those of the runs left that are recorded by now; they are left no more."""
    found = [config for config in left if work.store.recorded(work.experiment, config)]
    for config in found:
        left.remove(config)
        work.progress.ended(0, config, done=True)
    return found


def _lock(work: Work, config: Config) -> Path:
    return work.store.lock_path(work.experiment, config)


class _Array:
    """A job array that has been submitted.

    Args:
        configs: the runs to make; at least one.
    """

    def __init__(self, work: Work, asks: Slurm, configs: list[Config]) -> None:
        self.folder = work.store.root / "cache" / "slurm" / work.experiment.name
        self._configs = configs
        count = min(work.workers, len(configs))
        ends = time.time() + time_left() if time_left() < math.inf else None
        whole = ArrayTask(work.experiment, configs, work.store.root, Commit.current(), asks, ends)
        self._tasks = [replace(whole, first=first, step=count) for first in range(count)]
        self._jobs = _submit(self._tasks, asks, self.folder)
        self._id = self._jobs[0].job_id.partition("_")[0]

    def alive(self) -> bool:
        """Whether a job of the array waits or runs. True where the controller does not answer: it may come back."""
        asked = _slurm("squeue", "--noheader", "--format=%i", f"--jobs={self._id}")
        return "Invalid job id" not in asked.stderr if asked.returncode else bool(asked.stdout.strip())

    def failures(self, left: list[Config]) -> Iterator[tuple[Config, Failure]]:
        """What went wrong in the jobs that ended, by run. A job that could not begin answers for its own share."""
        told = set()
        for task, job in zip(self._tasks, self._jobs, strict=True):
            if not job.paths.result_pickle.exists():
                continue  # lost
            fate, result = pickle.loads(job.paths.result_pickle.read_bytes())
            if fate == "error":
                failure = Failure("error", f"its job ended with {result.strip().splitlines()[-1]}", result)
                result = [(index, failure) for index in task.share]
            for index, failure in result:
                if self._configs[index] in left and index not in told:
                    told.add(index)
                    yield self._configs[index], failure

    def cancel(self, pending_only: bool = False) -> None:
        """Take the jobs back that are not done. A running job gets SIGTERM first and keeps its checkpoint."""
        _slurm("scancel", "--quiet", *(["--state=PENDING"] if pending_only else []), self._id)


def _slurm(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _submit(tasks: list["ArrayTask"], asks: Slurm, folder: Path) -> list[Any]:
    """Hand the tasks to Slurm as one array; the jobs as submitit knows them."""
    try:
        import submitit
    except ImportError:
        raise Refusal("the Slurm engine needs submitit: pip install -r requirements-slurm.txt") from None
    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise Refusal("no Slurm here: sbatch and srun are not on the PATH")
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=MOST_TIMEOUTS)
    optional = {"slurm_partition": asks.partition, "slurm_account": asks.account, "slurm_qos": asks.qos,
                "gpus_per_node": asks.gpus or None, "mem_gb": asks.memory_gb}  # fmt: skip
    executor.update_parameters(
        name=tasks[0].experiment.name, timeout_min=asks.minutes, cpus_per_task=asks.cpus,
        slurm_signal_delay_s=asks.warning, slurm_setup=_environment(asks),
        slurm_additional_parameters={"requeue": True},
        **{name: value for name, value in optional.items() if value is not None},
    )  # fmt: skip
    try:
        with executor.batch():
            jobs = [executor.submit(task) for task in tasks]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        said = [line for line in str(error).splitlines() if "error" in line.lower()] or [str(error)]
        raise Refusal(f"sbatch refused the jobs: {' '.join(said[-1].split())}") from None
    return jobs


def _environment(asks: Slurm) -> list[str]:
    """Shell lines that give a job this process's modules, one thread, and no deadline by this machine's clock."""
    lines = [f"export PYTHONPATH={shlex.quote(os.pathsep.join(path for path in sys.path if path))}"]
    lines += [f"export {name}=1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
    return [*lines, f"export SRUN_CPUS_PER_TASK={asks.cpus}", "unset NTF_DEADLINE"]


@dataclass
class ArrayTask:
    """What one job of the array does, wherever and however often it is started.

    Attributes:
        configs: the runs of the whole array; those from `first` on, in steps of `step`, are this job's own share.
        ends: when the sweep is over, in Unix seconds; None for never.
        cut: the runs at which a warning ended earlier starts of this job, in order.
        at: the run under way.
    """

    experiment: Experiment
    configs: list[Config]
    root: Path
    commit: Commit
    asks: Slurm
    ends: float | None
    first: int = 0
    step: int = 1
    cut: tuple[int, ...] = ()
    at: int = -1

    @property
    def share(self) -> range:
        return range(self.first, len(self.configs), self.step)

    def __call__(self) -> list[tuple[int, Failure]]:
        """Make the runs of the share, then those of others that nobody has begun; what went wrong, by run."""
        requeue = self._heed_warnings()
        if self.ends is not None:
            set_deadline(self.ends - time.time())
        store, failures = Store(self.root), []
        for index in self._order():
            self.at, config = index, self.configs[index]
            if index not in self.share and cut_short(store.lock_path(self.experiment, config)):
                continue  # it failed, or ended another job: that is for its own job, or for the next array
            if self.cut.count(index) >= 2 and not self.experiment.resumable:
                failures.append((index, Failure("error", f"it was cut short twice by {self.asks.minutes} minutes")))
                continue
            failure = try_to_record(self.experiment, config, self.commit, store, wait=False)
            if must_stop():
                requeue()
                break
            if failure and failure.kind != "busy":
                failures.append((index, failure))
        return failures

    def checkpoint(self) -> Any:
        """What submitit starts after a requeue: the same task, which finds recorded runs and checkpoints by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(replace(self, cut=(*self.cut, self.at), at=-1))

    def _order(self) -> list[int]:
        others = [index for index in range(len(self.configs)) if index not in self.share]
        start = len(others) * self.first // self.step  # helpers begin at different runs
        return [*self.share, *others[start:], *others[:start]]

    def _heed_warnings(self) -> Callable[[], None]:
        """On Slurm's warning let the run keep a checkpoint before submitit requeues the job; on SIGTERM, which
        tells of preemption or scancel, keep one and end.

        Returns:
            A function that requeues the job if it was warned, and then does not return.
        """
        from submitit.slurm.slurm import SlurmJobEnvironment

        warning = getattr(signal, f"SIG{SlurmJobEnvironment.USR_SIG}")
        requeue, warned = signal.getsignal(warning), []

        def heed(number: int, frame: Any) -> None:
            warned.append(number)
            ask_to_stop()
            signal.signal(signal.SIGALRM, requeue)  # a run that keeps no checkpoint does not stop by itself
            signal.alarm(max(1, self.asks.warning // 2))

        signal.signal(warning, heed)
        signal.signal(signal.SIGTERM, lambda *_: ask_to_stop())
        return lambda: requeue(warning, None) if warned else None
