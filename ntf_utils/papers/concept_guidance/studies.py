"""What each notebook of the chapter may be asked for, and the runs that follow from it.

A parameters class lists the names of a notebook's `parameters` cell, without defaults: the cell is the one home of the
laptop values, and `profiles/*.yaml` override them.
"""

from typing import Annotated, Literal, Self

import pandas as pd
from pydantic import Field, model_validator

from ntf_utils.data.persona import CONCEPTS
from ntf_utils.papers.concept_guidance.effects import full
from ntf_utils.papers.concept_guidance.explorer_run import ExplorerConfig
from ntf_utils.papers.concept_guidance.guides import CellsConfig, GuidesConfig
from ntf_utils.papers.concept_guidance.persona_model import PersonaModelConfig
from ntf_utils.papers.concept_guidance.sign_flip import SignFlipConfig
from ntf_utils.runs import Config

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
OFFERED = ("truth", "compliance", "humor", "creativity", "quality", "polite")  # by the explorer


class GuidanceParameters(Config):
    """What the notebooks on the persona model share: how many seeds, the model and its training, the guides."""

    profile: Literal["smoke", "laptop", "gpu", "paper"]
    seeds: Count
    layers: Count
    width: Count
    heads: Count
    length: Count
    steps: Count
    batch: Count
    learning_rate: Positive
    examples: Count
    few: Annotated[int, Field(ge=0)]
    history: Annotated[int, Field(ge=0)]
    prompts: Count
    replies: Count
    tops: Annotated[list[Count], Field(min_length=1)]
    norm_strengths: Annotated[list[Positive], Field(min_length=2)]
    residual_strengths: Annotated[list[Positive], Field(min_length=2)]
    nulls: Count

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.runs()  # a config that cannot be is refused here, before any training
        return self

    def runs(self) -> list[Config]:
        """Every run of the notebook that is known before others are made."""
        return self.models() + self.guides() + self.nulls_only()

    def models(self) -> list[PersonaModelConfig]:
        """The models, a run a seed."""
        names = ("layers", "width", "heads", "length", "steps", "batch", "learning_rate")
        about = {name: getattr(self, name) for name in names}
        return [PersonaModelConfig(seed=seed, **about) for seed in range(self.seeds)]

    def guides(self) -> list[GuidesConfig]:
        """All cells, a run a seed and concept."""
        return [self._guides(model, concept=concept, few=self.few) for model in self.models() for concept in CONCEPTS]

    def nulls_only(self) -> list[GuidesConfig]:
        """Random directions, a run a seed."""
        return [self._guides(model, concept="null") for model in self.models()]

    def _guides(self, model: PersonaModelConfig, kind: type[CellsConfig] = GuidesConfig, **fields) -> CellsConfig:
        names = ("examples", "history", "prompts", "replies", "nulls")
        lists = ("tops", "norm_strengths", "residual_strengths")
        about = {name: getattr(self, name) for name in names} | {name: tuple(getattr(self, name)) for name in lists}
        about["tops"] = tuple(sorted({min(top, model.layers) for top in about["tops"]}))
        return kind(**model.as_dict(), **(about | fields))


class ModelParameters(GuidanceParameters):
    """Of 01_the_persona_model."""


class GuidingParameters(GuidanceParameters):
    """Of 02_guiding. `shown`: the explorer's prompts of each kind."""

    shown: Count

    def explorer(self, cells: pd.DataFrame) -> list[ExplorerConfig]:
        """For the first seed: the best number of layers of each concept, probe and site in a table of cells."""
        rows = full(cells)
        rows = rows[rows["seed"] == rows["seed"].min()]
        best = rows.loc[rows.groupby(["concept", "probe", "site"], sort=False)["pnes_pick"].idxmax()]
        chosen = [
            (row.concept, row.probe, row.site, int(row.top)) for row in best.itertuples() if row.concept in OFFERED
        ]
        return [self._guides(self.models()[0], ExplorerConfig, cells=tuple(chosen), shown=self.shown)]


class WhichParameters(GuidanceParameters):
    """Of 03_which_concepts_and_probes.

    shares: of harmful prompts. flip_site, flip_top: where the vectors of that sweep guide. small_layers, small_width,
    small_steps: the smaller model that stands beside the larger one.
    """

    shares: Annotated[list[Positive], Field(min_length=2)]
    flip_site: Literal["norm", "residual"]
    flip_top: Count
    small_layers: Count
    small_width: Count
    small_steps: Count

    def runs(self) -> list[Config]:
        return super().runs() + self.flips() + self.small_models() + self.small_guides()

    def flips(self) -> list[SignFlipConfig]:
        """The sign-flip sweep, a run a seed."""
        fields = {
            "shares": tuple(self.shares),
            "site": self.flip_site,
            "top": self.flip_top,
        }
        return [self._guides(model, SignFlipConfig, **fields) for model in self.models()]

    def small_models(self) -> list[PersonaModelConfig]:
        small = {"layers": self.small_layers, "width": self.small_width, "steps": self.small_steps}
        return [model.but(**small) for model in self.models()]

    def small_guides(self) -> list[GuidesConfig]:
        """Creativity and quality on the smaller models."""
        concepts = ("creativity", "quality")
        return [self._guides(model, concept=concept) for model in self.small_models() for concept in concepts]
