"""The two marks of the book: the pill that says a verdict and the small picture of an interval.

Both carry their meaning in shape and text as well as in colour, and look right without the book's style
sheet: presentation attributes and inline styles give the fallback, `book/static/show.css` refines them.
"""

import math
from html import escape

from ntf_utils.claims import Region
from ntf_utils.show import wording

# dark enough for white text (contrast at least 4.5)
VERDICT_COLOURS = {
    "reproduced": "#00704f",
    "contradicted": "#b3400a",
    "inconclusive": "#7a5c00",
    "not tested": "#5c6670",
}
# a disc with a tick, a square with a cross, a diamond with a question mark, an open ring with a dash; 16 x 16
_SHAPES = {
    "reproduced": '<circle cx="8" cy="8" r="7" fill="#fff"/>'
    '<path d="M4.6 8.3l2.4 2.4 4.4-5" stroke="{colour}"/>',
    "contradicted": '<rect x="1" y="1" width="14" height="14" rx="2" fill="#fff"/>'
    '<path d="M5 5l6 6M11 5l-6 6" stroke="{colour}"/>',
    "inconclusive": '<path d="M8 .5L15.5 8 8 15.5.5 8z" fill="#fff"/>'
    '<path d="M6.2 6.4a1.9 1.9 0 1 1 2.6 1.8q-.8.4-.8 1.2M8 11.4v.3" stroke="{colour}"/>',
    "not tested": '<circle cx="8" cy="8" r="6.2" stroke="#fff"/><path d="M5 8h6" stroke="#fff"/>',
}
_PILL = (
    "display:inline-flex;align-items:center;gap:.35em;padding:.1em .6em .1em .4em;border-radius:1em;"
    "font-size:.85em;font-weight:600;line-height:1.5;white-space:nowrap;color:#fff;background:{colour}"
)
_WIDTH, _HEIGHT, _MARGIN = 168, 26, 8  # of the interval picture, in px


def slug(verdict: str) -> str:
    """A verdict as part of a class name, e.g. `not-tested`."""
    return verdict.replace(" ", "-")


def pill(verdict: str) -> str:
    """HTML of a verdict: a shape and the word on its colour."""
    colour = VERDICT_COLOURS[verdict]
    shape = _SHAPES[verdict].format(colour=colour)
    icon = (
        '<svg width="13" height="13" viewBox="0 0 16 16" fill="none" stroke-width="1.8" aria-hidden="true">'
        f"{shape}</svg>"
    )
    style = _PILL.format(colour=colour)
    return f'<span class="verdict verdict-{slug(verdict)}" style="{style}">{icon}{escape(verdict)}</span>'


def interval_picture(
    estimate: float, low: float, high: float, holds: Region, unit: str = "", verdict: str = "not tested"
) -> str:
    """SVG of an interval against the region in which the clause holds (shaded).

    The axis shows the interval and every finite end of the region, with a fifth of that range to spare on
    each side; an open region runs on to the edge of the picture.
    """
    shown = [low, high, estimate, *holds.borders]
    spare = 0.2 * (max(shown) - min(shown)) or max(1.0, 0.1 * abs(shown[0]))
    left, right = min(shown) - spare, max(shown) + spare

    def x(value: float) -> float:
        inside = min(max(value, left), right)
        return round(_MARGIN + (inside - left) / (right - left) * (_WIDTH - 2 * _MARGIN), 1)

    def shade(floor: float, ceiling: float) -> str:
        begin = 0 if math.isinf(floor) else x(floor)
        end = _WIDTH if math.isinf(ceiling) else x(ceiling)
        return (
            f'<rect class="interval-region" x="{begin}" y="3" width="{round(end - begin, 1)}" height="20" '
            f'fill="#009e73" fill-opacity=".17"/>'
        )

    edges = "".join(
        f'<path class="interval-edge" d="M{x(border)} 3V23" stroke="#00875f" stroke-dasharray="2 2"/>'
        for border in holds.borders
    )
    told = f"{wording.interval(estimate, low, high, unit)}; holds {wording.criterion(holds, unit)}"
    colour = VERDICT_COLOURS[verdict]
    x_low, x_high, x_mid = x(low), x(high), x(estimate)
    return (
        f'<svg class="interval interval-{slug(verdict)}" role="img" aria-label="{escape(told)}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" style="max-width:100%">'
        f"<title>{escape(told)}</title>"
        f"{''.join(shade(*ends) for ends in _pieces(holds))}{edges}"
        f'<path class="interval-axis" d="M0 13H{_WIDTH}" stroke="#888" stroke-opacity=".45"/>'
        f'<path class="interval-line" d="M{x_low} 13H{x_high}M{x_low} 8.5V17.5M{x_high} 8.5V17.5" '
        f'stroke="{colour}" stroke-width="2"/>'
        f'<circle class="interval-mean" cx="{x_mid}" cy="13" r="3.6" fill="{colour}"/></svg>'
    )


def _pieces(holds: Region) -> list[tuple[float, float]]:
    """The region as one or two stretches of the axis."""
    if holds.within:
        return [(holds.within[0], holds.within[1])]
    if holds.outside:
        return [(-math.inf, holds.outside[0]), (holds.outside[1], math.inf)]
    return [(holds.above, math.inf)] if holds.above is not None else [(-math.inf, holds.below)]
