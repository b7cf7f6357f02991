"""What the page's guidance explorer shows: texts at every strength, their scores, and how a probe reads each token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ntf_utils.data import persona
from ntf_utils.data.persona import KINDS, Ask
from ntf_utils.measures.concept_probes import random_directions
from ntf_utils.measures.guidance import null_band
from ntf_utils.models.guidance import Directions, activations, generate, guided, row_draws
from ntf_utils.papers.concept_guidance.guides import (
    SCORED,
    CellsConfig,
    Fitted,
    Guides,
    Made,
    Sweep,
    judged,
    middle,
)
from ntf_utils.papers.concept_guidance.persona_model import (
    LONGEST,
    STOP,
    is_trained,
    padded,
    prompt_of,
    scores_of,
    spoken,
)
from ntf_utils.runs import Outcome, experiment

LARGEST_TINT = 99  # stands for TINT_DEVIATIONS standard deviations of the unguided tokens
TINT_DEVIATIONS = 3.0


class ExplorerConfig(CellsConfig):
    """Texts under the guides of some cells.

    Attributes:
        cells: (concept, probe, site, number of layers) each.
        shown: prompts of each kind.
    """

    cells: tuple[tuple[str, str, str, int], ...] = (("truth", "difference", "residual", 2),)
    shown: int = Field(3, ge=1)


@experiment(version=1, tolerance=0.05, at_hand=is_trained)
def write_explorer(config: ExplorerConfig) -> Outcome:
    """Row: a cell: its layers, unit of strength (median over layers), held-out accuracy, PNES and that of the null.

    Curves: "texts": a line a cell, strength and prompt: the tokens, each one's projection on the probe ("tint", see
    `Tint`), and the text's scores in percent in the order of "concepts", -1 where one does not apply. "prompts",
    "concepts", "tradeoff" (scores of all concepts and perplexity), "null" (bands of random directions), "layers"
    (held-out accuracy).
    """
    shown = Shown(config)
    rows, texts, tradeoff, layer_lines = [], [], [], []
    nulls = {site: shown.null(site) for site in sorted({cell[2] for cell in config.cells})}
    for concept, probe, site, top in config.cells:
        made, unit = shown.made(concept, probe, site)
        guide = shown.guide(concept, probe, site, top)
        strengths = config.strengths(site)
        swept = shown.guides.sweep(made.directions.vectors, site, guide.layers, unit)
        noise = [judged(sweep, concept, "report")["pnes"] for sweep in nulls[site]]
        rows.append({ "concept": concept, "probe": probe, "site": site, "top": top,
            "chosen": " ".join(map(str, guide.layers)), "unit": unit[list(guide.layers)].median(),
            "accuracy": made.held_out[list(guide.layers)].mean(),
            "pnes": judged(swept, concept, "report")["pnes"], "null_pnes": float(np.quantile(noise, 0.95)),
        })  # fmt: skip
        texts += shown.texts(guide, strengths)
        columns = [swept.scores[name, "report"] for name in SCORED]
        tradeoff += [
            (concept, probe, site, *line)
            for line in zip(strengths, *columns, swept.perplexity, swept.parsed, strict=True)
        ]
        layer_lines += [
            (concept, probe, site, layer, value, int(layer in guide.layers))
            for layer, value in enumerate(made.held_out.tolist())
        ]
    band = [line for site, sweeps in nulls.items() for line in _band(site, sweeps)]
    return Outcome(rows, {
        "texts": _columns(("concept", "probe", "site", "strength", "prompt", "tokens", "tint", "scores"), texts),
        "prompts": {"prompt": list(range(len(shown.asks))), "text": [" ".join(ask.words) for ask in shown.asks]},
        "concepts": {"concept": list(SCORED), "title": [name.capitalize() for name in SCORED]},
        "tradeoff": _columns(("concept", "probe", "site", "strength", *SCORED, "perplexity", "parse_rate"), tradeoff),
        "null": _columns(("site", "concept", "strength", "low", "high", "perplexity_low", "perplexity_high"), band),
        "layers": _columns(("concept", "probe", "site", "layer", "accuracy", "chosen"), layer_lines),
    })  # fmt: skip


class Tint:
    """How a probe reads single tokens: the projection of the activation on the direction in the last guided layer,
    centred on the median of unguided tokens, in units in which 99 is three standard deviations.

    Args:
        plain: [tokens, layers, d] activations of unguided answers.
    """

    def __init__(self, directions: Directions, layers: Sequence[int], plain: Tensor):
        self.layer = max(layers)
        self.vector = directions.vectors[self.layer]
        found = plain[:, self.layer] @ self.vector
        self.centre, self.scale = found.median(), found.std().clamp_min(1e-6) * TINT_DEVIATIONS / LARGEST_TINT

    def of(self, tokens: Tensor) -> list[int]:
        """[tokens, layers, d] -> a number a token."""
        found = (tokens[:, self.layer] @ self.vector - self.centre) / self.scale
        return found.clamp(-LARGEST_TINT, LARGEST_TINT).round().int().tolist()


class Shown:
    """The model of an explorer, its prompts and guides."""

    def __init__(self, config: ExplorerConfig, network: nn.Module | None = None):
        self.config, self.guides = config, Guides(config, network)
        # from the reporting half
        half = config.prompts // 2
        self.asks: list[Ask] = [ask for kind in KINDS for ask in self.guides.asks[kind][half : half + config.shown]]
        self._made: dict[tuple[str, str], dict[str, tuple[Made, Tensor]]] = {}
        self._plain: dict[str, Tensor] = {}

    def made(self, concept: str, probe: str, site: str) -> tuple[Made, Tensor]:
        """The guide of a concept at a site, and the site's unit of strength; fitted once."""
        if (concept, site) not in self._made:
            config = self.config
            examples = self.guides.examples(concept, config.examples + config.examples // 4)
            fitted = Fitted.of(self.guides, examples, site, config.examples)
            self._made[concept, site] = {}
            for kind in config.probes:
                self._made[concept, site][kind] = fitted.guide(kind, concept), fitted.unit
        return self._made[concept, site][probe]

    def null(self, site: str) -> list[Sweep]:
        config = self.config
        _, unit = self.made("polite", config.probes[0], site)
        layers = middle(config.layers, max(config.tops))
        vectors = random_directions(config.nulls, config.layers, config.width, seed=config.seed)
        return [self.guides.sweep(one, site, layers, unit) for one in vectors]

    def texts(self, guide: "Guide", strengths: Sequence[float]) -> list[tuple]:
        """Lines of "texts"."""
        lines, about = [], (guide.directions.concept, guide.directions.probe, guide.directions.site)
        for kind in KINDS:
            places = [place for place, ask in enumerate(self.asks) if ask.kind == kind]
            asks = self._of(kind) * len(strengths)
            written, tints = guide.write(self.guides.network, asks, np.repeat(strengths, len(places)).tolist())
            found = scores_of(self.guides.text, asks, written)
            for number, (said, tint, scores) in enumerate(zip(written, tints, found, strict=True)):
                strength, place = strengths[number // len(places)], places[number % len(places)]
                percent = [-1 if scores[name] is None else round(100 * min(max(scores[name], 0), 1)) for name in SCORED]
                lines.append((*about, float(strength), place, *(" ".join(map(str, p)) for p in (said, tint, percent))))
        return lines

    def guide(self, concept: str, probe: str, site: str, top: int) -> "Guide":
        made, unit = self.made(concept, probe, site)
        layers = made.directions.top(top)
        return Guide(made.directions, layers, unit, Tint(made.directions, layers, self.plain(site)))

    def plain(self, site: str) -> Tensor:
        """[tokens, layers, d] activations of all unguided answers."""
        if site not in self._plain:
            parts = [(self._of(kind), write(self.guides.network, self._of(kind))) for kind in KINDS]
            self._plain[site] = torch.cat([read(self.guides.network, *part, site) for part in parts])
        return self._plain[site]

    def _of(self, kind: str) -> list[Ask]:
        return [ask for ask in self.asks if ask.kind == kind]


@dataclass(frozen=True)
class Guide:
    """A direction ready to use: its layers, the length [layers] that a strength of 1 adds, how it reads tokens."""

    directions: Directions
    layers: tuple[int, ...]
    unit: Tensor
    tint: Tint

    def write(
        self, network: nn.Module, asks: Sequence[Ask], strengths: Sequence[float], positions: str = "all"
    ) -> tuple[list[list[str]], list[list[int]]]:
        """Answers to asks of one kind, each with a strength of its own, and the tint of every token."""
        tokens, mask = padded([prompt_of(ask) for ask in asks])
        since = tokens.shape[1] - 1 if positions == "new" else 0
        lengths = torch.tensor(strengths)[:, None] * self.unit
        with guided(network, self.directions, self.layers, lengths, since=since):
            said = spoken(generate(network, tokens, mask, **how_to_write(asks)).tokens)
        return said, self.tints(network, asks, said, lengths, since)

    def tints(
        self, network: nn.Module, asks: Sequence[Ask], said: Sequence[Sequence[str]], lengths: Tensor, since: int
    ) -> list[list[int]]:
        """A number for each word, as the guided model reads it."""
        with guided(network, self.directions, self.layers, lengths, since=since):
            found = read(network, asks, said, self.directions.site)
        sizes = [len(words) for words in said]
        return [self.tint.of(part) for part in found.split(sizes)]


def how_to_write(asks: Sequence[Ask]) -> dict[str, Any]:
    """Arguments of `generate` for asks of one kind: sampled, every text by the same random numbers, so that it is the
    guide that changes it."""
    longest = LONGEST[asks[0].kind]
    return {"new_tokens": longest, "stop": STOP, "draws": row_draws([0], longest).expand(len(asks), -1)}


def write(network: nn.Module, asks: Sequence[Ask]) -> list[list[str]]:
    """Unguided answers to asks of one kind, in words."""
    tokens, mask = padded([prompt_of(ask) for ask in asks])
    return spoken(generate(network, tokens, mask, **how_to_write(asks)).tokens)


def read(network: nn.Module, asks: Sequence[Ask], said: Sequence[Sequence[str]], site: str) -> Tensor:
    """[all words of the answers, layers, d] activations."""
    prompts = [prompt_of(ask) for ask in asks]
    longest = max(len(words) for words in said)
    rows = [
        prompt + persona.encode(words) + [STOP] * (longest - len(words))
        for prompt, words in zip(prompts, said, strict=True)
    ]
    tokens, mask = padded(rows)
    found = activations(network, tokens, mask, site).cpu()[:, tokens.shape[1] - longest :]
    kept = torch.tensor([[place < len(words) for place in range(longest)] for words in said])
    return found[kept]


def _band(site: str, sweeps: list[Sweep]) -> list[tuple]:
    fluency = null_band(np.stack([sweep.perplexity for sweep in sweeps]))
    lines = []
    for concept in SCORED:
        edges = null_band(np.stack([sweep.scores[concept, "report"] for sweep in sweeps]))
        lines += [(site, concept, *line) for line in zip(sweeps[0].strengths, *edges, *fluency, strict=True)]
    return lines


def _columns(names: Sequence[str], lines: Sequence[tuple]) -> dict[str, list]:
    return {name: [line[place] for line in lines] for place, name in enumerate(names)}


assert set(SCORED) <= set(persona.CONCEPTS)
