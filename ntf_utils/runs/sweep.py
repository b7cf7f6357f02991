"""Sweeps: many configs of one experiment to one tidy table, each run made at most once."""

import os
import sys
from collections.abc import Generator, Iterable
from multiprocessing.connection import wait

import pandas as pd
from tqdm import tqdm

from ntf_utils.refusal import Refusal
from ntf_utils.runs.config import Config
from ntf_utils.runs.experiment import Experiment
from ntf_utils.runs.record import Commit, Record, key_of
from ntf_utils.runs.store import Store
from ntf_utils.runs.worker import Failure, Worker, make_record

Ended = Generator[tuple[Config, Failure | None], None, None]  # runs as they end, with what went wrong


class RunFailed(RuntimeError):
    """Some runs of a sweep raised; the others are recorded. The note holds the first one's stack."""


def sweep(
    experiment: Experiment,
    configs: Iterable[Config],
    *,
    store: Store | None = None,
    workers: int | None = None,
) -> pd.DataFrame:
    """The table of all runs asked for; computes and records only what the store lacks.

    Args:
        configs: one a run; a config that comes twice is run, and stands in the table, once.
        store: default `Store()`.
        workers: processes, one torch thread each. Default: the environment's NTF_WORKERS, else the
            number of cores (1 where CUDA is visible). 0, or a single missing run: in this process.

    Returns:
        A line a record row, in the order of `configs`: `key`, the config's fields, the row's columns.

    Raises:
        Refusal: no write permission, an experiment refused its input, Ctrl-C, or, under
            NTF_RECORDED_ONLY=1 (the book build), a missing record.
        RunFailed: a run raised. All other runs were still made and recorded.

    NTF_FRESH_SINCE=<unix seconds> makes records older than that count as missing.
    """
    store = store or Store()
    wanted = {key_of(experiment, config): _typed(experiment, config) for config in configs}
    records = {key: _fresh(store.get(experiment, config)) for key, config in wanted.items()}
    missing = {key: wanted[key] for key, record in records.items() if record is None}
    if missing:
        _make(experiment, list(missing.values()), store, workers)
        records |= {key: store.get(experiment, config) for key, config in missing.items()}
    lines = [{"key": key, **config.as_dict(), **row} for key, config in wanted.items() for row in records[key].rows]
    return pd.DataFrame(lines, columns=None if lines else ["key", *experiment.config_type.model_fields])


def _typed(experiment: Experiment, config: Config) -> Config:
    if type(config) is not experiment.config_type:
        wants, got = experiment.config_type.__name__, type(config).__name__
        raise Refusal(f"{experiment.name} takes a {wants}, not a {got}")
    return config


def _fresh(record: Record | None) -> Record | None:
    since = int(float(os.environ.get("NTF_FRESH_SINCE") or 0))
    return record if record and record.provenance.finished.timestamp() >= since else None


def _make(experiment: Experiment, missing: list[Config], store: Store, workers: int | None) -> None:
    """Make and record the missing runs."""
    if os.environ.get("NTF_RECORDED_ONLY") == "1":
        paper = experiment.__module__.removeprefix("ntf_utils.papers.").split(".")[0]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        which = f"{experiment.name} with {_name(missing[0])}{more}"
        raise Refusal(f"record missing: {which}; run `make reproduce PAPER={paper}`")
    workers = _checked_workers(workers)
    store.check_writable(experiment)
    if workers == 0 or len(missing) == 1:
        ended = _run_here(experiment, missing, store)
    else:
        ended = _run_in_workers(experiment, missing, store, workers)
    done, failures = 0, []
    try:
        for config, failure in tqdm(ended, experiment.name, len(missing), unit="run", disable=_quiet()):
            if failure:
                failures.append((config, failure))
            else:
                done += 1
    except KeyboardInterrupt:
        counts = f"{done} of {len(missing)} missing runs are recorded"
        raise Refusal(f"{experiment.name} interrupted: {counts}; run again to go on") from None
    finally:
        ended.close()
    if failures:
        _report(experiment, failures, done)


