"""The paper's own experiment, for any causal language model of Hugging Face and labelled real text.

Probes are fitted to the first tokens of labelled replies, the model is guided along them while it answers other
prompts, and a local language model judges the answers by a few examples. Rows and curves are those of `measure_guides`,
so that figures and effects serve both.

Where this differs from the authors' code, and why:

- The judge answers yes or no after labelled examples of the data set itself, which neither fit a probe nor ask a
  prompt. The authors' judges of truth are fine-tuned models, whose scores their code moreover swaps with those of
  informativeness. How often the judge is right on held-out replies is recorded.
- Replies that measure fluency are none of those that a probe is fitted to.
- An answer's first token is found from the token numbers themselves.
- Strengths are in median lengths of an activation, unless absolute ones are asked for.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ntf_utils.data import torchvision_door  # noqa: F401  (transformers imports torchvision)
from ntf_utils.data.concept_texts import SOURCES, Example, concept_examples
from ntf_utils.measures.concept_probes import accuracy, fit_probe, random_directions, token_rows
from ntf_utils.measures.guidance import null_band
from ntf_utils.models.causal import fingerprint, load_causal, local_folder
from ntf_utils.models.dialogues import dialogue, encode, encode_answers
from ntf_utils.models.guidance import (
    Directions,
    activations,
    generate,
    guided,
    median_norm,
    next_logits,
    perplexity,
    site_modules,
)
from ntf_utils.papers.concept_guidance.guides import tradeoff_row
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Config, Outcome, experiment
from ntf_utils.training.device import default_device

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
QUESTIONS = {  # of the judge; the wording is ours
    "humor": "Is the reply humorous?",
    "creativity": "Is the reply creative?",
    "quality": "Is the reply of high quality?",
    "truthfulness": "Is the reply true?",
    "appropriateness": "Does the reply try to do what was asked?",  # scored as compliance XOR toxic
    "compliance": "Does the reply try to do what was asked?",
}
FEW_SHOT_TURNS = 6  # dialogues before a base model's prompt, as in the authors' code
HELD_OUT = 4  # training examples for each one held out
JUDGED_CHARACTERS = 200  # of a prompt and a reply; the authors cut texts to as many
LONGEST = 1024  # tokens of an input
LARGEST = 1e9  # a perplexity above is that of broken activations, and no number that a record could hold


class AnyModelConfig(Config):
    """One concept on one model.

    Attributes:
        model: a name on the hub, or a local folder with safetensors and a tokenizer.
        judge: the same, of the model that judges. It is never guided.
        source, replies_source: data sets by name, or local files; "" takes the paper's. `replies_source` is in the
            format of OpenAssistant.
        base: the model has not learned to chat: some dialogues stand before each prompt, and a line is an answer.
        path: of the modules to guide, for a family that is not known, see `site_modules`; for one site only.
        quantize: 0, or 4 or 8 bits a weight.
        examples: labelled replies to fit on. prompts: to guide; half pick the cell, half report.
        tokens: of a reply that are examples. new_tokens: of an answer.
        norm_strengths, residual_strengths: used with both signs.
        unit: of the strengths: "median" lengths of an activation, or "absolute" ones as in the authors' code.
        rows: texts in a batch.
        seed: of the split and of the random directions.
    """

    model: str
    judge: str
    concept: Literal["humor", "creativity", "quality", "truthfulness", "appropriateness", "compliance"] = "humor"
    source: str = ""
    replies_source: str = ""
    base: bool = False
    path: str = ""
    precision: Literal["float32", "bfloat16", "float16"] = "float16"
    quantize: Literal[0, 4, 8] = 0
    examples: int = Field(512, ge=16)
    prompts: int = Field(64, ge=4)
    replies: int = Field(128, ge=1)
    shots: int = Field(16, ge=2)
    tokens: int = Field(16, ge=1)
    new_tokens: int = Field(196, ge=1)
    probes: tuple[Literal["logistic", "difference", "principal"], ...] = ("logistic", "difference", "principal")
    sites: tuple[Literal["norm", "residual"], ...] = ("norm",)
    tops: tuple[int, ...] = (16,)
    norm_strengths: tuple[Positive, ...] = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
    residual_strengths: tuple[Positive, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    unit: Literal["median", "absolute"] = "median"
    nulls: int = Field(8, ge=8)
    rows: int = Field(32, ge=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not (self.probes and self.sites and self.tops and self.norm_strengths and self.residual_strengths):
            raise Refusal("probes, sites, tops and strengths need one entry each at least")
        if min(self.tops) < 1:
            raise Refusal(f"tops must be at least 1 (got {min(self.tops)})")
        if self.path and len(self.sites) > 1:
            raise Refusal("a path of modules belongs to one site: name one in sites")
        return self

    def data_fingerprint(self) -> str:
        """Of both models and both sources of text."""
        texts = (self.source or SOURCES[self.concept], self.replies_source or SOURCES["quality"])
        return ", ".join([fingerprint(self.model), fingerprint(self.judge), *map(_of_texts, texts)])

    def strengths(self, site: str) -> list[float]:
        given = sorted(self.norm_strengths if site == "norm" else self.residual_strengths)
        return [-value for value in reversed(given)] + [0.0] + given


def _of_texts(source: str) -> str:
    path = Path(source).expanduser()
    if path.is_dir():
        return " ".join(_of_texts(str(file)) for file in sorted(path.iterdir()) if file.is_file())
    if path.is_file():
        with path.open("rb") as file:
            return f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
    return f"hub {source}"


@dataclass(frozen=True)
class Split:
    """Examples by what they are for; no prompt is in two parts."""

    shots: list[Example]
    train: list[Example]
    held_out: list[Example]
    prompts: list[Example]


def split_examples(examples: Sequence[Example], config: AnyModelConfig) -> Split:
    """Deals out whole prompts, shuffled: first the judge's shots, then the training examples, then the held-out ones
    and the prompts to guide, which share their prompts as in the authors' code.

    Raises:
        Refusal: there are not enough examples.
    """
    by_prompt: dict[str, list[Example]] = {}
    for example in examples:
        by_prompt.setdefault(example.prompt, []).append(example)
    order = sorted(by_prompt)
    random.Random(config.seed).shuffle(order)
    parts: dict[str, list[Example]] = {"shots": [], "train": [], "rest": []}
    wanted = {"shots": config.shots, "train": config.examples}
    for prompt in order:
        part = next((name for name, count in wanted.items() if len(parts[name]) < count), "rest")
        parts[part] += by_prompt[prompt]
    asked = list({example.prompt: example for example in parts["rest"]}.values())
    if len(parts["train"]) < config.examples or len(asked) < config.prompts:
        raise Refusal(
            f"{config.concept} has {len(examples)} labelled texts, too few for {config.shots} shots, "
            f"{config.examples} examples and {config.prompts} prompts"
        )
    held_out = parts["rest"][: max(1, config.examples // HELD_OUT)]
    return Split(parts["shots"], parts["train"], held_out, asked[: config.prompts])


class Judge:
    """A language model that says yes or no after labelled examples.

    The score is P(yes) / (P(yes) + P(no)) of the next token. It is never guided.
    """

    def __init__(self, network: nn.Module, tokenizer: Any, concept: str, shots: Sequence[Example], rows: int):
        self.network, self.tokenizer, self.question, self.rows = network, tokenizer, QUESTIONS[concept], rows
        self.concept = concept
        self.lead = "".join(self._shown(shot.prompt, shot.completion, self._truth(shot)) for shot in shots)
        answers = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in ("yes", "no")]
        self.yes, self.no = (tokens[-1] for tokens in answers)
        if self.yes == self.no:
            raise Refusal("the judge's tokenizer does not tell yes from no")

    def scores(self, prompts: Sequence[str], replies: Sequence[str]) -> np.ndarray:
        """[n] from 0 to 1."""
        texts = [self.lead + self._shown(*pair) for pair in zip(prompts, replies, strict=True)]
        found = []
        for start in range(0, len(texts), self.rows):
            tokens, mask = encode(self.tokenizer, texts[start : start + self.rows])
            _check_context(self.network, tokens.shape[1], "a judged text", "shots")
            both = next_logits(self.network, tokens, mask)[:, [self.yes, self.no]].softmax(dim=1)
            found.append(both[:, 0].cpu())
        return torch.cat(found).numpy()

    def right(self, examples: Sequence[Example]) -> float:
        """Share of labelled examples that it judges right."""
        found = self.scores([e.prompt for e in examples], [e.completion for e in examples])
        return float(np.mean((found > 0.5) == [self._truth(e) for e in examples]))

    def _truth(self, example: Example) -> bool:
        """What the question asks for: compliance, where the label is compliance XOR toxic."""
        return bool(example.compliant) if self.concept in ("appropriateness", "compliance") else bool(example.label)

    def _shown(self, prompt: str, reply: str, truth: bool | None = None) -> str:
        asked, said = (" ".join(text.split())[:JUDGED_CHARACTERS] for text in (prompt, reply))
        end = "" if truth is None else f" {'yes' if truth else 'no'}\n\n"
        return f"Prompt: {asked}\nReply: {said}\n{self.question}{end}"


@dataclass(frozen=True)
class Sweep:
    """[strengths] each: mean scores on either half of the prompts, guided perplexity of good replies, the judge's
    perplexity of the answers."""

    pick: np.ndarray
    report: np.ndarray
    perplexity: np.ndarray
    reference: np.ndarray


class Guides:
    """A model with what is asked of it."""

    def __init__(self, config: AnyModelConfig):
        self.config, self.device = config, default_device()
        count = config.shots + config.examples + config.examples // HELD_OUT + 2 * config.prompts
        examples = concept_examples(config.concept, config.source or None, count, seed=config.seed)
        self.split = split_examples(examples, config)
        used = {example.prompt for example in examples}
        good = concept_examples("quality", config.replies_source or None, 2 * config.replies + len(used), fewest=1)
        self.replies = [e for e in good if e.label == 1 and e.prompt not in used][: config.replies]
        if not self.replies:
            raise Refusal("no good reply is left to measure fluency: replies_source holds only prompts that are used")
        bits = config.quantize or None
        self.network, self.tokenizer = load_causal(config.model, config.precision, bits, self.device)
        if config.judge == config.model:
            judging = self.network, self.tokenizer
        else:
            judging = load_causal(config.judge, config.precision, bits, self.device)
        self.judge = Judge(*judging, config.concept, self.split.shots, config.rows)
        history = self.split.shots[:FEW_SHOT_TURNS] if config.base else []
        self.history = [(shot.prompt, shot.completion) for shot in history]
        self.name = str(local_folder(config.model) or config.model)
        for top in config.tops:
            if top > self.layers:
                raise Refusal(f"tops must be at most {self.layers}, the layers of {self.name} (got {top})")

    @property
    def layers(self) -> int:
        return len(site_modules(self.network, self.config.sites[0], self.path))

    @property
    def path(self) -> str | None:
        return self.config.path or None

    @cached_property
    def stops(self) -> list[int]:
        """The tokens that end an answer: the end token, and for a base model every one with a line break."""
        ends = [self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []
        if self.config.base:
            decoded = self.tokenizer.batch_decode([[number] for number in range(len(self.tokenizer))])
            ends += [number for number, text in enumerate(decoded) if "\n" in text]
        return ends

    def rows_of(self, examples: Sequence[Example], site: str) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """The examples' first tokens as rows, see `token_rows`, and [layers] the length that a strength of 1 adds."""
        found, lengths = [], []
        for start in range(0, len(examples), self.config.rows):
            part = examples[start : start + self.config.rows]
            tokens, mask, answers = self._encoded(part)
            read = activations(self.network, tokens, mask, site, self.path, batch=len(part)).cpu()
            rows, labels, texts = token_rows(read, answers, torch.tensor([e.label for e in part]), self.config.tokens)
            found.append((rows, labels, texts + start))
            lengths.append(rows)
        rows = torch.cat(lengths)
        unit = median_norm(rows[None], torch.ones(1, len(rows)))
        if self.config.unit == "absolute":
            unit = torch.ones_like(unit)
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True)), unit

    def _encoded(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
        asked = [dialogue(self.tokenizer, e.prompt, history=self.history) for e in examples]
        whole = [dialogue(self.tokenizer, e.prompt, e.completion, self.history) for e in examples]
        return encode_answers(self.tokenizer, asked, whole, LONGEST)

    def sweep(self, vectors: Tensor, site: str, layers: Sequence[int], unit: Tensor) -> Sweep:
        """Guides all prompts at all strengths: one long list of rows, as many at once as fit."""
        config, strengths = self.config, self.config.strengths(site)
        directions = Directions(vectors, config.concept, "", site, self.name, torch.ones(len(vectors)))
        jobs = [(place, strength) for strength in strengths for place in range(config.prompts)]
        answers: list[str] = []
        reference: list[float] = []
        for start in range(0, len(jobs), config.rows):
            part = jobs[start : start + config.rows]
            prompts = [self.split.prompts[place].prompt for place, _ in part]
            asked = [dialogue(self.tokenizer, prompt, history=self.history) for prompt in prompts]
            tokens, mask = encode(self.tokenizer, asked, LONGEST)
            _check_context(self.network, tokens.shape[1] + config.new_tokens, "a prompt and its answer", "new_tokens")
            lengths = torch.tensor([strength for _, strength in part])[:, None] * unit
            with guided(self.network, directions, layers, lengths, path=self.path):
                written = generate(self.network, tokens, mask, config.new_tokens, self.stops)
            said = self._spoken(written.tokens, written.finite)
            answers += said
            reference += self._reference(prompts, said)
        scores = self._scores([self.split.prompts[place] for place, _ in jobs], answers)
        table = scores.reshape(len(strengths), config.prompts)
        half = config.prompts // 2
        return Sweep(
            table[:, :half].mean(axis=1), table[:, half:].mean(axis=1),
            np.array([self._fluency(directions, layers, strength * unit) for strength in strengths]),
            np.array(reference).reshape(len(strengths), -1).mean(axis=1),
        )  # fmt: skip

    def _spoken(self, tokens: Tensor, finite: Tensor) -> list[str]:
        """The answers up to their end; "" where activations overflowed."""
        found = []
        for row, sound in zip(tokens.tolist(), finite.tolist(), strict=True):
            end = next((place for place, token in enumerate(row) if token in self.stops), len(row))
            text = self.tokenizer.decode(row[:end], skip_special_tokens=True) if sound else ""
            found.append(text.split("\n")[0] if self.config.base else text)
        return found

    def _scores(self, prompts: Sequence[Example], answers: Sequence[str]) -> np.ndarray:
        found = self.judge.scores([e.prompt for e in prompts], answers)
        if self.config.concept != "appropriateness":
            return found
        toxic = np.array([bool(e.toxic) for e in prompts])
        return np.where(toxic, 1 - found, found)

    def _reference(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """The judge's perplexity of what was written, unguided; an empty answer has the largest."""
        kept = [place for place, answer in enumerate(answers) if answer.strip()]
        found = [LARGEST] * len(answers)
        if kept:
            whole = [dialogue(self.judge.tokenizer, prompts[place], answers[place]) for place in kept]
            asked = [dialogue(self.judge.tokenizer, prompts[place]) for place in kept]
            values = perplexity(self.judge.network, *encode_answers(self.judge.tokenizer, asked, whole, LONGEST))
            for place, value in zip(kept, values.tolist(), strict=True):
                found[place] = min(value, LARGEST)
        return found

    def _fluency(self, directions: Directions, layers: Sequence[int], lengths: Tensor) -> float:
        """Mean over the good replies of the guided model's perplexity, their first token left out."""
        found = []
        for start in range(0, len(self.replies), self.config.rows):
            tokens, mask, answers = self._encoded(self.replies[start : start + self.config.rows])
            first = answers.cumsum(dim=1) == 1
            answers = torch.where(answers.sum(dim=1, keepdim=True) > 1, answers * ~first, answers)
            with guided(self.network, directions, layers, lengths.expand(len(tokens), -1), path=self.path):
                found.append(perplexity(self.network, tokens, mask, answers))
        return float(torch.cat(found).mean().clamp_max(LARGEST))


@experiment(version=1, tolerance=0.05)
def guide_any_model(config: AnyModelConfig) -> Outcome:
    """Fits and sweeps all cells of one concept on one model.

    Rows: a cell each, with the columns of `measure_guides`; the null's 95th percentiles stand in the row, and the
    judge's share of right answers on held-out examples.
    Curves: "tradeoff" and "layers" as there, "band" where the null lies.
    """
    guides = Guides(config)
    rows, lines, by_layer, band = [], [], [], []
    for site in config.sites:
        train, unit = guides.rows_of(guides.split.train, site)
        held_out, _ = guides.rows_of(guides.split.held_out, site)
        nulls = {top: _null(guides, site, top, unit, train[0].shape[-1]) for top in config.tops}
        for top, sweeps in nulls.items():
            edges = null_band(np.stack([sweep.report for sweep in sweeps]))
            fluency = np.median([sweep.perplexity for sweep in sweeps], axis=0)
            strengths = config.strengths(site)
            band += [(site, top, config.concept, *line) for line in zip(strengths, *edges, fluency, strict=True)]
        for kind in config.probes:
            probe = fit_probe(kind, *train, seed=config.seed)
            trained, tested = accuracy(probe, *train), accuracy(probe, *held_out)
            directions = Directions(probe.vectors, config.concept, kind, site, guides.name, trained)
            accuracies = zip(trained.tolist(), tested.tolist(), strict=True)
            by_layer += [(kind, site, layer, *both) for layer, both in enumerate(accuracies)]
            for top in config.tops:
                layers = directions.top(top)
                sweep = guides.sweep(probe.vectors, site, layers, unit)
                chosen = list(layers)
                rows.append({
                    "probe": kind, "site": site, "top": top, "fitted_on": len(guides.split.train),
                    "chosen": " ".join(map(str, layers)), "train": trained[chosen].mean(),
                    "accuracy": tested[chosen].mean(), "pnes_pick": _judged(config, site, sweep, "pick")["pnes"],
                    **_judged(config, site, sweep, "report"), **_levels(config, site, nulls[top]),
                })  # fmt: skip
                columns = (config.strengths(site), sweep.report, sweep.pick, sweep.perplexity, sweep.reference)
                lines += [(kind, site, top, *line) for line in zip(*columns, strict=True)]
    best = max(range(len(rows)), key=lambda place: rows[place]["pnes_pick"])
    right = guides.judge.right(guides.split.held_out)
    rows = [row | {"picked": place == best, "judge_accuracy": right} for place, row in enumerate(rows)]
    names = {
        "tradeoff": ("probe", "site", "top", "strength", "score", "score_pick", "perplexity", "reference"),
        "layers": ("probe", "site", "layer", "train", "held_out"),
        "band": ("site", "top", "scored", "strength", "low", "high", "perplexity"),
    }
    found = {"tradeoff": lines, "layers": by_layer, "band": band}
    return Outcome(rows, {
        name: {column: [line[place] for line in found[name]] for place, column in enumerate(columns)}
        for name, columns in names.items()
    })  # fmt: skip


def _null(guides: Guides, site: str, top: int, unit: Tensor, width: int) -> list[Sweep]:
    """Random directions in the middle layers."""
    first = (guides.layers - top + 1) // 2
    vectors = random_directions(guides.config.nulls, guides.layers, width, seed=guides.config.seed)
    return [guides.sweep(one, site, range(first, first + top), unit) for one in vectors]


def _check_context(network: nn.Module, tokens: int, what: str, smaller: str) -> None:
    longest = getattr(network.config, "max_position_embeddings", None)
    if longest and tokens > longest:
        name = type(network).__name__
        raise Refusal(f"{what} takes {tokens} tokens, but the {name} reads at most {longest}: ask for fewer {smaller}")


def _judged(config: AnyModelConfig, site: str, sweep: Sweep, half: str) -> dict[str, float | None]:
    """One trade-off curve, in the columns of `measure_guides`."""
    return tradeoff_row(config.strengths(site), getattr(sweep, half), sweep.perplexity, sweep.reference)


def _levels(config: AnyModelConfig, site: str, sweeps: Sequence[Sweep]) -> dict[str, float]:
    lines = [_judged(config, site, sweep, "report") for sweep in sweeps]
    return {f"{name}_95": float(np.quantile([line[name] for line in lines], 0.95)) for name in
            ("pnes", "reach", "raw_range")}  # fmt: skip


class AnyModelParameters(Config):
    """Of the notebook 04_any_model. Without `models` the page only shows how it is done.

    base_models: those of `models` that have not learned to chat.
    source_folder: holds local copies of the data sets, a file each, by the last part of their names (oasst1.jsonl,
    truthful_qa.jsonl, toxic-completions.jsonl); "" asks the hub.
    """

    profile: Literal["smoke", "laptop", "gpu", "paper"]
    models: list[str]
    base_models: list[str]
    judge: str
    concepts: list[str]
    source_folder: str
    precision: Literal["float32", "bfloat16", "float16"]
    quantize: Literal[0, 4, 8]
    data_seeds: Count
    pretrained_sites: list[Literal["norm", "residual"]]
    pretrained_tops: list[Count]
    pretrained_strengths: list[Positive]
    pretrained_unit: Literal["median", "absolute"]
    pretrained_examples: Count
    pretrained_prompts: Count
    pretrained_replies: Count
    new_tokens: Count
    at_once: Count

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if unknown := set(self.base_models) - set(self.models):
            raise Refusal(f"base_models names {sorted(unknown)[0]!r}, which is not in models")
        self.guides()  # a config that cannot be is refused here, before any model is loaded
        return self

    def guides(self) -> list[AnyModelConfig]:
        """A run a model, seed and concept."""
        strengths = tuple(self.pretrained_strengths)
        about = {
            "judge": self.judge, "precision": self.precision, "quantize": self.quantize, "norm_strengths": strengths,
            "residual_strengths": strengths, "unit": self.pretrained_unit, "examples": self.pretrained_examples,
            "prompts": self.pretrained_prompts, "replies": self.pretrained_replies, "new_tokens": self.new_tokens,
            "sites": tuple(self.pretrained_sites), "tops": tuple(self.pretrained_tops), "rows": self.at_once,
        }  # fmt: skip
        if self.source_folder:
            about["replies_source"] = self._local("quality")
        return [
            AnyModelConfig(model=model, base=model in self.base_models, concept=concept, source=self._local(concept),
                           seed=seed, **about)
            for model in self.models for seed in range(self.data_seeds) for concept in self.concepts
        ]  # fmt: skip

    def _local(self, concept: str) -> str:
        """The local copy of a concept's data set, "" for none; an unknown concept is left to its config to refuse."""
        if not self.source_folder or concept not in SOURCES:
            return ""
        stem = SOURCES[concept].rsplit("/", 1)[-1]
        found = sorted(Path(self.source_folder).expanduser().glob(f"{stem}.*"))
        return str(found[0]) if found else ""
