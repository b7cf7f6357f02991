"""Sweeps: many configs of one experiment to one tidy table, each run made at most once."""

import math
import os
from collections.abc import Iterable
from typing import Literal

import pandas as pd

from ntf_utils.refusal import Refusal
from ntf_utils.runs.config import Config
from ntf_utils.runs.cost import Costs
from ntf_utils.runs.duration import in_words
from ntf_utils.runs.experiment import Experiment
from ntf_utils.runs.local import Ended, Work, number_of_workers, run_locally
from ntf_utils.runs.progress import Progress, quiet, told
from ntf_utils.runs.record import Record, key_of
from ntf_utils.runs.slurm import Slurm, number_of_jobs, run_on_slurm
from ntf_utils.runs.store import Store
from ntf_utils.runs.timebox import OutOfTime, time_left
from ntf_utils.runs.worker import Failure


class RunFailed(RuntimeError):
    """Some runs of a sweep raised; the others are recorded. The note holds the first one's stack."""


def sweep(
    experiment: Experiment,
    configs: Iterable[Config],
    *,
    store: Store | None = None,
    workers: int | None = None,
    engine: Literal["local", "slurm"] | None = None,
    slurm: Slurm | None = None,
) -> pd.DataFrame:
    """The table of all runs asked for; computes and records only what the store lacks.

    Args:
        configs: one a run; a config that comes twice is run, and stands in the table, once.
        store: default `Store()`; with Slurm, a folder that the nodes share.
        workers: runs made at once, default the environment's NTF_WORKERS. "local": processes with one torch
            thread each, else a GPU each, else a core each. 0, or a single missing run: in this process.
            "slurm": tasks of the job array, else one a missing run, at most 256.
        engine: default the environment's NTF_ENGINE, else "local". Both write the same records, so a sweep begun
            with one is finished with the other.
        slurm: what a job asks for; default the environment's NTF_SLURM, see `Slurm.current`.

    Returns:
        A line a record row, in the order of `configs`: `key`, the config's fields, the row's columns.

    Raises:
        Refusal: no write permission, an experiment refused its input, Ctrl-C, or, under
            NTF_RECORDED_ONLY=1 (the book build), a missing record.
        OutOfTime: the deadline came first (see `timebox`); what was finished is recorded.
        RunFailed: a run raised. All other runs were still made and recorded.

    NTF_FRESH_SINCE=<unix seconds> makes records older than that count as missing.
    """
    store = store or Store()
    wanted = {key_of(experiment, config): _typed(experiment, config) for config in configs}
    _note_use(wanted)
    records = {key: store.recorded(experiment, config) for key, config in wanted.items()}
    missing = {key: wanted[key] for key, record in records.items() if record is None}
    if missing:
        _make(experiment, list(missing.values()), store, workers, engine, slurm)
        records |= {key: store.get(experiment, config) for key, config in missing.items()}
    lines = [{"key": key, **config.as_dict(), **row} for key, config in wanted.items() for row in records[key].rows]
    return pd.DataFrame(lines, columns=None if lines else ["key", *experiment.config_type.model_fields])


def _typed(experiment: Experiment, config: Config) -> Config:
    if type(config) is not experiment.config_type:
        wants, got = experiment.config_type.__name__, type(config).__name__
        raise Refusal(f"{experiment.name} takes a {wants}, not a {got}")
    return config


def _note_use(keys: Iterable[str]) -> None:
    """Append the keys to the file NTF_USED, from which `runs prune` learns what the notebooks use."""
    if path := os.environ.get("NTF_USED"):
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(f"{key}\n" for key in keys)


def _make(
    experiment: Experiment,
    missing: list[Config],
    store: Store,
    workers: int | None,
    engine: str | None,
    slurm: Slurm | None,
) -> None:
    """Make and record the missing runs."""
    if os.environ.get("NTF_RECORDED_ONLY") == "1":
        paper = experiment.__module__.removeprefix("ntf_utils.papers.").split(".")[0]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        which = f"{experiment.name} with {told(missing[0])}{more}"
        raise Refusal(f"record missing: {which}; run `make reproduce PAPER={paper}`")
    engine = engine or os.environ.get("NTF_ENGINE") or "local"
    if engine not in ("local", "slurm"):
        raise Refusal(f"the engine is local or slurm, not {engine!r}")
    local = engine == "local"
    workers = number_of_workers(workers) if local else number_of_jobs(workers, len(missing))
    store.check_writable(experiment)
    costs = None if quiet() and time_left() == math.inf else Costs(store, experiment)
    progress = Progress(experiment.name, missing, costs, min(workers, len(missing)))
    work = Work(experiment, missing, store, workers, costs, progress)
    ended = run_locally(work) if local else run_on_slurm(work, slurm or Slurm.current())
    _watch(work, ended)


def _watch(work: Work, ended: Ended) -> None:
    """Follow the runs to their end and say what went wrong."""
    done, failures, stopped = 0, [], []
    try:
        for config, failure in ended:
            if failure is None:
                done += 1
                if work.costs and (record := work.store.get(work.experiment, config)):
                    work.costs.learn(record)
            elif failure.kind == "stopped":
                stopped.append(config)
            else:
                failures.append((config, failure))
    except KeyboardInterrupt:
        counts = f"{done} of {len(work.missing)} missing runs are recorded"
        raise Refusal(f"{work.experiment.name} interrupted: {counts}; run again to go on") from None
    finally:
        ended.close()
        work.progress.close()
    if failures:
        _report(work.experiment, failures, done)
    if stopped:
        raise OutOfTime(_what_is_left(work, stopped, done))


def _what_is_left(work: Work, stopped: list[Config], done: int) -> str:
    """E.g. `square out of time: 5 of 8 missing runs are recorded, 3 are left, about 12 min with 2 workers`."""
    counts = f"{done} of {len(work.missing)} missing runs are recorded, {len(stopped)} left"
    cost = work.costs.total(stopped) if work.costs else None
    if cost is None:
        price = "at a cost nobody has recorded yet"
    else:
        at_once = max(1, min(work.workers, len(stopped)))
        price = f"about {in_words(cost / at_once)} with {at_once} worker{'s' if at_once > 1 else ''}"
    return f"{work.experiment.name} out of time: {counts}, {price}; run again to go on"


def _report(experiment: Experiment, failures: list[tuple[Config, Failure]], done: int) -> None:
    config, failure = failures[0]
    sentence = f"{experiment.name} failed with {told(config)}: {failure.sentence}"
    if len(failures) > 1:
        sentence += f" ({len(failures)} runs failed, {done} were recorded)"
    if failure.kind == "refused":
        raise Refusal(sentence)
    error = RunFailed(sentence)
    error.add_note(failure.stack)
    raise error


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
