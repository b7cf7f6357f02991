"""The explorer of the chapter on concept guidance: drag the strength of a guide and read what becomes of the text.

The states that it shows come from a recorded run:

    {"concepts": [{"name": "truth", "title": "Truth"}, ...],      the scored ones
     "prompts": ["tell me about arun .", ...],
     "guides": [{"concept": "truth", "probe": "difference", "site": "residual",
                 "layers": [2, 3],                  the guided ones
                 "accuracy": 0.9,                   of its detector, held out
                 "pnes": 0.3, "null_pnes": 0.1,     of the guide; the 95 % level of random directions
                 "strengths": [-0.8, ..., 0, ..., 0.8],
                 "scores": {"truth": [...], ...},   [strength] mean score of each concept, 0 to 1, or None
                 "perplexity": [...],               [strength] of good answers, under the guide
                 "parsed": [...],                   [strength] share of answers that are of the grammar
                 "null": {"low": [...], "high": [...]},   [strength] where random directions' scores lie
                 "by_layer": [...],                 [layer] held-out accuracy
                 "texts": [[{"tokens": ["sure", ...],          [strength][prompt]
                             "tint": [12, -40, ...],           the probe's reading of each token, -99 to 99
                             "scores": [100, -1, ...]}, ...], ...]}]}  in percent, by concept; -1: does not apply

The text at strength 0 is the unguided one. Texts come from a model, so all of them are escaped.
"""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from ntf_utils.refusal import Refusal
from ntf_utils.show import guidance_picture as picture
from ntf_utils.show.explorer import Explorer, choice, page_html

if TYPE_CHECKING:
    import ipywidgets

    from ntf_utils.show.guidance_live import LiveGuide

TITLE = "Guidance explorer: what a model writes while a direction is added to its activations"
NOTE = (
    "A word's colour is what the probe reads there: blue and underlined for the concept, orange and dotted against it. "
    "In the table, bars are means over the chapter's test prompts, and the line in a bar is the unguided mean; a dash "
    "means that the concept does not apply to this answer. Strengths are in median lengths of an activation."
)


class GuidanceExplorer(Explorer):
    """Concept, probe, site and prompt to choose, and a slider along the strength.

    Args:
        states: see the module.
        live: makes the model that Jupyter's view computes with; called when it is first needed.

    Raises:
        Refusal: there is no guide, two of the same kind, or the lists of one do not fit together.
    """

    def __init__(self, states: dict, live: "Callable[[], LiveGuide] | None" = None) -> None:
        _check(states)
        self.states = states
        self.live = live

    def __repr__(self) -> str:
        guides = self.states["guides"]
        prompts = len(self.states["prompts"])
        lines = [f"Guidance explorer: {len(guides)} guides, {prompts} prompts; highest PNES (null):"]
        for concept in kinds_of(self.states)["concept"]:
            best = max((guide for guide in guides if guide["concept"] == concept), key=lambda guide: guide["pnes"])
            name = f"{best['probe']}, {best['site']}, {picture.layers_text(best['layers'])}"
            lines.append(f"  {concept}: {best['pnes']:.2f} ({best['null_pnes']:.2f}) by {name}")
        return "\n".join(lines)

    def page(self) -> str:
        guide = self.states["guides"][0]
        at = first_place(guide)
        base = picture.base_of(guide["strengths"])
        kinds = kinds_of(self.states)
        names = {"concept": [picture.title_of(self.states, name) for name in kinds["concept"]],
                 "probe": [picture.PROBES[name] for name in kinds["probe"]],
                 "site": [picture.SITES[name] for name in kinds["site"]]}  # fmt: skip
        controls = "".join(choice(name, name.capitalize(), options) for name, options in names.items())
        body = (
            f'<div class="controls">{controls}{_prompts(self.states["prompts"])}</div>'
            f"{_slider(guide['strengths'], at)}"
            f"{picture.panel(self.states, guide, at, guide['texts'][base][0], guide['texts'][at][0])}"
            f'<p class="reading" aria-live="polite">{escape(picture.sentence(self.states, guide, at))}</p>'
            f'<p class="note">{NOTE}</p>'
        )
        return page_html("guidance_explorer", TITLE, body, self._page_data(kinds))

    def live_view(self) -> "ipywidgets.Widget | None":
        if self.live is None:
            return None
        from ntf_utils.show.guidance_live import GuidanceView

        return GuidanceView(self.states, self.live).widget

    def _page_data(self, kinds: dict[str, list[str]]) -> dict:
        """The states in the form that the script reads. A text is one list: words by number, each with its tint."""
        words: dict[str, int] = {}

        def packed(text: dict) -> list:
            tints = text["tint"] or [0] * len(text["tokens"])
            pairs = zip(text["tokens"], tints, strict=True)
            numbers = [part for word, tint in pairs for part in (words.setdefault(word, len(words)), tint)]
            return [numbers, text["scores"]]

        guides = []
        for guide in self.states["guides"]:
            ratio = guide["perplexity"][picture.base_of(guide["strengths"])]
            guides.append({
                "kind": [kinds[name].index(guide[name]) for name in kinds],
                "strengths": guide["strengths"], "first": first_place(guide),
                "base": picture.base_of(guide["strengths"]), "lines": picture.lines_of(guide),
                "spoken": [picture.sentence(self.states, guide, at) for at in range(len(guide["strengths"]))],
                "scores": [[_short(value) for value in guide["scores"][c["name"]]] for c in self.states["concepts"]],
                "ratio": [_short(value / ratio) for value in guide["perplexity"]],
                "own": [c["name"] for c in self.states["concepts"]].index(guide["concept"]),
                "texts": [[packed(text) for text in texts] for texts in guide["texts"]],
            })  # fmt: skip
        return {
            "titles": [c["title"] for c in self.states["concepts"]], "guides": guides, "words": list(words),
            "marked": picture.MARKED_TINT, "largest": picture.LARGEST_TINT, "width": picture.WIDTH,
            "height": picture.HEIGHT,
        }  # fmt: skip


