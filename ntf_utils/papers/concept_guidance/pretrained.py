"""Guides for a pretrained causal language model, on the paper's data sets: the same cells, for models of any size.

Follows the authors' code in its data, token positions, probes, guide and perplexity. Two things are ours: the judge is
a local language model that is shown labelled texts and asked *Yes* or *No*, in our own words (theirs were out of reach;
their judges of truth are fine-tuned models), and random directions stand beside every cell.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ntf_utils.data.concept_texts import SOURCES, Example, concept_examples, split_by_prompt
from ntf_utils.measures.concept_probes import accuracy, fit_probe, random_directions, token_rows
from ntf_utils.measures.guidance import fit_guidance
from ntf_utils.models.causal import fingerprint, load_causal
from ntf_utils.models.dialogues import dialogue, encode, encode_answers
from ntf_utils.models.guidance import Directions, activations, generate, guided, perplexity
from ntf_utils.papers.concept_guidance.guides import LARGEST, ProbeName, Site, middle
from ntf_utils.refusal import Refusal, nearest
from ntf_utils.runs import Config, Outcome, experiment
from ntf_utils.training.device import default_device

ADJECTIVE = {
    "truthfulness": "true", "humor": "funny", "creativity": "creative", "quality": "of high quality",
    "appropriateness": "appropriate", "compliance": "a compliance with the request",
}  # fmt: skip
SHOWN_LETTERS = 200  # of a text, to the judge; as in the authors' code
LONGEST_INPUT = 1024


class PretrainedConfig(Config):
    """All cells of one concept on one pretrained model. The defaults are those of the authors' code.

    Attributes:
        model, judge: a name on the Hugging Face hub or a local folder, safetensors only.
        concept, source: what to fit, and where its labelled texts are (None: the paper's data set, by name).
        replies_source: where the good replies are whose perplexity is taken; None: OpenAssistant.
        strengths: lengths to add, both signs, in the units of the activations as in the paper. Which ones the paper
            uses is unknown to us; these are of the authors' README.
        few_shot: labelled texts that the judge is shown. batch: texts at once.
    """

    model: str = "mistralai/Mistral-7B-Instruct-v0.1"
    judge: str = "mistralai/Mistral-7B-v0.1"
    concept: str = "truthfulness"
    source: str | None = None
    replies_source: str | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float16"
    quantize: Literal[4, 8] | None = None
    probes: tuple[ProbeName, ...] = ("logistic", "difference", "principal")
    sites: tuple[Site, ...] = ("norm",)
    tops: tuple[int, ...] = (8, 16)
    strengths: tuple[float, ...] = (8.0, 16.0, 32.0, 64.0, 96.0, 128.0, 192.0, 256.0)
    examples: int = Field(512, ge=16)
    prompts: int = Field(64, ge=2)
    replies: int = Field(128, ge=1)
    context: int = Field(16, ge=2)
    new_tokens: int = Field(196, ge=1)
    few_shot: int = Field(16, ge=2)
    nulls: int = Field(8, ge=0)
    batch: int = Field(16, ge=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.concept not in SOURCES:
            raise Refusal(f"unknown concept {self.concept!r}: {nearest(self.concept, SOURCES)}")
        if not self.strengths or min(self.strengths) <= 0:
            raise Refusal("strengths must be above 0: each is used with both signs, and 0 is always there")
        if min(self.tops, default=0) < 1:
            raise Refusal("tops need one number of layers at least, each from 1 up")
        return self

    def data_fingerprint(self) -> str:
        """The weights; data sets by name are taken as they are on the hub."""
        return f"{fingerprint(self.model)}, judged by {fingerprint(self.judge)}"

    @property
    def grid(self) -> list[float]:
        ordered = sorted(self.strengths)
        return [-value for value in reversed(ordered)] + [0.0] + ordered


@experiment(version=1, tolerance=0.1)
def guide_pretrained(config: PretrainedConfig) -> Outcome:
    """Row: a cell, with its accuracy and what its trade-off curve comes to on either half of the prompts; random
    directions have probe "random" and no accuracy. Curve "tradeoff": score and perplexity by cell and strength."""
    device = default_device()
    network, tokenizer = load_causal(config.model, config.precision, config.quantize, device)
    judge = Judge(config, network, tokenizer, device)
    labelled = concept_examples(config.concept, config.source, count=2 * config.examples, seed=config.seed)
    fitted_on, held_out = split_by_prompt(labelled, seed=config.seed)
    fitted_on = fitted_on[: config.examples]
    judge.learn(fitted_on)
    prompts = list(dict.fromkeys(example.prompt for example in held_out))[: config.prompts]
    if len(prompts) < 2:
        raise Refusal(f"{config.concept}: the held-out texts have {len(prompts)} prompts, but two are needed")
    replies = [e for e in concept_examples("quality", config.replies_source, seed=config.seed) if e.label][
        : config.replies
    ]
    rows, lines = [], []
    for site in config.sites:
        parts = [_token_rows(config, network, tokenizer, part, site) for part in (fitted_on, held_out)]
        layers, width = parts[0][0].shape[1:]
        if max(config.tops) > layers:
            raise Refusal(f"tops must lie from 1 to {layers}, the layers of the model (got {max(config.tops)})")
        for name, directions, held in _guides(config, site, parts, layers, width):
            for top in config.tops:
                chosen = middle(layers, top) if held is None else directions.top(top)
                scores = _scores(config, network, tokenizer, judge, directions, chosen, prompts)
                fluency = _fluency(config, network, tokenizer, directions, chosen, replies)
                cell = {"probe": name, "site": site, "top": top, "chosen": " ".join(map(str, chosen)),
                        "accuracy": None if held is None else held[list(chosen)].mean()}  # fmt: skip
                rows.append(cell | _judged(config.grid, scores, fluency))
                lines += [
                    (name, site, top, *line) for line in zip(config.grid, scores.mean(axis=1), fluency, strict=True)
                ]
    names = ("probe", "site", "top", "strength", "score", "perplexity")
    return Outcome(rows, {"tradeoff": {name: [line[place] for line in lines] for place, name in enumerate(names)}})


def _guides(
    config: PretrainedConfig, site: str, parts: Sequence[tuple[Tensor, Tensor, Tensor]], layers: int, width: int
) -> Iterator[tuple[str, Directions, Tensor | None]]:
    """Name, directions and held-out accuracy by layer of each probe; then of the null, which has none."""
    about = {"concept": config.concept, "site": site, "model": fingerprint(config.model)}
    for kind in config.probes:
        probe = fit_probe(kind, *parts[0], seed=config.seed)
        trained, held = (accuracy(probe, *part) for part in parts)
        yield kind, Directions(probe.vectors, probe=kind, accuracy=trained, **about), held
    if config.nulls:
        for vectors in random_directions(config.nulls, layers, width, config.seed):
            yield "random", Directions(vectors, probe="random", accuracy=torch.zeros(layers), **about), None


def _token_rows(
    config: PretrainedConfig, network: nn.Module, tokenizer: Any, examples: Sequence[Example], site: str
) -> tuple[Tensor, Tensor, Tensor]:
    """As `token_rows`; a batch of texts at a time, since only the first tokens of an answer are kept."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for first in range(0, len(examples), config.batch):
        some = examples[first : first + config.batch]
        tokens, mask, completions = _answers(tokenizer, some)
        read = activations(network, tokens, mask, site, batch=config.batch).cpu()
        labels = torch.tensor([example.label for example in some])
        rows, row_labels, texts = token_rows(read, completions, labels, config.context)
        found.append((rows, row_labels, texts + first))
    return tuple(torch.cat(part) for part in zip(*found, strict=True))


def _answers(tokenizer: Any, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    prompts = [dialogue(tokenizer, example.prompt) for example in examples]
    whole = [dialogue(tokenizer, example.prompt, example.completion) for example in examples]
    return encode_answers(tokenizer, prompts, whole, longest=LONGEST_INPUT)


def _scores(
    config: PretrainedConfig, network: nn.Module, tokenizer: Any, judge: "Judge", directions: Directions,
    layers: Sequence[int], prompts: Sequence[str],
) -> np.ndarray:  # fmt: skip
    """[strengths, prompts] by the judge."""
    pairs = [(strength, prompt) for strength in config.grid for prompt in prompts]
    said: list[str] = []
    for first in range(0, len(pairs), config.batch):
        some = pairs[first : first + config.batch]
        texts = [dialogue(tokenizer, prompt) for _, prompt in some]
        tokens, mask = encode(tokenizer, texts, longest=LONGEST_INPUT)
        with guided(network, directions, layers, torch.tensor([strength for strength, _ in some])):
            written = generate(network, tokens, mask, config.new_tokens, stop=tokenizer.eos_token_id)
        said += tokenizer.batch_decode(written.tokens, skip_special_tokens=True)
    found = judge.scores([prompt for _, prompt in pairs], said)
    return found.reshape(len(config.grid), len(prompts))


def _fluency(
    config: PretrainedConfig, network: nn.Module, tokenizer: Any, directions: Directions, layers: Sequence[int],
    replies: Sequence[Example],
) -> np.ndarray:  # fmt: skip
    """[strengths] mean perplexity of the good replies under the guide."""
    found = []
    for strength in config.grid:
        parts = []
        for first in range(0, len(replies), config.batch):
            tokens, mask, completions = _answers(tokenizer, replies[first : first + config.batch])
            with guided(network, directions, layers, torch.full((len(tokens),), strength)):
                parts.append(perplexity(network, tokens, mask, completions))
        found.append(torch.cat(parts).mean().clamp_max(LARGEST).item())
    return np.array(found)


class Judge:
    """A language model that is shown labelled texts and asked whether another one is, say, funny."""

    def __init__(self, config: PretrainedConfig, network: nn.Module, tokenizer: Any, device: torch.device):
        self.config = config
        same = config.judge == config.model
        self.network, self.tokenizer = (
            (network, tokenizer) if same else load_causal(config.judge, config.precision, config.quantize, device)
        )
        self.yes, self.no = (self._token(word) for word in ("Yes", "No"))
        self.shots = ""

    def _token(self, word: str) -> int:
        """The first token of an answer, after a colon and a blank."""
        alone, with_word = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Answer:", f"Answer: {word}")
        )
        return with_word[len(alone)] if len(with_word) > len(alone) else with_word[-1]

    def learn(self, examples: Sequence[Example]) -> None:
        """Take its shots from labelled texts, either label in turn."""
        by_label = [[example for example in examples if example.label == label] for label in (1, 0)]
        pairs = zip(*(part[: self.config.few_shot // 2] for part in by_label), strict=True)
        self.shots = "".join(
            f"{self._asked(example.prompt, example.completion)} {'Yes' if example.label else 'No'}\n\n"
            for pair in pairs for example in pair
        )  # fmt: skip

    def _asked(self, prompt: str, said: str) -> str:
        what = ADJECTIVE[self.config.concept]
        return f"Prompt: {prompt[:SHOWN_LETTERS]}\nReply: {said[:SHOWN_LETTERS]}\nIs the reply {what}? Answer:"

    @torch.no_grad()
    def scores(self, prompts: Sequence[str], said: Sequence[str]) -> np.ndarray:
        """[n] P(Yes) / (P(Yes) + P(No)); 0.5 where the judge's numbers are not finite."""
        found = []
        texts = [self.shots + self._asked(prompt, reply) for prompt, reply in zip(prompts, said, strict=True)]
        for first in range(0, len(texts), self.config.batch):
            tokens, mask = (
                part.to(next(self.network.parameters()).device)
                for part in encode(self.tokenizer, texts[first : first + self.config.batch], longest=self._longest)
            )
            places = (mask.cumsum(dim=1) - 1).clamp_min(0)
            logits = self.network(input_ids=tokens, attention_mask=mask, position_ids=places, use_cache=False).logits
            found.append(logits[:, -1, [self.yes, self.no]].float().softmax(dim=1)[:, 0].nan_to_num(0.5).cpu())
        return torch.cat(found).numpy()

    @property
    def _longest(self) -> int:
        return min(4096, getattr(self.network.config, "max_position_embeddings", 4096))


def _judged(strengths: Sequence[float], scores: np.ndarray, fluency: np.ndarray) -> dict[str, Any]:
    half = scores.shape[1] // 2
    pick, report = (
        fit_guidance(strengths, part.mean(axis=1), fluency) for part in (scores[:, :half], scores[:, half:])
    )
    return {
        "pnes_pick": pick.pnes or 0.0, "pnes": report.pnes or 0.0, "r_squared": report.r_squared,
        "perplexity_r_squared": report.perplexity_r_squared, "raw_range": report.raw_range, "reach": report.raw_effect,
        "signed": report.signed_effect,
    }  # fmt: skip
