"""Where a figure or a table comes from: the line that stands under each of them."""

from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from ntf_utils.runs import Record, runs_behind
from ntf_utils.show import wording


class Provenance:
    """One line an experiment: its version, runs, seeds, profile, device, seconds and commit."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    def _repr_html_(self) -> str:
        lines = "<br>".join(escape(line) for line in self.lines)
        return f'<p class="provenance" style="font-size:.8em;opacity:.75;margin:.2em 0 1em">{lines}</p>'


def provenance(table: pd.DataFrame | Sequence[pd.DataFrame], profile: str) -> Provenance:
    """The provenance of one or several tables of `sweep`.

    Example line: `Runs: train_path_finder v1 · 20 runs · seeds 0–4 · laptop · cpu, 1 thread · 512 s · commit
    abc1234`.
    """
    tables = [table] if isinstance(table, pd.DataFrame) else list(table)
    records: dict[str, Record] = {record.key: record for table in tables for record in runs_behind(table)}
    seeds: dict[str, set[int]] = {}  # a run may hold several
    for table in tables:
        if "seed" in table:
            for key, seed in zip(table["key"], table["seed"], strict=True):
                seeds.setdefault(key, set()).add(seed)
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records.values():
        groups.setdefault((record.experiment, record.version), []).append(record)
    return Provenance([_line(group, seeds, profile) for _, group in sorted(groups.items())])


def _line(records: list[Record], seeds: dict[str, set[int]], profile: str) -> str:
    first = records[0]
    facts = [
        f"Runs: {first.experiment} v{first.version}",
        f"{len(records)} run{'s' if len(records) > 1 else ''}",
        _seeds(set().union(*(seeds.get(record.key, ()) for record in records))),
        profile,
        joined(device_text(record) for record in records),
        wording.duration(sum(record.provenance.seconds for record in records)),
        f"commit {joined(commit_text(record) for record in records)}",
    ]
    return " · ".join(fact for fact in facts if fact)


def joined(texts: Iterable[str]) -> str:
    """Distinct texts in sorted order, with `and` between them."""
    return " and ".join(sorted(set(texts)))


def device_text(record: Record) -> str:
    """Where a record was computed, e.g. `cpu, 1 thread`."""
    device, threads = record.provenance.device, record.provenance.threads
    if device != "cpu":
        return device
    return f"{device}, {threads} thread{'s' if threads != 1 else ''}"


def commit_text(record: Record) -> str:
    """Short commit of a record (`unknown` without git); says so when the package had uncommitted changes."""
    return record.provenance.commit[:7] + (" with changes" if record.provenance.dirty else "")


def _seeds(seeds: set[int]) -> str:
    if not seeds:
        return ""
    return f"seed{'s' if len(seeds) > 1 else ''} {wording.numbers_run(seeds)}"
