"""The locality explorer's states from recorded runs, and the live side: distils a student from any start."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import pandas as pd

from ntf_utils.data.images import load_images, stratified_subset, tile_rows
from ntf_utils.data.pictures import pictures_of
from ntf_utils.papers.random_teachers.distillation import PROBES, DistilConfig, Job
from ntf_utils.refusal import Refusal
from ntf_utils.runs import curves, runs_behind
from ntf_utils.training.device import default_device

LOOKS = 4  # of a live training


def recorded_states(students: pd.DataFrame, pixels: Mapping[str, float]) -> dict[str, Any]:
    """The explorer's states.

    Args:
        students: rows of runs of one seed that differ in their locality and have been watched.
        pixels: accuracy of each probe on the pixels, as shares.

    Raises:
        Refusal: runs that show different test images or have different teachers.
    """
    votes, looks = curves(students, "votes"), curves(students, "learning")
    taught = votes[votes["who"] == "teacher"]
    if votes["truth"].nunique() != 1 or taught["said"].nunique() != 1:
        raise Refusal("the locality explorer needs runs of one teacher on the same test images")
    settings = []
    for row in students.itertuples():
        mine = looks[(looks["key"] == row.key) & (looks["round"] == 1)]
        said = votes[(votes["key"] == row.key) & (votes["who"] == "student")]["said"].iloc[0]
        settings.append(_setting(row.locality, mine, said))
    first = students.iloc[0]
    return {
        "classes": list(curves(students.iloc[[0]], "classes")["name"]),
        "truth": _numbers(votes["truth"].iloc[0]),
        "pixels": {probe: 100 * float(pixels[probe]) for probe in PROBES},
        "teacher": {
            "accuracy": {probe: 100 * float(first[f"{probe}_teacher"]) for probe in PROBES},
            "said": _numbers(taught["said"].iloc[0]),
        },
        "settings": settings,
    }


def _setting(locality: float, looks: pd.DataFrame, said: str) -> dict[str, Any]:
    return {
        "locality": float(locality),
        "steps": looks["step"].astype(int).tolist(),
        "accuracy": {probe: (100 * looks[probe].astype(float)).round(2).tolist() for probe in PROBES},
        "said": _numbers(said),
    }


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


class LiveStudents:
    """Distils a student from any locality, with the recorded runs' teacher.

    Implements what `LocalityExplorer(live=...)` asks for.

    Args:
        config: of a recorded run; its locality is overridden by what is asked for.
    """

    def __init__(self, config: DistilConfig):
        self.config = config.but(looks=LOOKS, rounds=1, line=0, probe_on=())

    @classmethod
    def of(cls, table: pd.DataFrame) -> Self:
        """For the setting of a table of `sweep`."""
        record, *_ = runs_behind(table)
        return cls(DistilConfig(**record.config))

    def train(self, locality: float, report: Callable[[int, int], None]) -> dict[str, Any]:
        """A setting of the explorer; `report(updates, of)` may raise to end the training."""
        job = _ReportingJob(self.config.but(locality=locality), report)
        teacher = job.teacher()
        student = job.student(teacher)
        looks = pd.DataFrame(job.distil(teacher, student))
        (vote,) = job.votes({"student": student})
        return _setting(locality, looks, vote["said"])

    def pictures(self) -> list[str]:
        """The shown test images as data addresses of small PNGs.

        Raises:
            Refusal: the data set is not at hand.
        """
        config = self.config
        test = load_images(config.dataset, "test")
        test = stratified_subset(test, config.n_test, config.data_seed) if config.n_test else test
        return pictures_of(test[tile_rows(test.labels, config.tiles)])


class _ReportingJob(Job):
    """A job that says how far it is."""

    def __init__(self, config: DistilConfig, tell: Callable[[int, int], None]):
        super().__init__(config, default_device())
        self.tell = tell

    def report(self, step: int) -> None:
        self.tell(step, self.config.steps)
