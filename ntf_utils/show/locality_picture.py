"""The picture of the locality explorer: curves of probe accuracy, and tiles of test images. HTML from plain values."""

from html import escape

from ntf_utils.papers.random_teachers.effects import NAMES

WIDTH, HEIGHT = 100, 44  # of the curves' drawing area; the picture stretches it


def panel(states: dict, setting: dict, probe: str, pixels: list[str] | None = None) -> str:
    """Curves and tiles of one locality.

    Args:
        states: see `locality_explorer`. setting: one of its settings, or a trained one.
        probe: whose accuracies are drawn.
        pixels: for each tile the address of a picture; None shows tiles without pictures.
    """
    return f'<div class="locality-panel">{_curves(states, setting, probe)}{_tiles(states, setting, pixels)}</div>'


def bounds(states: dict, probe: str) -> tuple[float, float]:
    """Lowest and highest accuracy that the curves' axis shows, in percent."""
    values = [states["teacher"]["accuracy"][probe], states["pixels"][probe]]
    values += [value for setting in states["settings"] for value in setting["accuracy"][probe]]
    return min(values) - 1, max(values) + 1


def curve(states: dict, setting: dict, probe: str) -> str:
    """A setting's accuracies as points of an SVG polyline, over its updates."""
    last = max(setting["steps"]) or 1
    return " ".join(
        f"{WIDTH * step / last:.1f},{height(states, probe, value):.1f}"
        for step, value in zip(setting["steps"], setting["accuracy"][probe], strict=True)
    )


def height(states: dict, probe: str, value: float) -> float:
    """Where an accuracy lies in the drawing, from the top."""
    low, high = bounds(states, probe)
    return HEIGHT * (1 - (min(max(value, low), high) - low) / (high - low))


def axis_text(states: dict, probe: str) -> str:
    """What the drawing's bottom and top stand for."""
    low, high = bounds(states, probe)
    return f"{low:.0f} to {high:.0f} %"


def summary(states: dict, setting: dict, probe: str) -> str:
    """The picture in words."""
    taught = states["teacher"]["said"]
    moved = sum(a != b for a, b in zip(setting["said"], taught, strict=True))
    right = sum(a == b for a, b in zip(setting["said"], states["truth"], strict=True))
    before = sum(a == b for a, b in zip(taught, states["truth"], strict=True))
    return (
        f"Locality {setting['locality']:g}, {NAMES[probe]}: the student ends at {setting['accuracy'][probe][-1]:.1f} % "
        f"after {setting['steps'][-1]} updates; its teacher {states['teacher']['accuracy'][probe]:.1f} %, "
        f"pixels {states['pixels'][probe]:.1f} %. Of the {len(states['truth'])} images shown, its neighbours label "
        f"{right} rightly, the teacher's {before}; {moved} labels differ."
    )


def _curves(states: dict, setting: dict, probe: str) -> str:
    others = "".join(
        f'<polyline class="other" points="{curve(states, other, probe)}"/>' for other in states["settings"]
    )
    levels = "".join(
        f'<path class="{name}" d="M0 {height(states, probe, value):.1f}H{WIDTH}"/>'
        for name, value in (("teacher", states["teacher"]["accuracy"][probe]), ("pixels", states["pixels"][probe]))
    )
    return (
        '<figure class="locality-curves"><figcaption>test accuracy of the probe over the student\'s updates, '
        f'<b class="axis">{axis_text(states, probe)}</b> · <span class="key-student">student</span> · '
        '<span class="key-teacher">teacher</span> · <span class="key-pixels">pixels</span></figcaption>'
        f'<svg viewBox="-1 -2 {WIDTH + 2} {HEIGHT + 4}" preserveAspectRatio="none" role="img" '
        f'aria-label="Accuracy over updates; thin lines are the other localities"><g>{others}</g>{levels}'
        f'<polyline class="chosen" points="{curve(states, setting, probe)}"/></svg></figure>'
    )


def _tiles(states: dict, setting: dict, pixels: list[str] | None) -> str:
    classes, truth, taught = states["classes"], states["truth"], states["teacher"]["said"]
    rows = []
    for kind in dict.fromkeys(truth):
        cells = []
        for image in (place for place, true in enumerate(truth) if true == kind):
            said = setting["said"][image]
            marks = [("wrong", said != kind), ("changed", said != taught[image])]
            names = " ".join(["tile", *(name for name, holds in marks if holds)])
            picture = f'<img alt="" src="{escape(pixels[image])}">' if pixels else ""
            cells.append(f'<span class="{names}" data-image="{image}">{picture}<b>{escape(classes[said])}</b></span>')
        rows.append(f'<li><span class="class">{escape(classes[kind])}</span>{"".join(cells)}</li>')
    return f'<ul class="locality-tiles" aria-label="Test images by true class">{"".join(rows)}</ul>'
