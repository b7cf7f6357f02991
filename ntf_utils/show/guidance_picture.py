"""The picture of the guidance explorer: two texts, the scores of all concepts, and three small curves. HTML and SVG
from plain values.
"""

import math
from collections.abc import Sequence
from html import escape

PROBES = {"logistic": "logistic regression", "difference": "difference in means", "principal": "principal component"}
SITES = {"norm": "norm before the attention", "residual": "residual stream"}
WIDTH, HEIGHT = 100, 40  # of a curve's drawing area; the picture stretches it
LARGEST_TINT = 99
MARKED_TINT = 33  # one standard deviation of the unguided tokens: from there on a token is underlined too
HIGHEST_RATIO = 100.0  # of perplexities, the top of that curve


def panel(states: dict, guide: dict, at: float, plain: dict, guided: dict) -> str:
    """The whole picture.

    Args:
        states: see `guidance_explorer`; its concepts are used.
        guide: one of its guides.
        at: place of the strength among the guide's strengths, where the cursor stands; between two of them, the
            means are those of the nearer one.
        plain, guided: the unguided and the guided text.
    """
    sides = (("unguided", plain), ("guided", guided))
    texts = "".join(
        f'<figure class="said said-{name}"><figcaption>{name}</figcaption><p>{words(text)}</p></figure>'
        for name, text in sides
    )
    numbers = score_table(states, guide, at, plain, guided) + curves(states, guide, at)
    return (
        f'<div class="guidance-panel"><div class="said-both">{texts}</div>'
        f'<div class="guidance-numbers">{numbers}</div></div>'
    )


def words(text: dict) -> str:
    """The tokens of a text, tinted by what the probe reads in them."""
    if not text["tokens"]:
        return '<span class="none">(the model ends at once)</span>'
    tints = text["tint"] or [0] * len(text["tokens"])
    return " ".join(word(token, tint) for token, tint in zip(text["tokens"], tints, strict=True))


def word(token: str, tint: float) -> str:
    """One token. Strong readings are underlined as well, so that colour is not the only sign."""
    marks = "up" if tint >= MARKED_TINT else "down" if tint <= -MARKED_TINT else ""
    side = "more" if tint >= 0 else "less"
    share = min(abs(tint) / LARGEST_TINT, 1)
    return f'<span class="w {side} {marks}" style="--t:{share:.2f}">{escape(token)}</span>'


def score_table(states: dict, guide: dict, at: float, plain: dict, guided: dict) -> str:
    """All concepts' scores: of the two texts, and the mean over many prompts at this strength."""
    rows = []
    for place, concept in enumerate(states["concepts"]):
        own = ' class="own"' if concept["name"] == guide["concept"] else ""
        rows.append(
            f'<tr{own} data-concept="{place}"><th scope="row">{escape(concept["title"])}</th>'
            f'<td class="before">{percent(plain["scores"][place])}</td>'
            f'<td class="after">{percent(guided["scores"][place])}</td>'
            f'<td><div class="mean"><span class="bar">{bar(guide, concept["name"], at)}</span>'
            f'<b>{share(guide["scores"][concept["name"]][round(at)])}</b></div></td></tr>'
        )
    return (
        '<table class="scores"><caption>scores of all concepts, %</caption><thead><tr><th scope="col">concept</th>'
        '<th scope="col">un&shy;guided</th><th scope="col">guided</th><th scope="col">mean of many prompts</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
    )


def bar(guide: dict, concept: str, at: float) -> str:
    """A mean score as a bar, with a line at the unguided one."""
    values = guide["scores"][concept]
    now, base = values[round(at)], values[base_of(guide["strengths"])]
    width = "0" if now is None else f"{100 * min(max(now, 0), 1):.1f}"
    line = "" if base is None else f'<i style="left:{100 * min(max(base, 0), 1):.1f}%"></i>'
    return f'<span class="fill" style="width:{width}%"></span>{line}'


def curves(states: dict, guide: dict, at: float) -> str:
    """Score with the null, perplexity, and accuracy by layer."""
    title = title_of(states, guide["concept"])
    drawn = lines_of(guide)
    x = x_of(at, len(guide["strengths"]))
    base = x_of(base_of(guide["strengths"]), len(guide["strengths"]))
    cursor = f'<path class="base" d="M{base:.1f} 0V{HEIGHT}"/><path class="now" d="M{x:.1f} -2V{HEIGHT + 2}"/>'
    twice = f'<path class="twice" d="M0 {_log_y(2):.1f}H{WIDTH}"/>'
    figures = [
        ("tradeoff", f"mean score of <b>{escape(title)}</b>, 0 to 1; grey: random directions",
         f"Mean score of {title} against strength, with the band of random directions",
         f'<polygon class="band" points="{drawn["band"]}"/><polyline points="{drawn["score"]}"/>{cursor}'),
        ("fluency", f"perplexity of good answers, 1 to {HIGHEST_RATIO:g} times unguided (log); dotted: twice",
         "Perplexity against strength", f'{twice}<polyline points="{drawn["fluency"]}"/>{cursor}'),
        ("layers", "detection accuracy by layer, 0.5 to 1; coloured: guided layers",
         "Held-out accuracy by layer", f'<g class="bars">{drawn["layers"]}</g>'),
    ]  # fmt: skip
    return f'<div class="curves">{"".join(_figure(*about) for about in figures)}</div>'


