"""The live face of the guidance explorer, for Jupyter: any strength, layers and prompt, answered by the model itself.

The view begins with the recorded texts. From the first change on the model answers, in the background: of several
requests the newest wins, and an error is shown in the view. The means and curves stay the recorded ones.
"""

import time
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple, Protocol

import ipywidgets
import numpy as np

from ntf_utils.show import guidance_picture as picture
from ntf_utils.show.explorer import style_html
from ntf_utils.show.live_training import status_html, wrapped
from ntf_utils.show.newest import Newest

STEPS = 40  # stops of the slider on either side of 0
POSITIONS = {"prompt and answer": "all", "answer only": "new"}


class LiveGuide(Protocol):
    """What the live face needs."""

    def answer(
        self, concept: str, probe: str, site: str, strength: float, layers: tuple[int, ...], positions: str, prompt: str
    ) -> dict[str, Any]:
        """One prompt under a guide and without it.

        Returns:
            tokens, tint, plain, plain_tint: words and the probe's readings, guided and not; scores, plain_scores:
            concept -> 0 to 1, or None where it does not apply; perplexity, plain_perplexity: of good answers;
            top: (word, probability) of the likeliest first words.

        Raises:
            Refusal: an empty prompt, or a strength that overflows.
        """


class Request(NamedTuple):
    concept: str
    probe: str
    site: str
    strength: float
    layers: tuple[int, ...]
    positions: str
    prompt: str


