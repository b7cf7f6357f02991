"""Speed of the machinery around the runs: what a run, a listing and a recorded sweep cost when the runs are empty.

CPU time of this process and its workers together, so that a busy machine and a slow disk change nothing. The store lies
in memory where there is such a place; one line beside the targets tells the time on the clock with this disk.
"""

import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.timing import Measure
from ntf_utils.runs import Commit, Config, Outcome, Store, experiment, make_record, sweep

RUNS, RECORDS = 1000, 10_000
MEMORY = "/dev/shm"


class EmptyConfig(Config):
    seed: int = 0


@experiment()
def empty_experiment(config: EmptyConfig) -> Outcome:
    """Does nothing."""
    return Outcome([{"nothing": 0}])


def measure() -> list[Measure]:
    return [*overhead_of_a_run(), *listing(), *recorded_sweep()]


def overhead_of_a_run() -> list[Measure]:
    """A pool of two, its start included, on 1,000 runs that do nothing."""
    configs = [EmptyConfig(seed=seed) for seed in range(RUNS)]
    with store_in(MEMORY) as store:
        ours = seconds_of(lambda: sweep(empty_experiment, configs, store=store, workers=2))
    with store_in(None) as store:
        began = time.perf_counter()
        sweep(empty_experiment, configs[: RUNS // 10], store=store, workers=2)
        clock = time.perf_counter() - began
    return [
        Measure("overhead of a run, pool of two, 1,000 runs", 1000 * ours / RUNS, "ms", "at most 5"),
        Measure("the same on the clock, on this disk, 100 runs", 1000 * clock / (RUNS // 10), "ms"),
    ]


def listing() -> list[Measure]:
    """Every record read, and its checksum and schema checked."""
    with store_in(MEMORY) as store:
        record_all(store, RECORDS)
        seconds = min(seconds_of(lambda: sum(1 for _ in store.records())) for _ in range(3))
    return [Measure("listing of 10,000 records", seconds, "s", "at most 1")]


def recorded_sweep() -> list[Measure]:
    """The table of 1,000 configs, all recorded."""
    configs = [EmptyConfig(seed=seed) for seed in range(RUNS)]
    with store_in(MEMORY) as store:
        record_all(store, RUNS)
        seconds = min(seconds_of(lambda: sweep(empty_experiment, configs, store=store)) for _ in range(3))
    return [Measure("sweep with everything recorded, a config", 1000 * seconds / RUNS, "ms", "at most 1")]


def record_all(store: Store, count: int) -> None:
    """As many records as if they had been run."""
    for seed in range(count):
        store.put(make_record(empty_experiment, EmptyConfig(seed=seed), Commit()))


@contextmanager
def store_in(folder: str | None) -> Iterator[Store]:
    """An empty store, in `folder` where it can be written, else where temporary files go."""
    place = folder if folder and os.access(folder, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as root:
        yield Store(root)


def seconds_of(work: Callable[[], object]) -> float:
    """CPU seconds of this process and of the processes that it started and ended meanwhile."""
    began = cpu_seconds()
    work()
    return cpu_seconds() - began


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
