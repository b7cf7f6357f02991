"""`replay`: make recorded runs again and compare, so that drift is caught before a reader meets it."""

import importlib
import math
import pkgutil
import sys
import time
from collections import Counter
from typing import Annotated, Literal

import typer

from ntf_utils import papers
from ntf_utils.refusal import Refusal, nearest
from ntf_utils.runs import GENERATED, Commit, Config, Experiment, Record, Store, key_of, make_record, registry
from ntf_utils.runs.duration import seconds_of


def replay(
    budget: Annotated[str, typer.Option(help="Time to spend by the recorded durations, e.g. 90s or 2m.")] = "2m",
    experiment: Annotated[str | None, typer.Option(help="Only the records of this experiment.")] = None,
) -> None:
    """Re-run the cheapest records, at least one an experiment where the budget allows, and compare.

    On the record's own kind of processor, with its versions, every number must be the same. Elsewhere it must lie
    within the experiment's tolerance or is reported, and decides nothing: training is chaotic, and another
    processor's last digits make another run. Exit status 1 where the same machine gives another number.
    """
    seconds = seconds_of(budget)
    _import_papers()
    if experiment and experiment not in registry:
        raise Refusal(f"no experiment {experiment!r}: {nearest(experiment, registry)}")
    candidates = []
    for record in Store().records(experiment):
        obstacle = _obstacle(record)
        if obstacle:
            print(f"stale    {record.experiment} {record.key}: {obstacle}")
        else:
            candidates.append(record)
    found = _replay_within(seconds, candidates)
    elsewhere = f", {found['differs']} differ on this other machine" if found["differs"] else ""
    print(f"{found.total()} of {len(candidates)} records replayed, {found['DRIFTED']} drifted{elsewhere}")
    raise typer.Exit(bool(found["DRIFTED"]))


def in_order(records: list[Record]) -> list[Record]:
    """The order of replays: the cheapest of each experiment first, then the cheapest of the rest."""
    by_cost = sorted(records, key=lambda record: (record.provenance.seconds, record.key))
    first = {record.experiment: record for record in reversed(by_cost)}.values()
    return sorted(by_cost, key=lambda record: record not in first)  # stable: cheapest first in both parts


def _replay_within(budget: float, candidates: list[Record]) -> Counter:
    """Replay what fits the budget by its recorded seconds; how many went how.

    Records whose data are not on this machine are passed over, with one line for each data set. So are those that build
    on a model which would have to be trained first: their recorded seconds do not hold that.
    """
    found, absent = Counter(), set()
    for record in in_order(candidates):
        if record.provenance.seconds > budget or record.data in absent:
            continue
        experiment = registry[record.experiment]
        if not experiment.at_hand(_config(experiment, record)):
            if record.experiment not in absent:
                print(f"no model {record.experiment} {record.key}, and others: what they build on is not in the cache")
            absent.add(record.experiment)
            continue
        try:
            found[_replay_one(record)] += 1
        except Refusal as refusal:
            if record.data == GENERATED:
                raise
            absent.add(record.data)
            print(f"no data  {record.experiment} {record.key}, and others on the same data: {refusal}")
        else:
            budget -= record.provenance.seconds
    return found


def differences(recorded: Record, again: Record, tolerance: float) -> list[str]:
    """Every row value and curve point that differs, as sentences; empty where nothing drifted."""
    old, new = (dict(_leaves({"rows": r.rows, "curves": r.curves})) for r in (recorded, again))
    if old.keys() != new.keys():
        return [f"{place} is recorded or computed, not both" for place in sorted(old.keys() ^ new.keys())]
    return [
        f"{place}: recorded {old[place]}, now {new[place]}"
        for place in old
        if not _same(old[place], new[place], tolerance)
    ]


def _leaves(value: object, place: str = ""):
    """(place, scalar) of every scalar in nested dicts and lists."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{place}.{name}" if place else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{place}[{index}]")
    else:
        yield place, value


def _same(old: object, new: object, tolerance: float) -> bool:
    if isinstance(old, float) and isinstance(new, (int, float)):
        return math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance)
    return old == new


def _replay_one(record: Record) -> Literal["same", "close", "differs", "DRIFTED"]:
    """Re-run one record and say how it went: the same to the last recorded digit, close enough for another machine,
    different on another machine, or drifted on its own."""
    experiment = registry[record.experiment]
    start = time.perf_counter()
    again = make_record(experiment, _config(experiment, record), Commit())
    at_home = again.provenance.same_machine(record.provenance)
    found = differences(record, again, 0 if at_home else experiment.tolerance)
    seconds = time.perf_counter() - start
    if found:
        verdict = "DRIFTED" if at_home else "differs"
    else:
        verdict = "same" if at_home or not differences(record, again, 0) else "close"
    where = "" if at_home else f" (recorded on {_machine(record)})"
    print(f"{verdict:<8} {record.experiment} {record.key} {seconds:.1f} s{where}")
    for sentence in found[:5]:
        print(f"         {sentence}")
    if len(found) > 5:
        print(f"         and {len(found) - 5} more")
    return verdict


def _machine(record: Record) -> str:
    about = record.provenance
    processor = about.cpu or f"an unnamed processor, {about.platform}"
    device = "" if about.device == "cpu" else f", {about.device}"
    return f"{processor}{device}, Python {about.python}, torch {about.torch}"


def _config(experiment: Experiment, record: Record) -> Config:
    return experiment.config_type(**record.config)


def _obstacle(record: Record) -> str | None:
    """Why today's code cannot make this record again; None where it can."""
    experiment = registry.get(record.experiment)
    if experiment is None:
        return "the experiment is gone"
    if experiment.version != record.version:
        return f"recorded with v{record.version}, the code is v{experiment.version}"
    try:
        if key_of(experiment, _config(experiment, record)) != record.key:
            return "its config or its data has changed since"
    except Refusal as refusal:
        return str(refusal)
    torch = sys.modules.get("torch")
    if record.provenance.device != "cpu" and not (torch and torch.cuda.is_available()):
        return f"recorded on {record.provenance.device}, and there is no GPU here"
    return None


def _import_papers() -> None:
    """Import every paper's module, so that its experiments register."""
    for module in pkgutil.walk_packages(papers.__path__, f"{papers.__name__}."):
        importlib.import_module(module.name)
