"""Execution statistics: what the recorded runs cost, where they ran, and with which versions."""

import json
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from ntf_utils import ROOT
from ntf_utils.claims import Court, load_claims
from ntf_utils.runs import Record, Store
from ntf_utils.show import wording
from ntf_utils.show.provenance import commit_text, device_text, joined


def run_statistics(store: Store | None = None) -> pd.DataFrame:
    """One row an experiment: runs, seeds, device, total and longest time, largest memory, commits."""
    groups: dict[str, list[Record]] = {}
    for record in (store or Store()).records():
        groups.setdefault(f"{record.experiment} v{record.version}", []).append(record)
    rows = [{"experiment": name, **_totals(records)} for name, records in groups.items()]
    return _named(pd.DataFrame(rows, columns=["experiment", *_TOTALS]))


def software_of_runs(store: Store | None = None) -> pd.DataFrame:
    """One row a combination of versions that records were made with."""
    records = list((store or Store()).records())
    made_with = pd.DataFrame(
        [record.provenance.model_dump(include=set(_SOFTWARE)) for record in records],
        columns=_SOFTWARE,
    )
    return _named(made_with.fillna("–").value_counts(sort=False).rename("runs").reset_index())


def package_versions(requirements: Path = ROOT / "requirements.txt") -> pd.DataFrame:
    """The installed version of every package that the book asks for by name."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    names = [match.group() for line in lines if (match := re.match(r"[A-Za-z0-9][\w.-]*", line))]
    return _named(pd.DataFrame([{"package": name, "version": _installed(name)} for name in names]))


def profile_costs(notebooks: Path = ROOT / "notebooks", store: Store | None = None) -> pd.DataFrame:
    """What the runs behind the recorded verdicts took, for each paper and profile.

    `seconds of all runs` adds up the runs, `on` says where: two processes finish them in about half that
    time.
    """
    store = store or Store()
    records = {record.key: record for record in store.records()}
    rows = []
    for path in sorted(notebooks.glob("*/claims.yaml")):
        claims = load_claims(path)
        for profile in ("laptop", "gpu", "paper"):
            court = Court(claims.paper, profile, claims, store)
            verdicts = [verdict for name in claims.claims if (verdict := court.recorded(name))]
            behind = [records[key] for key in {key for v in verdicts for key in v.runs} if key in records]
            if behind:
                rows.append({"paper": claims.paper, "profile": profile, **_totals(behind)})
    return _named(pd.DataFrame(rows, columns=["paper", "profile", "runs", "on", "all runs", "longest"]))


def benchmark_figures(store: Store | None = None) -> pd.DataFrame:
    """One row a recorded measure of speed: value, target where there is one, and the processor it was taken on.

    The figures lie in `<root>/benchmarks/<paper>.json`; `python -m benchmarks --record` writes them.
    """
    rows = []
    for path in sorted(((store or Store()).root / "benchmarks").glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        for measure in report["measures"]:
            rows.append(
                {
                    "measure": measure["name"],
                    "value": wording.quantity(measure["value"], measure["unit"]),
                    "target": " ".join(part for part in (measure["target"], measure["verdict"]) if part) or "–",
                    "on": report["cpu"]["model"],
                    "paper": path.stem,
                }
            )
    return _named(pd.DataFrame(rows, columns=["measure", "value", "target", "on", "paper"]))


def estimated_costs(notebooks: Path = ROOT / "notebooks", store: Store | None = None) -> pd.DataFrame:
    """What each profile without recorded verdicts says of its own cost and machine."""
    measured = profile_costs(notebooks, store)
    done = set(zip(measured.index, measured["profile"], strict=True))
    rows = []
    for path in sorted(notebooks.glob("*/profiles/*.yaml")):
        paper, profile = path.parents[1].name, path.stem
        if (paper, profile) not in done and profile != "smoke":
            told = dict(re.findall(r"^# (cost|machine): +(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
            row = {"cost by its profile": told.get("cost", "–"), "machine": told.get("machine", "–")}
            rows.append({"paper": paper, "profile": profile, **row})
    return _named(pd.DataFrame(rows, columns=["paper", "profile", "cost by its profile", "machine"]))


_SOFTWARE = ["python", "torch", "numpy", "platform"]
_TOTALS = ("runs", "seeds", "on", "all runs", "longest", "memory", "commit")


def _totals(records: list[Record]) -> dict:
    seconds = [record.provenance.seconds for record in records]
    return {
        "runs": len(records),
        "seeds": wording.numbers_run(_seeds(records)) or "–",
        "on": joined(device_text(record) for record in records),
        "all runs": wording.duration(sum(seconds)),
        "longest": wording.duration(max(seconds)),
        "memory": f"{max(record.provenance.peak_memory_mb for record in records)} MiB",
        "commit": joined(commit_text(record) for record in records),
    }


def _seeds(records: Iterable[Record]) -> set[int]:
    """Seeds stand in the config, or in the rows where a run trains several members."""
    found = set()
    for record in records:
        found |= {row["seed"] for row in [record.config, *record.rows] if isinstance(row.get("seed"), int)}
    return found


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The first column as the rows' names: pages then show no row numbers."""
    return table.set_index(table.columns[0]).rename_axis(None)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