def _run_here(experiment: Experiment, missing: list[Config], store: Store) -> Ended:
    """In this process, one after the other."""
    commit = Commit.current()
    for config in missing:
        try:
            store.put(make_record(experiment, config, commit))
        except Exception as error:
            yield config, Failure.of(error)
        else:
            yield config, None


def _run_in_workers(experiment: Experiment, missing: list[Config], store: Store, workers: int) -> Ended:
    """In worker processes, as they come free; a worker that dies is replaced."""
    commit = Commit.current()
    waiting = missing[::-1]
    busy: list[Worker] = []
    try:
        for _ in range(min(workers, len(missing))):
            busy.append(Worker(store, commit))
            busy[-1].start(experiment, waiting.pop())
        while busy:
            for worker in wait(busy):
                config, failure = worker.job, worker.finish()
                dead = worker.process.poll() is not None
                if dead or not waiting:
                    worker.stop()
                    busy.remove(worker)
                if waiting:
                    if dead:
                        worker = Worker(store, commit)
                        busy.append(worker)
                    worker.start(experiment, waiting.pop())
                yield config, failure
    finally:
        for worker in busy:
            worker.stop()


def _report(experiment: Experiment, failures: list[tuple[Config, Failure]], done: int) -> None:
    config, failure = failures[0]
    sentence = f"{experiment.name} failed with {_name(config)}: {failure.sentence}"
    if len(failures) > 1:
        sentence += f" ({len(failures)} runs failed, {done} were recorded)"
    if failure.refused:
        raise Refusal(sentence)
    error = RunFailed(sentence)
    error.add_note(failure.stack)
    raise error


def _name(config: Config) -> str:
    """The fields that differ from their defaults, to name a run in a sentence."""
    fields = type(config).model_fields
    told = {name: value for name, value in config.as_dict().items() if value != fields[name].default}
    return ", ".join(f"{name}={value!r}" for name, value in (told or config.as_dict()).items())


def _checked_workers(workers: int | None) -> int:
    """The number of workers asked for, or the default."""
    asked = os.environ.get("NTF_WORKERS") if workers is None else str(workers)
    if asked:
        if not asked.isdecimal():
            raise Refusal(f"the number of workers is 0 or more, not {asked!r}")
        return int(asked)
    torch = sys.modules.get("torch")
    return 1 if torch and torch.cuda.is_available() else os.cpu_count() or 1


def _quiet() -> bool:
    """Bars are for people: a terminal or a live notebook, never a log or a test."""
    if os.environ.get("NTF_QUIET") == "1" or os.environ.get("CI"):
        return True
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return not (in_notebook or sys.stderr.isatty())


def runs_behind(table: pd.DataFrame, store: Store | None = None) -> list[Record]:
    """The records that a table of `sweep` (or a part of it) was made from, each once."""
    store = store or Store()
    return [store.find(key) for key in table["key"].unique()]


def curves(table: pd.DataFrame, name: str, *, store: Store | None = None) -> pd.DataFrame:
    """The curve `name` of every run in `table`, in long form.

    Returns:
        The curve's columns, and before them `key`, `seed` where there is one, and the config columns
        that vary in `table`. A curve's own column wins over a config's of the same name.

    Raises:
        Refusal: a run has no such curve.
    """
    varying = [column for column in table.columns if column == "seed" or table[column].map(repr).nunique() > 1]
    parts = []
    for record in runs_behind(table, store):
        if name not in record.curves:
            known = ", ".join(record.curves) or "none"
            raise Refusal(f"{record.experiment} records no curve {name!r}; it has {known}")
        line = table.loc[table["key"] == record.key].iloc[0]
        about = {column: line[column] for column in varying if column in record.config}
        if "seed" in record.rows[0] and len(record.rows) == 1:
            about["seed"] = record.rows[0]["seed"]
        columns = record.curves[name]
        constant = {c: v for c, v in {"key": record.key, **about}.items() if c not in columns}
        part = pd.DataFrame(columns)
        for position, (column, value) in enumerate(constant.items()):
            part.insert(position, column, [value] * len(part))
        parts.append(part)
    # an empty curve has no types of its own, and would turn whole numbers into fractions
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
