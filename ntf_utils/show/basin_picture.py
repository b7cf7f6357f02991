"""The picture of the basin explorer: the loss between members, and how they vote. HTML from plain values."""

from collections import Counter
from html import escape

WIDTH, HEIGHT = 100, 40  # of the curve's drawing area; the picture stretches it


def panel(states: dict, stop: dict, pixels: list[str] | None = None) -> str:
    """Curve and votes of one ensemble.

    Args:
        states: see `basin_explorer`; its classes, truth and reference are used.
        stop: one of the stops of a sweep.
        pixels: for each image the address of a picture of it; None shows tiles without pictures.
    """
    return f'<div class="basin-panel">{_curves(states, stop)}{_tiles(states, stop, pixels)}</div>'


def curve(stop: dict, top: float) -> str:
    """The loss curve as points of an SVG polyline, from 0 at the bottom to `top`."""
    places = zip(stop["alphas"], stop["loss"], strict=True)
    return " ".join(f"{WIDTH * alpha:.1f},{HEIGHT * (1 - min(loss / top, 1)):.1f}" for alpha, loss in places)


def top_of(states: dict) -> float:
    """The highest loss of any recorded curve: all stops share one scale."""
    stops = [stop for sweep in states["sweeps"] for stop in sweep["stops"]]
    return max(0.01, *(max(stop["loss"]) for stop in [states["reference"], *stops]))


def votes(states: dict, stop: dict, image: int) -> tuple[str, bool, bool]:
    """What the members say of an image, e.g. "cat 3, dog 2"; whether they differ; whether most of them are wrong."""
    counts = Counter(said[image] for said in stop["said"]).most_common()
    classes = states["classes"]
    if len(counts) == 1:
        text = classes[counts[0][0]]
    else:
        text = ", ".join(f"{classes[kind]} {number}" for kind, number in counts)
    return text, len(counts) > 1, counts[0][0] != states["truth"][image]


def summary(states: dict, stop: dict) -> str:
    """The picture in words."""
    split = sum(votes(states, stop, image)[1] for image in range(len(states["truth"])))
    above = stop["nll"] - states["reference"]["nll"]
    where = "above" if above >= 0 else "below"
    return (
        f"{stop['title']}: joint barrier {stop['joint']:.3f} nats, test NLL {stop['nll']:.3f}, "
        f"{abs(above):.3f} {where} that of the deep ensemble. Two members disagree on "
        f"{100 * stop['disagreement']:.1f} % of all test images; on {split} of the {len(states['truth'])} shown, "
        "not all members say the same."
    )


def _curves(states: dict, stop: dict) -> str:
    top = top_of(states)
    return (
        '<figure class="basin-curve"><figcaption>mean training loss on the line between two members, 0 to '
        f'<b class="top">{top:.2f} nats</b>; dashed: deep ensemble</figcaption>'
        f'<svg viewBox="-1 -2 {WIDTH + 2} {HEIGHT + 4}" preserveAspectRatio="none" role="img" '
        'aria-label="Training loss between members"><path class="ground" '
        f'd="M0 {HEIGHT}H{WIDTH}"/><polyline class="deep" points="{curve(states["reference"], top)}"/>'
        f'<polyline class="own" points="{curve(stop, top)}"/></svg></figure>'
    )


def _tiles(states: dict, stop: dict, pixels: list[str] | None) -> str:
    truth, rows = states["truth"], []
    for kind in dict.fromkeys(truth):
        cells = []
        for image in (i for i, true in enumerate(truth) if true == kind):
            text, split, wrong = votes(states, stop, image)
            names = " ".join(["tile", *(["wrong"] if wrong else []), *(["split"] if split else [])])
            picture = f'<img alt="" src="{escape(pixels[image])}">' if pixels else ""
            cells.append(f'<span class="{names}" data-image="{image}">{picture}<b>{escape(text)}</b></span>')
        rows.append(f'<li><span class="class">{escape(states["classes"][kind])}</span>{"".join(cells)}</li>')
    return f'<ul class="basin-tiles" aria-label="Test images by true class">{"".join(rows)}</ul>'
