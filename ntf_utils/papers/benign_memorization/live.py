"""The depth explorer's states from recorded runs on digits, and the live side: memorises with any augmentation."""

from collections.abc import Callable
from typing import Any, Self

import pandas as pd

from ntf_utils.data.pictures import pictures_of
from ntf_utils.papers.benign_memorization.memorization import Job, MemorizeConfig
from ntf_utils.refusal import Refusal
from ntf_utils.runs import curves, runs_behind
from ntf_utils.training.device import default_device

SHOWABLE = "digits"  # the one data set whose pictures a page may hold


def recorded_states(table: pd.DataFrame) -> dict[str, Any]:
    """The explorer's states.

    Args:
        table: rows of runs of one seed that differ in their augmentation and keep layers and neighbours.

    Raises:
        Refusal: other images than digits, or runs that do not memorise the same images.
    """
    configs = [MemorizeConfig(**record.config) for record in runs_behind(table)]
    if any(config.dataset != SHOWABLE for config in configs):
        raise Refusal(f"the depth explorer shows pictures, and a page may hold those of {SHOWABLE} only")
    if len({(config.seed, config.n_train, config.data_seed, config.n_bank) for config in configs}) != 1:
        raise Refusal("the depth explorer needs runs that memorise the same images")
    layers, near, looks = (curves(table, name) for name in ("layers", "shown", "learning"))
    networks = []
    for config, key in zip(configs, table["key"], strict=True):
        mine = layers[layers["key"] == key], near[near["key"] == key]
        said = looks[looks["key"] == key]["memorised"].astype(float)
        if not networks:
            networks.append(_network("before training", None, said.iloc[0], *mine, "start"))
        networks.append(_network(_name(config.strength), config.strength, said.iloc[-1], *mine, "end"))
    return {"layers": list(dict.fromkeys(layers["layer"])), "asked": _asked(near), "networks": networks} | _images(
        Job(configs[0], default_device())
    )


def _name(strength: float) -> str:
    return f"augmented, strength {strength:g}" if strength else "without augmentation"


def _asked(near: pd.DataFrame) -> list[int]:
    return [int(image) for image in dict.fromkeys(near["image"])]


def _network(
    name: str, strength: float | None, memorised: float, layers: pd.DataFrame, near: pd.DataFrame, when: str
) -> dict[str, Any]:
    layers, near = layers[layers["when"] == when], near[near["when"] == when]
    return {
        "name": name, "strength": strength, "memorised": round(100 * memorised, 1),
        "true": (100 * layers["true"].astype(float)).round(1).tolist(),
        "random": (100 * layers["random"].astype(float)).round(1).tolist(),
        # layer by layer, for each image asked the rows of the nearest others
        "near": [
            [[int(row) for row in text.split()] for text in rows["near"]]
            for _, rows in near.groupby("layer", sort=False)
        ],
    }  # fmt: skip


def _images(job: Job) -> dict[str, Any]:
    return {
        "true": job.images.labels.tolist(), "labels": job.labels[0].tolist(), "pictures": pictures_of(job.images),
    }  # fmt: skip


class LiveMemory:
    """Memorises the explorer's labels with any strength of augmentation.

    Implements what `DepthExplorer(live=...)` asks for.

    Args:
        config: of a recorded run; its strength is overridden by what is asked for.
    """

    def __init__(self, config: MemorizeConfig):
        self.config = config

    @classmethod
    def of(cls, table: pd.DataFrame) -> Self:
        """For the setting of a table of `sweep`."""
        record, *_ = runs_behind(table)
        return cls(MemorizeConfig(**record.config))

    def train(self, strength: float, report: Callable[[int, int], None]) -> dict[str, Any]:
        """A network of the explorer; `report(updates, of)` may raise to end the training."""
        job = _ReportingJob(self.config.but(strength=strength, views=0 if strength else 1), report)
        network = job.fresh()
        said = job.train(network, [job.look(network, 0)])[-1]["memorised"]
        layers, near = (pd.DataFrame(found) for found in (job.layers(network, "end"), job.shown(network, "end")))
        return _network(_name(strength), strength, said, layers, near, "end")


class _ReportingJob(Job):
    """A job that says how far it is."""

    def __init__(self, config: MemorizeConfig, tell: Callable[[int, int], None]):
        super().__init__(config, default_device())
        self.tell = tell

    def report(self, step: int) -> None:
        self.tell(step, self.config.steps)
