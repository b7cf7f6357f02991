"""The picture of the barrier explorer: a loss curve with a marker, and tiles of test images. HTML from plain values."""

from html import escape

KINDS = {
    "order": "same start, other order",
    "independent": "independent networks",
    "same": "same start, same order",
}
WIDTH, HEIGHT = 100, 40  # of the curve's drawing area; the picture stretches it


def panel(states: dict, pair: dict, at: int, pixels: list[str] | None = None) -> str:
    """Curve and tiles at one point of a path.

    Args:
        states: see `barrier_explorer`; its classes and truth are used.
        pair: one of the pairs of a setting.
        at: place in the pair's alphas.
        pixels: for each image the address of a picture of it; None shows tiles without pictures.
    """
    return f'<div class="barrier-panel">{_curve_picture(pair, at)}{_tiles(states, pair, at, pixels)}</div>'


def curve(pair: dict) -> str:
    """The loss curve as points of an SVG polyline, from 0 at the bottom to the highest loss at the top."""
    top = _top(pair)
    places = zip(pair["alphas"], pair["loss"], strict=True)
    return " ".join(f"{WIDTH * alpha:.1f},{HEIGHT * (1 - loss / top):.1f}" for alpha, loss in places)


def top_text(pair: dict) -> str:
    """What the top of the curve stands for."""
    return f"{_top(pair):.2f} nats"


def summary(setting: dict, pair: dict, at: int) -> str:
    """The picture in words."""
    said, first = pair["said"][at], pair["said"][0]
    moved = sum(a != b for a, b in zip(said, first, strict=True))
    errors = f"training error {100 * pair['error'][at]:.1f} %, test error {100 * pair['test_error'][at]:.1f} %"
    return (
        f"{setting['title']}, {KINDS[pair['kind']]}, α = {pair['alphas'][at]:.2f}: "
        f"training loss {pair['loss'][at]:.3f} nats, {errors}. "
        f"{100 * pair['changed'][at]:.1f} % of all test images have another label than at the start of the path; "
        f"of the {len(said)} shown, {moved}."
    )


def _top(pair: dict) -> float:
    return max(*pair["loss"], 0.01)


def _curve_picture(pair: dict, at: int) -> str:
    x = WIDTH * pair["alphas"][at]
    y = HEIGHT * (1 - pair["loss"][at] / _top(pair))
    return (
        '<figure class="barrier-curve"><figcaption>training loss along the path, 0 to '
        f'<b class="top">{top_text(pair)}</b></figcaption>'
        f'<svg viewBox="-1 -2 {WIDTH + 2} {HEIGHT + 4}" preserveAspectRatio="none" role="img" '
        'aria-label="Training loss along the path"><path class="ground" '
        f'd="M0 {HEIGHT}H{WIDTH}"/><polyline points="{curve(pair)}"/><path class="now" d="M{x:.1f} -2V{HEIGHT + 2}"/>'
        f'<path class="level" d="M0 {y:.1f}H{WIDTH}"/></svg></figure>'
    )


def _tiles(states: dict, pair: dict, at: int, pixels: list[str] | None) -> str:
    classes, truth, said, first = states["classes"], states["truth"], pair["said"][at], pair["said"][0]
    rows = []
    for kind in dict.fromkeys(truth):
        cells = []
        for image in (i for i, true in enumerate(truth) if true == kind):
            marks = [("wrong", said[image] != kind), ("changed", said[image] != first[image])]
            names = " ".join(["tile", *(name for name, holds in marks if holds)])
            picture = f'<img alt="" src="{escape(pixels[image])}">' if pixels else ""
            cells.append(
                f'<span class="{names}" data-image="{image}">{picture}<b>{escape(classes[said[image]])}</b></span>'
            )
        rows.append(f'<li><span class="class">{escape(classes[kind])}</span>{"".join(cells)}</li>')
    return f'<ul class="barrier-tiles" aria-label="Test images by true class">{"".join(rows)}</ul>'
