"""What the chapter's notebooks may be asked for, and the runs that follow from it.

A parameters class lists the names of a notebook's `parameters` cell, without defaults: the cell is the one home of
the laptop values, and `profiles/*.yaml` override them. All three notebooks rest on the same runs, so they take the same
parameters.
"""

from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import Field, model_validator

from ntf_utils.papers.single_basin.ensembles import EnsembleConfig, train_ensembles
from ntf_utils.runs import Config, key_of

Tier = Literal["objects", "clothes", "contrast"]
TIERS: tuple[Tier, ...] = ("objects", "clothes", "contrast")
DIGITS = {"dataset": "digits", "pooling": 1, "n_train": 450, "n_held": 400, "n_test": 0, "batch": 32}


class BasinParameters(Config):
    """Of all notebooks.

    `objects`, `clothes` and `contrast` each describe one tier: `seeds`, how many sets of ensembles, and fields of
    `EnsembleConfig`. Claims are judged on the first two; the third shows another architecture. `dataset` replaces all
    tiers' data where it is not empty; with "digits" sizes follow.
    """

    profile: Literal["smoke", "laptop", "gpu", "paper"]
    dataset: str
    members: Annotated[int, Field(ge=2)]
    temperature: Annotated[float, Field(gt=0)]
    share: Annotated[float, Field(ge=0, le=1)]
    points: Annotated[int, Field(ge=3)]
    mixtures: Annotated[int, Field(ge=1)]
    plane: Annotated[int, Field(ge=0)]
    tiles: Annotated[int, Field(ge=1)]
    objects: dict[str, Any]
    clothes: dict[str, Any]
    contrast: dict[str, Any]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for tier in TIERS:
            seeds = getattr(self, tier).get("seeds")
            if not isinstance(seeds, int) or seeds < (1 if tier == "contrast" else 2):
                raise ValueError(f"{tier} needs seeds, a whole number of 2 or more (got {seeds})")
        self.runs()  # a config that cannot be is refused here, before any training
        return self

    def tier(self, tier: Tier) -> list[EnsembleConfig]:
        """A tier's runs, one a seed from 0. The first also keeps what the planes and the explorer show."""
        fields = {name: value for name, value in getattr(self, tier).items() if name != "seeds"}
        shared = ("members", "temperature", "share", "points", "mixtures")
        fields |= {name: getattr(self, name) for name in shared}
        if self.dataset == "digits":
            fields |= DIGITS | {"batch": min(fields.get("batch", 64), DIGITS["batch"])}
        elif self.dataset:
            fields["dataset"] = self.dataset
        first = {"plane": self.plane, "tiles": self.tiles} if tier == "objects" else {}
        return [
            EnsembleConfig(seed=seed, **fields, **(first if seed == 0 else {}))
            for seed in range(getattr(self, tier)["seeds"])
        ]

    def runs(self) -> list[EnsembleConfig]:
        """Every run of the chapter."""
        return [config for tier in TIERS for config in self.tier(tier)]

    def by_tier(self, table: pd.DataFrame) -> dict[Tier, pd.DataFrame]:
        """The rows of each tier, from the table of all runs."""
        keys = {tier: {key_of(train_ensembles, config) for config in self.tier(tier)} for tier in TIERS}
        return {tier: table[table["key"].isin(own)] for tier, own in keys.items()}
