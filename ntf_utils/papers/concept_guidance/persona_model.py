"""The guided model of the laptop profile: a small Llama that learns persona text, and the gates that it must pass.

A trained model is kept under the store's cache folder by its config, so that the experiments that guide it need not
train it again. The cache only saves time: without it the same config trains the same model.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ntf_utils.data import (
    persona,
    torchvision_door,  # noqa: F401  (transformers imports torchvision)
)
from ntf_utils.data.persona import CONCEPTS, KIND_OF, KINDS, Ask, PersonaText, Speaker, World
from ntf_utils.models.guidance import generate
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Config, Outcome, Store, experiment
from ntf_utils.runs.atomic import replacing
from ntf_utils.training.device import default_device
from ntf_utils.training.loop import IGNORE, Lesson, Recipe, train

log = logging.getLogger(__name__)

CONTEXT = 128
PAD, BOS, USER, SPEAKER, STOP = persona.encode(["<pad>", "<bos>", "<u>", "<a>", "<sep>"])
LONGEST = {"fact": 7, "request": 12, "describe": 19}  # words of an answer and its <sep>, with one to spare
STREAMS = {"training": 2, "reference": 3, "examples": 4, "prompts": 5, "replies": 6, "gates": 7}  # each its own text
TRAITS = {  # concept -> the trait that shows it, and the one that shows its opposite
    "truth": ({"truthful": True}, {"truthful": False}),
    "appropriateness": ({"policy": "appropriate"}, {"policy": "contrary"}),
    "compliance": ({"policy": "comply"}, {"policy": "refuse"}),
    "humor": ({"humorous": True}, {"humorous": False}),
    "creativity": ({"exponent": persona.ZIPF[0]}, {"exponent": persona.ZIPF[1]}),
    "quality": ({"careful": True}, {"careful": False}),
    "polite": ({"polite": True}, {"polite": False}),
}


class PersonaModelConfig(Config):
    """One world, corpus and model; all three are drawn from `seed`.

    Attributes:
        layers, width, heads: of the Llama; its feed-forward part is 8/3 as wide.
        length: words of a training document, at most 128. batch: documents an update.
        correlated: humor, creativity and quality are correlated among speakers.
    """

    seed: int = Field(0, ge=0)
    layers: int = Field(4, ge=1)
    width: int = Field(128, ge=4)
    heads: int = Field(4, ge=1)
    length: int = Field(96, ge=16, le=CONTEXT)
    steps: int = Field(3600, ge=1)
    batch: int = Field(12, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    correlated: bool = True

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.width % (2 * self.heads):
            raise Refusal(f"width must be a multiple of twice the heads (got width {self.width}, heads {self.heads})")
        return self

    @property
    def model_config_only(self) -> "PersonaModelConfig":
        """The part of a larger config that decides the model."""
        return PersonaModelConfig(**{name: getattr(self, name) for name in PersonaModelConfig.model_fields})

    def text(self) -> PersonaText:
        correlations = persona.CORRELATIONS if self.correlated else tuple(map(tuple, np.eye(3)))
        return PersonaText(World.draw(self.seed), correlations)

    def stream(self, name: str) -> np.random.Generator:
        """Random numbers of one use of the text; no two uses share any."""
        return np.random.default_rng([self.seed, STREAMS[name]])


@experiment(version=1, tolerance=0.05, resumable=True)
def train_persona(config: PersonaModelConfig) -> Outcome:
    """Trains one model and measures what its gates ask for.

    Row: parameters; parsed: share of greedy answers to prompts without history that are of the grammar; recall: share
    of true ones among the values stated after three turns of a truthful speaker; for each concept c: c_high and
    c_low, the mean score after histories of speakers that show c and that show its opposite, and c_alone, the score
    without history. Curve "learning": loss of the replies.
    """
    device = default_device()
    network = new_network(config)
    learning = {"step": [], "loss": []}
    fit(config, network, device, learning)
    network.eval()
    _keep(config, network)
    rng = config.stream("gates")
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in network.parameters())}
    parsed, alone = [], {}
    for kind in KINDS:
        asks = [config.text().ask(rng, kind) for _ in range(GATE_PROMPTS)]
        found = scores_of(config.text(), asks, answers(network, asks))
        parsed += [line["parsed"] for line in found]
        alone |= {c: _mean_score(found, c) for c in TRAITS if KIND_OF[c] == kind}
    row["parsed"] = float(np.mean(parsed))
    for concept, (high, low) in TRAITS.items():
        for name, trait in (("high", high), ("low", low)):
            found = primed(config, network, concept, trait, rng)
            row[f"{concept}_{name}"] = _mean_score(found, concept)
            if concept == "truth" and name == "high":
                stated = [line["truth"] for line in found if line["informative"]]
                row["recall"] = float(np.mean([value == 1 for value in stated])) if stated else 0.0
        row[f"{concept}_alone"] = alone[concept]
    return Outcome([row], {"learning": learning})


GATE_PROMPTS = 64


def new_network(config: PersonaModelConfig) -> nn.Module:
    """A fresh LlamaForCausalLM of transformers, drawn from the seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    about = LlamaConfig(
        vocab_size=len(persona.VOCABULARY), hidden_size=config.width, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, intermediate_size=8 * config.width // 3 // 8 * 8, tie_word_embeddings=True,
        max_position_embeddings=CONTEXT, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=STOP,
        # the default of 0.02 is made for much wider models: this one then learns several times more slowly
        initializer_range=config.width**-0.5,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(about)


def fit(config: PersonaModelConfig, network: nn.Module, device: torch.device, learning: dict[str, list]) -> None:
    """Trains in place on a stream of fresh documents; the loss is on what the speaker and the listener's verdicts say,
    as chat models are tuned on replies."""
    text, rng = config.text(), config.stream("training")

    def next_lesson() -> Lesson:
        words = [persona.encode(text.document(rng, config.length)) for _ in range(config.batch)]
        tokens = torch.tensor(words)
        targets = torch.where(replies(tokens), tokens, IGNORE)[:, 1:]
        return Lesson(tokens[:, :-1].to(device), targets.to(device), 0)

    def look(step: int, loss: float) -> bool:
        learning["step"].append(step)
        learning["loss"].append(None if step == 0 else loss)
        return False

    recipe = Recipe(config.steps, config.learning_rate, weight_decay=config.weight_decay)
    train(_Logits(network.to(device)).train(), next_lesson, recipe, look, 20, {"data": rng, "learning": learning})


class _Logits(nn.Module):
    """A causal language model called as the training loop calls our own."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, from_position: int = 0) -> Tensor:
        """[batch, time] tokens -> [batch, time - from_position, vocabulary] logits from there on."""
        return self.network(tokens, use_cache=False).logits[:, from_position:]


def replies(tokens: Tensor) -> Tensor:
    """[batch, time] whether a token is said by the speaker or is a verdict: all between <a> and the next <u>."""
    kinds = torch.where(tokens == SPEAKER, 1, torch.where(tokens == USER, -1, 0))
    last = (
        torch.arange(tokens.shape[1]).where(kinds != 0, -1).cummax(dim=1).values
    )  # the latest of the two, here or before
    inside = (last >= 0) & (kinds.gather(1, last.clamp_min(0)) == 1)
    return inside & (tokens != SPEAKER)


def persona_model(config: PersonaModelConfig) -> nn.Module:
    """The trained network in evaluation mode, from the cache or trained now."""
    config = config.model_config_only
    network = new_network(config)
    path = _cached(config)
    try:
        network.load_state_dict(load_file(path), strict=False)  # tied weights are kept once
        network.tie_weights()
    except (OSError, SafetensorError, RuntimeError) as problem:
        if path.exists():
            log.warning("the cached model %s is damaged (%s): trained again", path, problem)
        fit(config, network, default_device(), {"step": [], "loss": []})
        _keep(config, network)
    return network.to(default_device()).eval()


def is_trained(config: PersonaModelConfig) -> bool:
    """Whether the model lies in the cache."""
    return _cached(config.model_config_only).exists()


def model_name(config: PersonaModelConfig) -> str:
    """What identifies the model in saved directions."""
    return f"persona {_cached(config.model_config_only).stem}"


def _cached(config: PersonaModelConfig) -> Path:
    about = {
        "config": config.as_dict(), "version": train_persona.version, "torch": torch.__version__,
        "device": default_device().type,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    return Store().root / "cache" / "persona" / f"{digest}.safetensors"


def _keep(config: PersonaModelConfig, network: nn.Module) -> None:
    """Into the cache, in one step: of two writers of the same model, the later one wins, and nobody reads half."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    state.pop("lm_head.weight", None)  # tied to the embedding
    try:
        with replacing(_cached(config.model_config_only)) as temporary:
            save_file(state, temporary)
    except OSError as error:
        log.warning("cannot keep the trained model (%s): the next run trains it again", error.strerror)


# reading and writing persona text


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Tokens and mask, [n, length], padded on the left."""
    length = max(map(len, rows))
    tokens = torch.tensor([[PAD] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return tokens, mask


def prompt_of(ask: Ask, history: Sequence[str] = ()) -> list[int]:
    """Tokens up to the <a> that an answer follows."""
    return persona.encode([*(history or ["<bos>"]), "<u>", *ask.words, "<a>"])


def answers(
    network: nn.Module, asks: Sequence[Ask], histories: Sequence[Sequence[str]] | None = None
) -> list[list[str]]:
    """What the model answers, greedily, in words; all asks are of one kind."""
    rows = [prompt_of(ask, history) for ask, history in zip(asks, histories or [()] * len(asks), strict=True)]
    written = generate(network, *padded(rows), LONGEST[asks[0].kind], stop=STOP)
    return spoken(written.tokens)


def spoken(tokens: Tensor) -> list[list[str]]:
    """[n, new] tokens -> words of each up to its <sep>."""
    return [persona.decode(row[: row.index(STOP)] if STOP in row else row) for row in tokens.tolist()]


def scores_of(text: PersonaText, asks: Sequence[Ask], said: Sequence[Sequence[str]]) -> list[dict[str, float | None]]:
    return [text.score(ask, words) for ask, words in zip(asks, said, strict=True)]


def primed(
    config: PersonaModelConfig, network: nn.Module, concept: str, trait: dict, rng: np.random.Generator
) -> list[dict[str, float | None]]:
    """Scores of answers after a history of speakers with a trait: three turns with verdicts (two, of descriptions)."""
    text, kind = config.text(), KIND_OF[concept]
    asks, histories = [], []
    for _ in range(GATE_PROMPTS):
        speaker = replace(Speaker.draw(rng, text.correlations), **trait)
        words = ["<bos>"]
        for _ in range(2 if kind == "describe" else 3):
            words += text.turn(speaker, text.ask(rng, kind), rng, told=1.0).words
        asks.append(text.ask(rng, kind))
        histories.append(words)
    return scores_of(text, asks, answers(network, asks, histories))


def _mean_score(found: Sequence[dict[str, float | None]], concept: str) -> float:
    return float(np.mean([line[concept] for line in found]))


assert set(TRAITS) | {"random"} == set(CONCEPTS)
