"""The live side of the guidance explorer: guides the model that is shipped with the book, or another persona model."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ntf_utils import ROOT
from ntf_utils.data import persona
from ntf_utils.data.persona import Ask
from ntf_utils.models.guidance import Directions, generate, guided, perplexity
from ntf_utils.papers.concept_guidance.explorer_run import ExplorerConfig, Guide, Shown, Tint, how_to_write
from ntf_utils.papers.concept_guidance.guides import LARGEST, SCORED
from ntf_utils.papers.concept_guidance.persona_model import padded, prompt_of, spoken
from ntf_utils.refusal import Refusal

SHIPPED = ROOT / "data" / "models" / "persona"
TOP_TOKENS = 10


class LiveGuides:
    """Answers one prompt under a guide of any strength, beside the unguided answer.

    Implements what `GuidanceExplorer(live=...)` asks for.

    Args:
        folder: a normal model folder of transformers, with a subfolder `guides` of directions and the config that they
            were made with: what `python -m ntf_utils.papers.concept_guidance.ship` writes.
    """

    def __init__(self, folder: Path = SHIPPED):
        self.folder = folder

    @classmethod
    def of(cls, folder: str | Path = SHIPPED) -> Self:
        return cls(Path(folder))

    @cached_property
    def shown(self) -> Shown:
        """The model with its prompts."""
        from ntf_utils.models.causal import load_causal

        network, _ = load_causal(self.folder)
        return Shown(self.config, network)

    @cached_property
    def config(self) -> ExplorerConfig:
        try:
            about = json.loads((self.folder / "guides" / "config.json").read_text(encoding="utf-8"))
        except OSError as error:
            raise Refusal(
                f"{self.folder} holds no guides ({error.strerror}): make them with the ship command"
            ) from None
        return ExplorerConfig(**about)

    @property
    def cells(self) -> dict[tuple[str, str, str], int]:
        """(concept, probe, site) -> number of layers."""
        return {(concept, probe, site): top for concept, probe, site, top in self.config.cells}

    def directions(self, concept: str, probe: str, site: str) -> tuple[Directions, Tensor]:
        """The shipped directions, and the length [layers] that a strength of 1 adds."""
        if (concept, probe, site) not in self.cells:
            raise Refusal(f"no guide for {concept} by {probe} at {site}: known are {self._known()}")
        return Directions.load(self.folder / "guides" / f"{concept}_{probe}_{site}.safetensors"), self._units[site]

    def _known(self) -> str:
        return ", ".join(" / ".join(cell) for cell in self.cells)

    @cached_property
    def _units(self) -> dict[str, Tensor]:
        about = json.loads((self.folder / "guides" / "units.json").read_text(encoding="utf-8"))
        return {site: torch.tensor(values) for site, values in about.items()}

    @cached_property
    def _tints(self) -> dict[tuple[str, str, str, tuple[int, ...]], Tint]:
        return {}

    def guide(self, concept: str, probe: str, site: str, layers: Sequence[int] | None = None) -> Guide:
        """A guide; `layers` default to those that were picked."""
        directions, unit = self.directions(concept, probe, site)
        chosen = directions.top(self.cells[concept, probe, site]) if layers is None else tuple(sorted(set(layers)))
        key = (concept, probe, site, chosen)
        outside = [layer for layer in chosen if not 0 <= layer < len(unit)]
        if outside or not chosen:
            what = f"layer {outside[0]} is out of range" if outside else "no layer is chosen"
            raise Refusal(f"{what}: the model has layers 0 to {len(unit) - 1}")
        if key not in self._tints:
            self._tints[key] = Tint(directions, chosen, self.shown.plain(directions.site))
        return Guide(directions, chosen, unit, self._tints[key])

    def answer(
        self, concept: str, probe: str, site: str, strength: float, layers: tuple[int, ...] | None, positions: str,
        prompt: str,
    ) -> dict[str, Any]:  # fmt: skip
        """What the explorer shows of one prompt: texts, tints, scores of all concepts (None where they do not apply),
        perplexities of good answers, and the likeliest first words under the guide.

        Raises:
            Refusal: an empty prompt, words that the model does not know, or a strength that overflows.
        """
        ask = parse_ask(prompt)
        guide = self.guide(concept, probe, site, layers)
        said, tint = self._write(ask, guide, strength, positions)
        plain, plain_tint = self._write(ask, guide, 0.0, positions)
        return {
            "tokens": said, "tint": tint, "plain": plain, "plain_tint": plain_tint,
            "scores": self._scores(ask, said), "plain_scores": self._scores(ask, plain),
            "perplexity": self._fluency(guide, strength), "plain_perplexity": self._fluency(guide, 0.0),
            "top": self._top(ask, guide, strength, positions),
        }  # fmt: skip

    def _write(self, ask: Ask, guide: Guide, strength: float, positions: str) -> tuple[list[str], list[int]]:
        tokens, mask, lengths, since = self._prompt(ask, guide, strength, positions)
        network = self.shown.guides.network
        with guided(network, guide.directions, guide.layers, lengths, since=since):
            written = generate(network, tokens, mask, **how_to_write([ask]))
        if not written.finite.all():
            raise Refusal(f"a strength of {strength:g} overflows the activations: nothing can be written")
        (said,) = spoken(written.tokens)
        if not said:
            return said, []
        return said, guide.tints(network, [ask], [said], lengths, since)[0]

    def _prompt(self, ask: Ask, guide: Guide, strength: float, positions: str) -> tuple[Tensor, Tensor, Tensor, int]:
        tokens, mask = padded([prompt_of(ask)])
        return tokens, mask, strength * guide.unit[None], tokens.shape[1] - 1 if positions == "new" else 0

    def _scores(self, ask: Ask, said: list[str]) -> dict[str, float | None]:
        found = self.shown.guides.text.score(ask, said)
        return {name: None if (value := found[name]) is None else min(max(value, 0.0), 1.0) for name in SCORED}

    def _fluency(self, guide: Guide, strength: float) -> float:
        network, found = self.shown.guides.network, []
        for tokens, mask, completions in self.shown.guides.good:
            lengths = (strength * guide.unit).expand(len(tokens), -1)
            with guided(network, guide.directions, guide.layers, lengths):
                found.append(perplexity(network, tokens, mask, completions))
        return min(float(torch.cat(found).mean()), LARGEST)

    @torch.no_grad()
    def _top(self, ask: Ask, guide: Guide, strength: float, positions: str) -> list[tuple[str, float]]:
        tokens, mask, lengths, since = self._prompt(ask, guide, strength, positions)
        network = self.shown.guides.network
        with guided(network, guide.directions, guide.layers, lengths, since=since):
            chances = network(input_ids=tokens, attention_mask=mask, use_cache=False).logits[0, -1].softmax(dim=0)
        best = chances.topk(TOP_TOKENS)
        return [
            (persona.VOCABULARY[place], float(chance)) for place, chance in zip(best.indices, best.values, strict=True)
        ]


def parse_ask(prompt: str) -> Ask:
    """The question of a prompt.

    Raises:
        Refusal: empty, or no question of the grammar: the model has read nothing else.
    """
    words = prompt.split()
    if not words:
        raise Refusal("the prompt is empty: the model needs at least one token to continue")
    ask = persona.read_ask(words)
    if ask is None:
        raise Refusal(
            "this model knows three kinds of question: 'the color of arun ?', 'how do i fix the boat ?' and "
            f"'tell me about arun .'; {prompt!r} is none of them"
        )
    return ask
