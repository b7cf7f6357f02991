"""The basin explorer's states from a recorded run, and the live side: trains one ensemble at any setting."""

from collections.abc import Callable
from typing import Any, Self

import pandas as pd

from ntf_utils.data.images import tile_rows
from ntf_utils.data.pictures import pictures_of
from ntf_utils.papers.single_basin import effects
from ntf_utils.papers.single_basin.ensembles import Ensemble, EnsembleConfig, Job, arm_name
from ntf_utils.refusal import Refusal
from ntf_utils.runs import curves, runs_behind
from ntf_utils.training.device import default_device

SWEEPS = {  # title -> strategy, and what a setting of it is called
    "spawn time": ("branch", "branches part at {:.3g} of training"),
    "weight of the term, one start": ("constrained", "weight {:g}"),
    "weight of the term, many starts": ("drawn", "weight {:g}"),
}
LARGEST_SPAWN = 0.99


def recorded_states(run: pd.DataFrame) -> dict[str, Any]:
    """The explorer's states from the rows of one run of `train_ensembles` that kept tiles.

    Raises:
        Refusal: no such run, or its deep ensemble was lost to divergence.
    """
    if run["seed"].nunique() != 1:
        raise Refusal(f"the explorer shows one seed (got {run['seed'].nunique()})")
    found = {name: curves(run, name) for name in ("lines", "votes", "shown", "classes")}
    deep = run[run["strategy"] == "deep"]
    if deep["joint"].isna().any():
        raise Refusal("the explorer needs a deep ensemble, which diverged in this run")
    sweeps = []
    for title, (strategy, name) in SWEEPS.items():
        rows = effects.sweep_of(run, strategy).dropna(subset="joint") if strategy in set(run["strategy"]) else []
        stops = [_stop(row, name, found) for row in rows.to_dict("records")] if len(rows) else []
        if len(stops) >= 2:
            sweeps.append({"title": title, "stops": stops})
    return {
        "classes": found["classes"]["name"].tolist(),
        "truth": found["shown"]["truth"].tolist(),
        "reference": _stop(deep.assign(setting=0.0).to_dict("records")[0], "deep ensemble", found),
        "sweeps": sweeps,
    }


def _stop(row: dict, name: str, found: dict[str, pd.DataFrame]) -> dict[str, Any]:
    arm = arm_name(row["strategy"], row["at_spawn"], row["at_weight"])
    lines = found["lines"][found["lines"]["arm"] == arm]
    votes = found["votes"][found["votes"]["arm"] == arm].sort_values("member")
    return {
        "title": name.format(row["setting"]), "value": float(row["setting"]),
        "alphas": lines["alpha"].tolist(), "loss": lines["loss"].astype(float).tolist(),
        "nll": float(row["calibrated"]), "joint": float(row["joint"]), "disagreement": float(row["disagreement"]),
        "said": [[int(word) for word in text.split()] for text in votes["said"]],
    }  # fmt: skip


class LiveEnsembles:
    """Trains ensembles of a recorded run's seed at settings that it does not hold.

    Implements what `BasinExplorer(live=...)` asks for.

    Args:
        config: of the run; only its first deep member, or its initialisations, are trained anew beside what is asked.
    """

    def __init__(self, config: EnsembleConfig):
        self.config = config

    @classmethod
    def of(cls, run: pd.DataFrame) -> Self:
        """For the config behind the rows of one run."""
        (record,) = runs_behind(run)
        return cls(EnsembleConfig(**record.config))

    def train(self, sweep: str, value: float, report: Callable[[int, int], None]) -> dict[str, Any]:
        """The stop of a sweep at a value; `report(updates, of)` may raise to end the training.

        Raises:
            Refusal: a value that the sweep does not have, or members that diverged.
        """
        strategy, name = SWEEPS[sweep]
        if strategy == "branch":
            if not 0 <= value <= LARGEST_SPAWN:
                raise Refusal(f"branches part between 0 and {LARGEST_SPAWN:g} of the training (got {value:g})")
            config = self.config.but(spawns=(value,), spawn=value)
        else:
            chosen = {"weights": (value,), "weight": value, "drawn": ()}
            drawn = {"drawn": (value,)}
            config = self.config.but(**(chosen if strategy == "constrained" else drawn))
        job = _ReportingJob(config, report)
        found = job.one(strategy, value)
        if found.diverged:
            raise Refusal(f"{name.format(value)}: a member diverged, so there is no ensemble to show")
        row = job.row(found) | {"setting": value}
        kept = {"lines": job.lines([found]), "votes": job.votes([found])["votes"]}
        return _stop(row, name, {name: pd.DataFrame(columns) for name, columns in kept.items()})

    def pictures(self) -> list[str]:
        """The shown test images as data addresses of small PNGs.

        Raises:
            Refusal: the data set is not at hand.
        """
        job = Job(self.config, default_device())
        rows = tile_rows(job.data.test_labels, self.config.tiles)
        return pictures_of(job.data.test_pixels[rows.cpu()])


class _ReportingJob(Job):
    """A job that trains one ensemble, and says how far it is."""

    def __init__(self, config: EnsembleConfig, report: Callable[[int, int], None]):
        super().__init__(config, default_device())
        self.done, self.tell = 0, report
        self.last = config.steps

    def one(self, strategy: str, value: float) -> Ensemble:
        """The ensemble of a strategy at a value."""
        if strategy == "branch":
            self.last = 2 * self.config.steps - self._spawn_step(value)
            return self.branch(self.deep(), value)
        return next(found for found in self.constrained() if (found.strategy, found.weight) == (strategy, value))

    def report(self) -> None:
        self.tell(self.done, self.last)
        self.done += 1
