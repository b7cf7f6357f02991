"""The barrier explorer's states from recorded runs, and the live side: trains two networks and walks between them."""

from collections.abc import Callable, Iterable
from typing import Any, Self

import pandas as pd
import torch

from ntf_utils.data.images import tile_rows
from ntf_utils.data.pictures import pictures_of
from ntf_utils.papers.linear_mode_connectivity.connectivity import ConnectivityConfig, Job
from ntf_utils.refusal import Refusal
from ntf_utils.runs import runs_behind
from ntf_utils.training.device import default_device

FINE = 41  # positions on a live path


def recorded_states(settings: dict[str, pd.DataFrame], classes: Iterable[str]) -> dict[str, Any]:
    """The explorer's states.

    Args:
        settings: title -> the "predictions" curve of one run. All runs show the same test images. A run in which
            some kind of pair was lost to divergence cannot be shown.
        classes: names of the classes.

    Raises:
        Refusal: the runs do not show the same test images.
    """
    truths = {truth for curve in settings.values() for truth in curve["truth"]}
    if len(truths) != 1:
        raise Refusal("the barrier explorer needs runs on the same test images")
    return {
        "classes": list(classes),
        "truth": _numbers(truths.pop()),
        "settings": [{"title": title, "pairs": _pairs(curve)} for title, curve in settings.items()],
    }


def _config_of(table: pd.DataFrame) -> ConnectivityConfig:
    (record,) = runs_behind(table)
    return ConnectivityConfig(**record.config)


def _pairs(curve: pd.DataFrame) -> list[dict[str, Any]]:
    names = ("loss", "error", "test_error", "changed")
    return [
        {"kind": kind, "alphas": rows["alpha"].tolist()} | {name: rows[name].astype(float).tolist() for name in names}
        | {"said": [_numbers(text) for text in rows["said"]]}
        for kind, rows in curve.groupby("kind", sort=False)
    ]  # fmt: skip


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


class LivePairs:
    """Trains two initialisations of a setting afresh and scores finely spaced points between the networks.

    Implements what `BarrierExplorer(live=...)` asks for.

    Args:
        settings: title -> its config; `tiles` and `points` are overridden by what the explorer shows.
        a_class: test images of each class, as in the recorded runs.
    """

    def __init__(self, settings: dict[str, ConnectivityConfig], a_class: int):
        self.settings, self.a_class = settings, a_class

    @classmethod
    def of(cls, settings: dict[str, pd.DataFrame], a_class: int) -> Self:
        """For the settings of some tables of `sweep`, each of one run."""
        return cls({title: _config_of(table) for title, table in settings.items()}, a_class)

    def train(self, title: str, report: Callable[[int, int], None]) -> dict[str, Any]:
        """A setting's state, from new initialisations; `report(updates, of)` may raise to end the training."""
        chosen = self.settings[title]
        config = chosen.but(
            inits=2, orders=2, first_init=int(torch.randint(1, 2**20, ()).item()), points=FINE, tiles=self.a_class,
            plane=0, match=False,
        )  # fmt: skip
        job = _ReportingJob(config, report)
        trained = job.train()
        pairs = job.pairs(trained)
        if not all(pairs.values()):
            raise Refusal(f"{title}: a network diverged, so there is no path to walk along; train again")
        scored = {kind: job.score(trained, pairs[kind]) for kind in pairs}
        said = pd.DataFrame(job.predictions(trained, pairs, scored))
        return {"title": title, "pairs": _pairs(said)}

    def pictures(self) -> list[str]:
        """The shown test images as data addresses of small PNGs.

        Raises:
            Refusal: the data set is not at hand.
        """
        job = Job(next(iter(self.settings.values())), default_device())
        rows = tile_rows(job.data.test_labels, self.a_class)
        return pictures_of(job.data.test_pixels[rows.cpu()])


class _ReportingJob(Job):
    """A job that says how far it is."""

    def __init__(self, config: ConnectivityConfig, report: Callable[[int, int], None]):
        super().__init__(config, default_device())
        self.done, self.tell = 0, report

    def report(self) -> None:
        self.tell(self.done, self.config.steps)
        self.done += 1