def lines_of(guide: dict) -> dict[str, str]:
    """What the curves of a guide are drawn with: points of SVG lines, and the bars of its layers."""
    count = len(guide["strengths"])
    band = guide["null"]
    low = [(x_of(place, count), _y(value)) for place, value in enumerate(band["low"])]
    high = [(x_of(place, count), _y(value)) for place, value in enumerate(band["high"])]
    base = guide["perplexity"][base_of(guide["strengths"])]
    ratios = [value / base for value in guide["perplexity"]]
    score = [(x_of(place, count), _y(value)) for place, value in enumerate(guide["scores"][guide["concept"]])]
    return {
        "score": _points(score),
        "band": _points([*low, *reversed(high)]) if len(band["low"]) == count else "",
        "fluency": _points([(x_of(place, count), _log_y(ratio)) for place, ratio in enumerate(ratios)]),
        "layers": _bars(guide),
    }


def sentence(states: dict, guide: dict, at: int) -> str:
    """The picture in words."""
    title = title_of(states, guide["concept"])
    base = base_of(guide["strengths"])
    ratio = guide["perplexity"][at] / guide["perplexity"][base]
    scores = guide["scores"][guide["concept"]]
    return (
        f"{title}, {PROBES[guide['probe']]}, {SITES[guide['site']]}, {layers_text(guide['layers'])}, "
        f"strength {strength_text(guide['strengths'][at])}: "
        f"mean score {share(scores[at])} % (unguided {share(scores[base])} %), "
        f"perplexity of good answers {ratio:.2f} times the unguided one. PNES of this guide {guide['pnes']:.2f}, of "
        f"random directions up to {guide['null_pnes']:.2f}; its detector is right for "
        f"{100 * guide['accuracy']:.0f} % of held-out examples."
    )


def strength_text(strength: float) -> str:
    """A strength with its sign."""
    return "0" if strength == 0 else f"{strength:+g}".replace("-", "−")


def layers_text(layers: Sequence[int]) -> str:
    names = ", ".join(map(str, layers))
    return f"layer {names}" if len(layers) == 1 else f"layers {names}"


def title_of(states: dict, name: str) -> str:
    """A concept's title."""
    return next((c["title"] for c in states["concepts"] if c["name"] == name), name)


def base_of(strengths: Sequence[float]) -> int:
    """The place of the strength nearest 0."""
    return min(range(len(strengths)), key=lambda place: abs(strengths[place]))


def percent(score: float | None) -> str:
    """A text's score in percent; a dash where it has none."""
    return "–" if score is None or score < 0 else f"{score:.0f}"


def share(score: float | None) -> str:
    """A score from 0 to 1 in percent."""
    return "–" if score is None else f"{100 * score:.0f}"


def x_of(place: float, count: int) -> float:
    """Strengths stand at even distances: they grow geometrically."""
    return WIDTH * place / max(1, count - 1)


def _y(score: float | None) -> float:
    return HEIGHT * (1 - min(max(score or 0.0, 0.0), 1.0))


def _log_y(ratio: float) -> float:
    height = math.log(min(max(ratio, 1.0), HIGHEST_RATIO)) / math.log(HIGHEST_RATIO)
    return HEIGHT * (1 - height)


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _bars(guide: dict) -> str:
    count = len(guide["by_layer"])
    width = WIDTH / max(1, count)
    parts = []
    for layer, accuracy in enumerate(guide["by_layer"]):
        height = HEIGHT * min(max((accuracy or 0) - 0.5, 0), 0.5) / 0.5
        chosen = ' class="chosen"' if layer in guide["layers"] else ""
        parts.append(
            f'<rect{chosen} x="{layer * width + 0.1 * width:.1f}" y="{HEIGHT - height:.1f}" width="{0.8 * width:.1f}" '
            f'height="{height:.1f}"/>'
        )
    return "".join(parts)


def _figure(name: str, caption: str, spoken: str, inside: str) -> str:
    return (
        f'<figure class="curve curve-{name}"><figcaption>{caption}</figcaption><svg viewBox="-1 -2 {WIDTH + 2} '
        f'{HEIGHT + 4}" preserveAspectRatio="none" role="img" aria-label="{escape(spoken)}">'
        f'<path class="ground" d="M0 {HEIGHT}H{WIDTH}"/>{inside}</svg></figure>'
    )
