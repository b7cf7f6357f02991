"""The picture of the depth explorer: an image, its nearest others in one layer, and curves over depth. HTML from plain
values."""

from html import escape

WIDTH, HEIGHT = 100, 40  # of the curves' drawing area; the picture stretches it


def panel(states: dict, network: dict, asked: int, layer: int) -> str:
    """Tiles and curves of one network, image and layer.

    Args:
        states: see `depth_explorer`. network: one of its networks, or a trained one.
        asked, layer: places in the states' lists.
    """
    return f'<div class="depth-panel">{_tiles(states, network, asked, layer)}{_curves(states, network, layer)}</div>'


def place(states: dict, layer: int) -> float:
    """Where a layer lies in the drawing, from the left."""
    return WIDTH * layer / max(1, len(states["layers"]) - 1)


def curve(states: dict, values: list[float]) -> str:
    """Percentages, a layer each, as points of an SVG polyline."""
    return " ".join(
        f"{place(states, layer):.1f},{HEIGHT * (1 - value / 100):.1f}" for layer, value in enumerate(values)
    )


def summary(states: dict, network: dict, asked: int, layer: int) -> str:
    """The picture in words."""
    image = states["asked"][asked]
    near = network["near"][layer][asked]
    same = sum(states["true"][row] == states["true"][image] for row in near)
    shared = sum(states["labels"][row] == states["labels"][image] for row in near)
    return (
        f"{states['layers'][layer]}, {network['name']}: of the {len(near)} images nearest to this "
        f"{states['true'][image]}, {same} show the same digit and {shared} carry the same random label, "
        f"{states['labels'][image]}. Over all images, neighbours vote rightly on {network['true'][layer]:.1f} % of the "
        f"true labels and on {network['random'][layer]:.1f} % of the random ones. The network itself says "
        f"{network['memorised']:.1f} % of the random labels."
    )


def _tiles(states: dict, network: dict, asked: int, layer: int) -> str:
    image = states["asked"][asked]
    others = "".join(_tile(states, row, image) for row in network["near"][layer][asked])
    return (
        f'<div class="depth-tiles" aria-hidden="true"><div class="asked"><span>image</span>{_tile(states, image)}</div>'
        f'<div class="nearest"><span>nearest others</span><div class="row">{others}</div></div></div>'
    )


def _tile(states: dict, row: int, asked: int | None = None) -> str:
    """A picture and its random label; how it compares with the image asked, where one is given."""
    marks = ["tile"]
    if asked is not None:
        marks += ["same"] * (states["true"][row] == states["true"][asked])
        marks += ["shared"] * (states["labels"][row] == states["labels"][asked])
    return (
        f'<span class="{" ".join(marks)}"><img alt="" src="{escape(states["pictures"][row])}">'
        f"<b>label {int(states['labels'][row])}</b></span>"
    )


def _curves(states: dict, network: dict, layer: int) -> str:
    x = f"{place(states, layer):.1f}"
    return (
        '<figure class="depth-curves"><figcaption>share of right votes, 0 to 100 %, from the first layer to the last · '
        '<span class="key-true">true labels</span> · <span class="key-random">random labels</span></figcaption>'
        f'<svg viewBox="-1 -2 {WIDTH + 2} {HEIGHT + 4}" preserveAspectRatio="none" role="img" '
        'aria-label="Votes on true and on random labels over the depth of the network">'
        f'<path class="axis" d="M0 {HEIGHT}H{WIDTH}"/><path class="here" d="M{x} 0V{HEIGHT}"/>'
        f'<polyline class="true" points="{curve(states, network["true"])}"/>'
        f'<polyline class="random" points="{curve(states, network["random"])}"/></svg></figure>'
    )
