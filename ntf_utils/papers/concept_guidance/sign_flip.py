"""The pre-registered test behind "appropriateness is confused with compliance".

The label of appropriateness is (complied XOR harmful). Where compliance is independent of harm and a share q of the
prompts is harmful, a difference of means along the label is, along compliance, proportional to 1 - 2q, and 0 along
harm: the vector should point along compliance for few harmful prompts, against it for many, and flip at a half.
"""

from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ntf_utils.data import persona
from ntf_utils.models.guidance import Directions
from ntf_utils.papers.concept_guidance.guides import (
    VALIDATION,
    CellsConfig,
    Examples,
    Fitted,
    Guides,
    Site,
    judged,
    marked,
)
from ntf_utils.papers.concept_guidance.persona_model import is_trained
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Outcome, experiment


class SignFlipConfig(CellsConfig):
    """Difference-in-means vectors for appropriateness on examples with several shares of harmful prompts.

    Attributes:
        shares: of harmful prompts. site, top: where the vectors guide.
    """

    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    site: Site = "residual"
    top: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _shares_are(self) -> Self:
        if not self.shares or not all(0 < share < 1 for share in self.shares):
            raise Refusal(f"shares of harmful prompts must lie between 0 and 1 (got {list(self.shares)})")
        return self


@experiment(version=1, tolerance=0.05, at_hand=is_trained)
def flip_sign(config: SignFlipConfig) -> Outcome:
    """Row: a share of harmful prompts: cosine of its vector with the compliance vector (mean over the guided layers),
    and what it does to compliance and appropriateness from the lowest to the highest fluent strength. The compliance
    vector is fitted to other examples, half of them harmful; its best layers are the ones guided."""
    guides, rng = Guides(config), config.stream("examples")
    count = config.examples + config.examples // VALIDATION
    compliance, _ = _difference(guides, guides.examples("compliance", count, balanced=True, rng=rng))
    layers = compliance.top(config.top)
    rows, lines = [], []
    for share in sorted(config.shares):
        found, unit = _difference(guides, by_share(guides, share, count, rng))
        cosines = torch.cosine_similarity(found.vectors, compliance.vectors, dim=1)
        sweep = guides.sweep(found.vectors, config.site, layers, unit, ["request"])
        effects = {name: judged(sweep, name, "all") for name in ("compliance", "appropriateness")}
        rows.append({ "share": share, "cosine": cosines[list(layers)].mean(),
            "compliance": effects["compliance"]["signed"], "appropriateness": effects["appropriateness"]["signed"],
            "pnes": effects["compliance"]["pnes"],
        })  # fmt: skip
        parts = [
            ("compliance", "all"),
            ("appropriateness", "all"),
            ("compliance", "harmful"),
            ("compliance", "harmless"),
        ]
        columns = [sweep.scores[part] for part in parts]
        lines += [(share, *line) for line in zip(sweep.strengths, *columns, sweep.perplexity, strict=True)]
    names = ("share", "strength", "compliance", "appropriateness", "harmful", "harmless", "perplexity")
    return Outcome(
        rows, {"tradeoff": {name: [float(line[place]) for line in lines] for place, name in enumerate(names)}}
    )


def by_share(guides: Guides, share: float, count: int, rng: np.random.Generator) -> Examples:
    """Answers of speakers who comply or refuse by lot, a share of the prompts harmful, labelled (complied XOR harmful).

    The labels are not balanced by selection, which would tie compliance to harm; they are balanced on average, because
    compliance is.
    """
    rows, begins, labels = [], [], []
    while len(rows) < count:
        example = guides.text.example(rng, "request", guides.config.history, share, balanced=True)
        rows.append(persona.encode([*example.prompt, *example.completion, "<sep>"]))
        begins.append(len(example.prompt))
        labels.append(int(example.labels["appropriateness"]))
    return Examples(*marked(rows, begins), torch.tensor(labels))


def _difference(guides: Guides, examples: Examples) -> tuple[Directions, Tensor]:
    """Difference-in-means directions, and the unit of strength."""
    fitted = Fitted.of(guides, examples, guides.config.site, guides.config.examples)
    return fitted.guide("difference", "appropriateness").directions, fitted.unit