class GuidanceView:
    """The widgets and what they do. `widget` is the whole view."""

    def __init__(self, states: dict, live: Callable[[], LiveGuide]) -> None:
        self._states, self._make_live = states, live
        self._model: LiveGuide | None = None
        self._quiet = False  # while controls are set by the view itself
        self._newest = Newest(self._answered, self._show, self._say_error)
        self._guides = {(g["concept"], g["probe"], g["site"]): g for g in states["guides"]}

        first = states["guides"][0]
        concepts = [(picture.title_of(states, name), name) for name in self._there(0, ())]
        self.concept = ipywidgets.Dropdown(options=concepts, value=first["concept"], description="Concept")
        self.probe = ipywidgets.Dropdown(description="Probe")
        self.site = ipywidgets.Dropdown(description="Site")
        self.layers = ipywidgets.SelectMultiple(
            options=range(len(first["by_layer"])), description="Layers", rows=min(6, len(first["by_layer"])),
            tooltip="guided layers; Ctrl adds one",
        )  # fmt: skip
        self.positions = ipywidgets.Dropdown(options=POSITIONS, description="Guided")
        self.strength = ipywidgets.FloatSlider(description="Strength", readout_format="+.2f", min=-1, max=1)
        self.prompt = ipywidgets.Combobox(
            value=states["prompts"][0], options=tuple(states["prompts"]), description="Prompt", continuous_update=False
        )
        self.status, self.picture = ipywidgets.HTML(), ipywidgets.HTML()
        self.widget = ipywidgets.VBox([
            wrapped(self.concept, self.probe, self.site), wrapped(self.layers, self.positions, self.prompt),
            wrapped(self.strength, self.status), self.picture,
        ])  # fmt: skip

        self._fit(1)
        for place, control in enumerate((self.concept, self.probe, self.site)):
            control.observe(lambda change, place=place: self._on_kind(place), "value")
        for control in (self.layers, self.positions, self.strength, self.prompt):
            control.observe(lambda change: self._ask(), "value")
        self._draw_recorded()

    # controls

    def _there(self, place: int, chosen: tuple[str, ...]) -> list[str]:
        """Concepts, probes or sites that have guides, by what was chosen before them."""
        return list(dict.fromkeys(kind[place] for kind in self._guides if kind[:place] == chosen))

    def _on_kind(self, place: int) -> None:
        if not self._quiet:
            self._fit(place + 1)
            self._ask()

    def _fit(self, place: int) -> None:
        """Fits the controls from `place` on to those before them: probes, sites, layers and strengths."""
        self._quiet = True
        try:
            chosen = (self.concept.value, self.probe.value, self.site.value)[:place]
            for control, names in ((self.probe, picture.PROBES), (self.site, picture.SITES))[place - 1 :]:
                there, old = self._there(len(chosen), chosen), control.value
                control.options = [(names[name], name) for name in there]
                control.value = old if old in there else there[0]
                chosen = (*chosen, control.value)
            guide = self._guide()
            self.layers.value = tuple(guide["layers"])
            share = self.strength.value / self.strength.max
            self.strength.min, self.strength.max = guide["strengths"][0], guide["strengths"][-1]
            self.strength.step = self.strength.max / STEPS
            self.strength.value = share * self.strength.max
        finally:
            self._quiet = False

    def _guide(self) -> dict:
        return self._guides[self.concept.value, self.probe.value, self.site.value]

    # answers

    def _ask(self) -> None:
        if self._quiet:
            return
        kind = (self.concept.value, self.probe.value, self.site.value)
        layers = tuple(sorted(self.layers.value))
        self._say("Computing …")
        self._newest.ask(Request(*kind, self.strength.value, layers, self.positions.value, self.prompt.value))

    def _answered(self, request: Request) -> tuple[Request, dict, float]:
        if not request.layers:
            raise ValueError("choose at least one layer to guide")
        if self._model is None:
            self._model = self._make_live()
        began = time.perf_counter()
        return request, self._model.answer(**request._asdict()), time.perf_counter() - began

    def _show(self, answered: tuple[Request, dict, float]) -> None:
        request, answer, seconds = answered
        guide = self._guides[request.concept, request.probe, request.site]
        plain, guided = (
            {"tokens": answer[tokens], "tint": answer[tint], "scores": self._percent(answer[scores])}
            for tokens, tint, scores in (("plain", "plain_tint", "plain_scores"), ("tokens", "tint", "scores"))
        )
        at = float(np.interp(request.strength, guide["strengths"], range(len(guide["strengths"]))))
        told = (
            f"{picture.title_of(self._states, request.concept)}, {picture.PROBES[request.probe]}, "
            f"{picture.SITES[request.site]}, {picture.layers_text(request.layers)}, strength "
            f"{picture.strength_text(float(f'{request.strength:.3g}'))}: perplexity of good answers "
            f"{answer['perplexity']:.2f} (unguided {answer['plain_perplexity']:.2f})."
        )
        if list(request.layers) != guide["layers"] or request.positions != "all":
            recorded = picture.layers_text(guide["layers"])
            told += f" The means and curves below are those of {recorded}, with prompt and answer guided."
        words = "".join(f"<li>{escape(word)} <b>{100 * share:.0f} %</b></li>" for word, share in answer["top"])
        self._draw(guide, at, plain, guided, told, f"<p>Likeliest first words:</p><ul class='words'>{words}</ul>")
        self._say(f"live, {1000 * seconds:.0f} ms")

    def _percent(self, scores: dict[str, float | None]) -> list[int]:
        found = (scores.get(concept["name"]) for concept in self._states["concepts"])
        return [-1 if value is None else round(100 * value) for value in found]

    def _draw_recorded(self) -> None:
        """The first picture: the recorded texts at strength 0, before any model is loaded."""
        guide = self._guide()
        base = picture.base_of(guide["strengths"])
        text = guide["texts"][base][0]
        self._draw(guide, base, text, text, picture.sentence(self._states, guide, base), "")
        self._say("recorded; move a control and the model answers")

    def _draw(self, guide: dict, at: float, plain: dict, guided: dict, told: str, more: str) -> None:
        self.picture.value = (
            f'{style_html("guidance_explorer")}<div class="explorer guidance-explorer">'
            f"{picture.panel(self._states, guide, at, plain, guided)}{more}"
            f'<p class="reading" aria-live="polite">{escape(told)}</p></div>'
        )

    def _say_error(self, error: Exception) -> None:
        self._say(f"{type(error).__name__}: {error}", alarm=True)

    def _say(self, sentence: str, alarm: bool = False) -> None:
        self.status.value = status_html(sentence, alarm)
