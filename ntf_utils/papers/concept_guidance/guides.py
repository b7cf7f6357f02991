"""One run of the chapter: every way to make a guide for one concept, over all strengths, on one model.

A *cell* is a probe, a site and a number of layers. Its direction is fitted to labelled answers, each after two turns of
the same speaker, and then guides answers to prompts without any history, where the model has to guess who speaks.
"Concept" null stands for random directions, scored for all concepts.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ntf_utils.data import persona
from ntf_utils.data.persona import KIND_OF, KINDS, Ask
from ntf_utils.measures.concept_probes import Probe, accuracy, fit_probe, random_directions, token_rows
from ntf_utils.measures.guidance import fit_guidance
from ntf_utils.measures.reference import Trigrams
from ntf_utils.models.guidance import (
    Directions,
    activations,
    generate,
    guided,
    median_norm,
    perplexity,
    row_draws,
)
from ntf_utils.papers.concept_guidance.persona_model import (
    LONGEST,
    STOP,
    PersonaModelConfig,
    is_trained,
    model_name,
    padded,
    persona_model,
    prompt_of,
    scores_of,
    spoken,
)
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Outcome, experiment

ProbeName = Literal["logistic", "difference", "principal"]
Site = Literal["norm", "residual"]
Concept = Literal[
    "truth", "appropriateness", "compliance", "humor", "creativity", "quality", "polite", "random", "null"
]
SCORED = ("truth", "appropriateness", "compliance", "humor", "creativity", "quality", "polite")
FOOLED = "not_myth"  # a judge of truth that broken text fools
VALIDATION = 4  # training examples for each one held out, as the authors split theirs
EXTREMES = (0.25, 0.75)  # creativity is labelled by the extreme quartiles of its score


class CellsConfig(PersonaModelConfig):
    """What all guides of one model share.

    Attributes:
        examples: labelled answers to fit on, half of either label; a quarter as many are held out.
        history: turns before an example's answer, all of the same speaker.
        prompts: to guide, of each kind; the first half picks the cell, the second reports.
        replies: good answers whose perplexity says how fluent the guided model still is.
        probes, sites, tops: the cells; a top is a number of layers, those with the best training accuracy.
        norm_strengths, residual_strengths: at either site, in medians of the activations' length; used with both
            signs.
        nulls: random directions.
        positions: guide the prompt too, as the paper does, or the new tokens only.
        decoding: "sampled" draws every token, each prompt with the same random numbers at all strengths and under all
            guides, so that texts differ only by what the guide does; "greedy" as in the paper.
    """

    examples: int = Field(512, ge=16)
    history: int = Field(2, ge=0, le=3)
    prompts: int = Field(64, ge=4)
    replies: int = Field(48, ge=3)
    probes: tuple[ProbeName, ...] = ("logistic", "difference", "principal")
    sites: tuple[Site, ...] = ("norm", "residual")
    tops: tuple[int, ...] = (1, 2, 4)
    norm_strengths: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    residual_strengths: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    nulls: int = Field(8, ge=8)
    positions: Literal["all", "new"] = "all"
    decoding: Literal["greedy", "sampled"] = "sampled"

    @model_validator(mode="after")
    def _cells_exist(self) -> Self:
        if not (self.probes and self.sites and self.tops and self.norm_strengths and self.residual_strengths):
            raise Refusal("probes, sites, tops and strengths need one entry each at least")
        for top in self.tops:
            if not 1 <= top <= self.layers:
                raise Refusal(f"tops must lie from 1 to {self.layers}, the layers of the model (got {top})")
        if min(self.norm_strengths + self.residual_strengths) <= 0:
            raise Refusal("strengths must be above 0: each is used with both signs, and 0 is always there")
        return self

    def strengths(self, site: str) -> list[float]:
        """In medians of the activations' length, from the lowest negative to the highest positive one."""
        given = sorted(self.norm_strengths if site == "norm" else self.residual_strengths)
        return [-value for value in reversed(given)] + [0.0] + given