def kinds_of(states: dict) -> dict[str, list[str]]:
    """The concepts, probes and sites that have guides, in their order."""
    names = ("concept", "probe", "site")
    return {name: list(dict.fromkeys(guide[name] for guide in states["guides"])) for name in names}


def first_place(guide: dict) -> int:
    """The strength that is shown first: the one of the highest score among those that keep the text fluent."""
    base = guide["perplexity"][picture.base_of(guide["strengths"])]
    scores = guide["scores"][guide["concept"]]
    fluent = [place for place, value in enumerate(guide["perplexity"]) if value <= 2 * base]
    return max(fluent, key=lambda place: (-1 if scores[place] is None else scores[place], place))


def _check(states: dict) -> None:
    """Refuses lists whose lengths do not fit, which a page would show as a dead slider."""
    if not states["guides"] or not states["prompts"]:
        raise Refusal("guidance explorer: there is no guide or no prompt to show")
    seen: set[tuple] = set()
    scored = [concept["name"] for concept in states["concepts"]]
    for guide in states["guides"]:
        kind = (guide["concept"], guide["probe"], guide["site"])
        where = f"guidance explorer: the guide {', '.join(kind)}"
        if kind in seen:
            raise Refusal(f"{where} is there twice")
        seen.add(kind)
        if guide["concept"] not in scored:
            raise Refusal(f"{where} is for a concept without a score")
        count = len(guide["strengths"])
        lists = [guide["perplexity"], guide["texts"], guide["parsed"], *(guide["scores"][name] for name in scored)]
        if any(len(values) != count for values in lists):
            raise Refusal(f"{where}: every list must have {count} strengths")
        if any(len(texts) != len(states["prompts"]) for texts in guide["texts"]):
            raise Refusal(f"{where}: every strength must have {len(states['prompts'])} texts")
        for text in (text for texts in guide["texts"] for text in texts):
            if len(text["scores"]) != len(scored) or len(text["tint"]) not in (0, len(text["tokens"])):
                raise Refusal(f"{where}: a text needs {len(scored)} scores, and a tint for each token or none")


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _prompts(prompts: list[str]) -> str:
    options = "".join(f'<option value="{place}">{escape(prompt)}</option>' for place, prompt in enumerate(prompts))
    return f'<label class="ask"><b>Prompt</b> <select class="prompt">{options}</select></label>'


def _slider(strengths: list[float], at: int) -> str:
    return (
        '<div class="time"><button type="button" class="play">Play</button>'
        f'<input type="range" min="0" max="{len(strengths) - 1}" value="{at}" aria-label="Strength of the guide">'
        f"<output>{picture.strength_text(strengths[at])}</output></div>"
    )