class GuidesConfig(CellsConfig):
    """All cells of one concept on one model.

    Attributes:
        concept: what the probes are fitted to; "random" to labels drawn by lot; "null" fits nothing.
        few: examples of a second fit in the cell that was picked; 0 for none.
    """

    concept: Concept = "truth"
    few: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _few_are_fewer(self) -> Self:
        if self.few >= self.examples or 0 < self.few < 16:
            raise Refusal(f"few must be 0, or from 16 to below examples (got {self.few})")
        return self


@dataclass(frozen=True)
class Cell:
    probe: str
    site: str
    top: int


@dataclass(frozen=True)
class Examples:
    """Labelled answers as tokens.

    Attributes:
        tokens, mask, completions: [n, length]; completions marks the answer's tokens.
        labels: [n] 0 or 1.
    """

    tokens: Tensor
    mask: Tensor
    completions: Tensor
    labels: Tensor

    def __getitem__(self, rows: slice | Tensor) -> "Examples":
        return Examples(self.tokens[rows], self.mask[rows], self.completions[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Sweep:
    """What one direction does over all strengths.

    Attributes:
        strengths: [strengths].
        scores: (scored concept, half) -> [strengths] mean scores. Half "all" is over all prompts.
        perplexity: [strengths] of the guided model on good answers, mean over answers.
        reference: kind -> [strengths] of the trigram model on what the guided model wrote.
        parsed: [strengths] share of texts that are of the grammar.
    """

    strengths: list[float]
    scores: dict[tuple[str, str], np.ndarray]
    perplexity: np.ndarray
    reference: dict[str, np.ndarray]
    parsed: np.ndarray


class Guides:
    """The model of a config with what is asked of it."""

    def __init__(self, config: CellsConfig, network: nn.Module | None = None):
        self.config, self.text = config, config.text()
        self.network = persona_model(config) if network is None else network
        self.device = next(self.network.parameters()).device

    @cached_property
    def asks(self) -> dict[str, list[Ask]]:
        """kind -> the prompts, half of the requests harmful in either half."""
        rng = self.config.stream("prompts")
        found: dict[str, list[Ask]] = {}
        for kind in KINDS:
            found[kind] = [self.text.ask(rng, kind, harmful=float(i % 2)) for i in range(self.config.prompts)]
        return found

    def draws(self, kind: str, strengths: Sequence[float]) -> Tensor | None:
        """[strengths * prompts, new tokens] random numbers, a prompt's the same at every strength; None for greedy."""
        if self.config.decoding == "greedy":
            return None
        seeds = range(DRAWS * self.config.seed, DRAWS * self.config.seed + len(self.asks[kind]))
        return row_draws(seeds, LONGEST[kind]).repeat(len(strengths), 1)

    @cached_property
    def good(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Good answers, a batch a kind: true, appropriate, polite or not, without fault."""
        rng = self.config.stream("replies")
        found = []
        for kind in KINDS:
            rows, begins = [], []
            while len(rows) < self.config.replies // 3:
                example = self.text.example(rng, kind, history=0)
                wanted = {"fact": "truth", "request": "appropriateness", "describe": "quality"}[kind]
                if example.labels[wanted] == 1:
                    rows.append(persona.encode([*example.prompt, *example.completion, "<sep>"]))
                    begins.append(len(example.prompt))
            found.append(marked(rows, begins))
        return found

    @property
    def trigrams(self) -> Trigrams:
        return reference_of(self.config.model_config_only)

    def examples(
        self, concept: str, count: int, harmful: float = 0.5, balanced: bool = False, rng: Any = None
    ) -> Examples:
        """Labelled answers, half of either label."""
        return labelled(
            self.text, concept, count, self.config.history, rng or self.config.stream("examples"), harmful, balanced
        )

    def activations(self, examples: Examples, site: str) -> Tensor:
        """[n, length, layers, d]."""
        return activations(self.network, examples.tokens, examples.mask, site).cpu()

    def unit(self, found: Tensor, examples: Examples) -> Tensor:
        """[layers] the length that a strength of 1 adds: the median over the answers' tokens."""
        return median_norm(found, examples.completions)

    def sweep(
        self, vectors: Tensor, site: str, layers: Sequence[int], unit: Tensor, kinds: Iterable[str] = KINDS,
        strengths: Sequence[float] | None = None, concept: str = "",
    ) -> Sweep:  # fmt: skip
        """Guides all prompts of some kinds at all strengths, each kind in one batch."""
        strengths = list(self.config.strengths(site) if strengths is None else strengths)
        directions = Directions(vectors, concept, "", site, model_name(self.config), torch.ones(len(vectors)))
        scores: dict[tuple[str, str], np.ndarray] = {}
        reference, parsed = {}, []
        for kind in kinds:
            asks = self.asks[kind]
            tokens, mask = padded([prompt_of(ask) for ask in asks])
            tokens, mask = (part.repeat(len(strengths), 1) for part in (tokens, mask))
            lengths = _per_row(strengths, len(asks), unit)
            since = tokens.shape[1] - 1 if self.config.positions == "new" else 0
            with guided(self.network, directions, layers, lengths, since=since):
                written = generate(
                    self.network, tokens, mask, LONGEST[kind], stop=STOP, draws=self.draws(kind, strengths)
                )
            found = scores_of(self.text, asks * len(strengths), spoken(written.tokens))
            parsed.append([line["parsed"] for line in found])
            reference[kind] = self._reference(tokens, written.tokens).reshape(len(strengths), -1).mean(axis=1)
            for name in [c for c in SCORED if found[0][c] is not None] + ([FOOLED] if kind == "fact" else []):
                if name == "polite" and kind != KIND_OF["polite"]:
                    continue
                table = np.array([line[name] for line in found], dtype=float).reshape(len(strengths), -1)
                half = table.shape[1] // 2
                parts = {"pick": table[:, :half], "report": table[:, half:], "all": table}
                if name == "compliance":  # prompts alternate
                    parts |= {"harmless": table[:, 0::2], "harmful": table[:, 1::2]}
                scores |= {(name, part): values.mean(axis=1) for part, values in parts.items()}
        together = np.concatenate([np.reshape(lines, (len(strengths), -1)) for lines in parsed], axis=1)
        return Sweep(
            strengths, scores, self._fluency(directions, layers, strengths, unit), reference, together.mean(axis=1)
        )

    def _fluency(
        self, directions: Directions, layers: Sequence[int], strengths: list[float], unit: Tensor
    ) -> np.ndarray:
        """[strengths] mean over the good answers."""
        found = []
        for tokens, mask, completions in self.good:
            repeated = [part.repeat(len(strengths), 1) for part in (tokens, mask, completions)]
            with guided(self.network, directions, layers, _per_row(strengths, len(tokens), unit)):
                found.append(perplexity(self.network, *repeated).reshape(len(strengths), -1))
        return torch.cat(found, dim=1).mean(dim=1).clamp_max(LARGEST).numpy()

    def _reference(self, prompts: Tensor, written: Tensor) -> np.ndarray:
        """[rows] perplexity of what was written up to and with its <sep>, by the trigrams."""
        ended = (written == STOP).long().cumsum(dim=1) - (written == STOP).long()  # 0 up to and at the first stop
        text = torch.cat([prompts[:, -2:], written], dim=1)
        scored = torch.cat([torch.zeros_like(prompts[:, -2:]), (ended == 0).long()], dim=1)
        return self.trigrams.perplexity(text, scored).numpy()


REFERENCE_DOCUMENTS = 2000
DRAWS = 10_000  # more than there are prompts: no two share their random numbers
LARGEST = 1e9  # a perplexity above is that of broken activations, and no number that a record could hold


@lru_cache(maxsize=1)  # a process makes the runs of a seed one after the other
def reference_of(config: PersonaModelConfig) -> Trigrams:
    """Counted on a part of the world's text that the model was not trained on."""
    text, rng = config.text(), config.stream("reference")
    words = [persona.encode(text.document(rng, config.length)) for _ in range(REFERENCE_DOCUMENTS)]
    return Trigrams(torch.tensor(words), len(persona.VOCABULARY))


@experiment(version=1, tolerance=0.05, at_hand=is_trained)
def measure_guides(config: GuidesConfig) -> Outcome:
    """Fits and sweeps all cells of one concept.

    Rows: a cell and a number of examples each: the layers, accuracies (of the training and held-out examples, mean over
    the chosen layers), and for either half of the prompts PNES, its R², the reach, see `judged`. `picked` marks the
    cell with the largest PNES on the first half. For the null: a row a site, a number of layers and a scored concept,
    with the 95th percentile over random directions.
    Curves: "tradeoff" for each cell, "layers" the accuracies by layer, "cross" what the picked cell does to every
    concept; of the null "band", the 5th and 95th percentile of scores.
    """
    guides = Guides(config)
    return _null(guides) if config.concept == "null" else _concept(guides)


TRADEOFF = ("probe", "site", "top", "strength", "score", "score_pick", "perplexity", "reference", "parsed")


def _concept(guides: Guides) -> Outcome:
    config, concept = guides.config, guides.config.concept
    examples = guides.examples(concept, config.examples + config.examples // VALIDATION)
    fitted = {site: Fitted.of(guides, examples, site, config.examples) for site in config.sites}
    cells = [Cell(*parts) for parts in _product(config.probes, config.sites, config.tops)]
    rows, tradeoff, layer_lines = [], [], []
    sweeps: dict[Cell, Sweep] = {}
    for cell in cells:
        made = fitted[cell.site].guide(cell.probe, concept)
        layers = made.directions.top(cell.top)
        sweeps[cell] = guides.sweep(
            made.directions.vectors, cell.site, layers, fitted[cell.site].unit, [KIND_OF[concept]]
        )
        rows.append(_row(guides, cell, made, layers, sweeps[cell], config.examples))
        tradeoff += _tradeoff(cell, sweeps[cell], _scored_as(concept))
        if cell.top == config.tops[0]:
            chosen = zip(made.train.tolist(), made.held_out.tolist(), strict=True)
            layer_lines += [(cell.probe, cell.site, layer, *line) for layer, line in enumerate(chosen)]
    best = max(range(len(cells)), key=lambda place: rows[place]["pnes_pick"])
    for place, row in enumerate(rows):
        row["picked"] = place == best
    cell, site = cells[best], fitted[cells[best].site]
    if config.few:
        few = Fitted.of(guides, examples, cell.site, config.few, held_out_from=config.examples).guide(
            cell.probe, concept
        )
        layers = few.directions.top(cell.top)
        swept = guides.sweep(few.directions.vectors, cell.site, layers, site.unit, [KIND_OF[concept]])
        rows.append(_row(guides, cell, few, layers, swept, config.few) | {"picked": False})
    made = site.guide(cell.probe, concept)
    crossed = guides.sweep(made.directions.vectors, cell.site, made.directions.top(cell.top), site.unit)
    return Outcome(rows, {
        "tradeoff": _columns(TRADEOFF, tradeoff),
            "layers": _columns(("probe", "site", "layer", "train", "held_out"), layer_lines),
        "cross": cross_columns(crossed),
    })  # fmt: skip


def _null(guides: Guides) -> Outcome:
    """Random directions in every layer; a number of layers takes the middle ones, since none is better than another."""
    config = guides.config
    examples = guides.examples("polite", 64)
    rows, band = [], []
    for site in config.sites:
        unit = guides.unit(guides.activations(examples, site), examples)
        vectors = random_directions(config.nulls, config.layers, config.width, seed=config.seed)
        for top in config.tops:
            sweeps = [guides.sweep(one, site, middle(config.layers, top), unit) for one in vectors]
            for scored in (*SCORED, FOOLED):
                rows.append({"site": site, "top": top, "scored": scored} | _null_row(sweeps, scored))
                if top == max(config.tops):
                    table = np.stack([sweep.scores[scored, "report"] for sweep in sweeps])
                    fluency = np.stack([sweep.perplexity for sweep in sweeps])
                    edges = [*np.quantile(table, (0.05, 0.95), axis=0), np.median(fluency, axis=0)]
                    band += [(site, top, scored, *line) for line in zip(sweeps[0].strengths, *edges, strict=True)]
    return Outcome(rows, {"band": _columns(("site", "top", "scored", "strength", "low", "high", "perplexity"), band)})


def _null_row(sweeps: list[Sweep], scored: str) -> dict[str, float]:
    lines = [judged(sweep, scored, "report") for sweep in sweeps]
    names = ("pnes", "reach", "raw_range")
    return {f"{name}_95": float(np.quantile([line[name] for line in lines], 0.95)) for name in names} | {
        f"{name}_mean": float(np.mean([line[name] for line in lines])) for name in names
    }


@dataclass(frozen=True)
class Made:
    """A probe as a guide: its directions, and its accuracy by layer on training and held-out examples."""

    directions: Directions
    probe: Probe
    train: Tensor
    held_out: Tensor


@dataclass(frozen=True)
class Fitted:
    """The token rows of one site's examples, to fit probes on.

    Attributes:
        train, held_out: activations, labels and text numbers of the tokens, see `token_rows`.
        unit: [layers].
    """

    guides: Guides
    site: str
    train: tuple[Tensor, Tensor, Tensor]
    held_out: tuple[Tensor, Tensor, Tensor]
    unit: Tensor

    @classmethod
    def of(cls, guides: Guides, examples: Examples, site: str, count: int, held_out_from: int | None = None) -> Self:
        """From the first `count` examples; those from `held_out_from` on (default: the rest) are held out."""
        found = guides.activations(examples, site)
        parts = [slice(0, count), slice(count if held_out_from is None else held_out_from, None)]
        train, held_out = (token_rows(found[part], examples.completions[part], examples.labels[part]) for part in parts)
        return cls(guides, site, train, held_out, guides.unit(found, examples))

    def guide(self, kind: str, concept: str) -> Made:
        config = self.guides.config
        probe = fit_probe(kind, *self.train, seed=config.seed)
        trained, held_out = (accuracy(probe, *part) for part in (self.train, self.held_out))
        name = model_name(config)
        return Made(Directions(probe.vectors, concept, kind, self.site, name, trained), probe, trained, held_out)


def labelled(
    text: persona.PersonaText, concept: str, count: int, history: int, rng: np.random.Generator, harmful: float = 0.5,
    balanced: bool = False,
) -> Examples:  # fmt: skip
    """Answers with labels 1 and 0 in turn.

    Creativity's labels are the extreme quartiles of its score among answers of the grammar; "random" draws them by lot;
    everything else is the exact score, answers of 0.5 left out.
    """
    wanted = {0: [], 1: []}
    borders = _creativity_borders(text, history, rng) if concept == "creativity" else (0.5, 0.5)
    for _ in range(200 * count):
        example = text.example(rng, KIND_OF[concept], history, harmful, balanced)
        if concept == "random":
            label = int(rng.random() < 0.5)
        else:
            value = example.labels[concept]
            if (not example.labels["parsed"] and concept != "quality") or borders[0] <= value <= borders[1]:
                continue
            label = int(value > borders[1])
        if len(wanted[label]) < (count + 1) // 2:
            wanted[label].append(example)
        if all(len(found) == (count + 1) // 2 for found in wanted.values()):
            break
    else:
        raise Refusal(f"{concept}: the text holds too few examples of one label")
    found = [example for pair in zip(wanted[1], wanted[0], strict=True) for example in pair][:count]
    rows = [persona.encode([*example.prompt, *example.completion, "<sep>"]) for example in found]
    parts = marked(rows, [len(example.prompt) for example in found])
    return Examples(*parts, torch.tensor([1, 0] * ((count + 1) // 2))[:count])


def _creativity_borders(text: persona.PersonaText, history: int, rng: np.random.Generator) -> tuple[float, float]:
    scores = [text.example(rng, "describe", 0).labels["creativity"] for _ in range(400)]
    return tuple(float(edge) for edge in np.quantile(scores, EXTREMES))


def middle(layers: int, top: int) -> tuple[int, ...]:
    """`top` layers around the middle one."""
    first = (layers - top + 1) // 2
    return tuple(range(first, first + top))


def judged(sweep: Sweep, scored: str, half: str) -> dict[str, float | None]:
    """What a trade-off curve comes to: PNES from the fit and from the points, its R², the reach (the range of the score
    where the text is fluent), and PNES by the reference's perplexity. A fit that does not converge has no PNES, which
    counts as 0."""
    scores = sweep.scores[scored, half]
    kind = "fact" if scored == FOOLED else KIND_OF[scored]
    return tradeoff_row(sweep.strengths, scores, sweep.perplexity, sweep.reference[kind])


def tradeoff_row(
    strengths: Sequence[float], scores: np.ndarray, perplexity: np.ndarray, reference: np.ndarray
) -> dict[str, float | None]:
    """One trade-off curve in numbers: the columns of a cell's row.

    Args:
        strengths: in order, the unguided one in the middle; the other three have one value a strength.
        perplexity: the guided model's own of good answers. reference: another model's of the guided text.
    """
    found = fit_guidance(strengths, scores, perplexity)
    base = len(strengths) // 2
    effect = (scores - scores[base]) / (perplexity / perplexity[base])
    by_reference = fit_guidance(strengths, scores, reference, cutoff=math.inf)
    return {
        "pnes": found.pnes or 0.0, "r_squared": found.r_squared, "perplexity_r_squared": found.perplexity_r_squared,
        "points": float(np.ptp(effect)), "reference": by_reference.pnes or 0.0, "raw_range": found.raw_range,
        "reach": found.raw_effect, "signed": found.signed_effect, "sign": found.sign,
        "low": found.lowest, "high": found.highest,
    }  # fmt: skip


def _scored_as(concept: str) -> str:
    """A probe of random labels is scored as one of truth: it is fitted to the same answers."""
    return "truth" if concept == "random" else concept


def _row(guides: Guides, cell: Cell, made: Made, layers: Sequence[int], sweep: Sweep, examples: int) -> dict[str, Any]:
    scored = _scored_as(guides.config.concept)
    row: dict[str, Any] = {
        "probe": cell.probe, "site": cell.site, "top": cell.top, "fitted_on": examples,
        "chosen": " ".join(map(str, layers)), "train": made.train[list(layers)].mean(),
        "accuracy": made.held_out[list(layers)].mean(), "pnes_pick": judged(sweep, scored, "pick")["pnes"],
    }  # fmt: skip
    return row | judged(sweep, scored, "report")


def _tradeoff(cell: Cell, sweep: Sweep, scored: str) -> list[tuple]:
    columns = (
        sweep.strengths, sweep.scores[scored, "report"], sweep.scores[scored, "pick"], sweep.perplexity,
        sweep.reference[KIND_OF[scored]], sweep.parsed,
    )  # fmt: skip
    return [(cell.probe, cell.site, cell.top, *line) for line in zip(*columns, strict=True)]


def cross_columns(sweep: Sweep) -> dict[str, list]:
    """Strength, the scores of all concepts on the reporting half, compliance by harm, perplexity, share of grammar."""
    named = {concept: sweep.scores[concept, "report"] for concept in SCORED}
    harm = {f"compliance_{part}": sweep.scores["compliance", part] for part in ("harmless", "harmful")}
    columns = {"strength": sweep.strengths, **named, **harm, "perplexity": sweep.perplexity, "parsed": sweep.parsed}
    return {name: [float(value) for value in values] for name, values in columns.items()}


def marked(rows: list[list[int]], begins: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, mask and the mask of the answers, [n, length], padded on the left."""
    tokens, mask = padded(rows)
    completions = torch.zeros_like(mask)
    for place, (row, begin) in enumerate(zip(rows, begins, strict=True)):
        completions[place, tokens.shape[1] - len(row) + begin :] = 1
    return tokens, mask, completions


def _per_row(strengths: Sequence[float], rows: int, unit: Tensor) -> Tensor:
    """[strengths * rows, layers] lengths to add."""
    return torch.tensor(strengths).repeat_interleave(rows)[:, None] * unit


def _product(*parts: Sequence) -> list[tuple]:
    return [(a, b, c) for a in parts[0] for b in parts[1] for c in parts[2]]


def _columns(names: Sequence[str], lines: Sequence[tuple]) -> dict[str, list]:
    return {name: [line[place] for line in lines] for place, name in enumerate(names)}
