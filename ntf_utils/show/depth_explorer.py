"""The explorer of the chapter on benign memorization: what is near to an image, layer by layer?

The states that it shows come from recorded runs on digits:

    {"layers": ["stem", "group 1", ...],               in order
     "true": [3, 0, ...], "labels": [7, 7, ...],       digit and random label of each memorised image
     "pictures": ["data:image/png;base64,...", ...],   of each
     "asked": [12, 40, ...],                           the images that can be asked about
     "networks": [{"name": "before training", "strength": None,
                   "memorised": 9.8,                   percent of the random labels that it says
                   "true": [...], "random": [...],     votes of the nearest that are right, percent, a layer each
                   "near": [[[5, 9, ...], ...], ...]}]}    [layers][asked] rows of the nearest others
"""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from ntf_utils.refusal import Refusal
from ntf_utils.show import depth_picture
from ntf_utils.show.explorer import Explorer, choice, page_html

if TYPE_CHECKING:
    import ipywidgets

    from ntf_utils.show.depth_live import LiveMemory

TITLE = "Depth explorer: what is near to an image in each layer of a network that memorised random labels"
NOTE = (
    "All images shown were memorised, each with a random label, which stands below it. Solid green frame: the same "
    "digit as the image asked. Dashed orange label: the same random label."
)


class DepthExplorer(Explorer):
    """A slider over the layers, a choice of network and one of image.

    Args:
        states: see the module.
        live: makes the model that Jupyter's view trains with; called when it is first needed.

    Raises:
        Refusal: there is no network, or its lists do not fit the layers and images.
    """

    def __init__(self, states: dict, live: "Callable[[], LiveMemory] | None" = None) -> None:
        _check(states)
        self.states = states
        self.live = live

    def __repr__(self) -> str:
        states = self.states
        lines = [f"Depth explorer: {len(states['asked'])} images asked; right votes by layer, %, true / random labels:"]
        for network in states["networks"]:
            pairs = zip(network["true"], network["random"], strict=True)
            votes = (f"{true:.0f}/{random:.0f}" for true, random in pairs)
            lines.append(f"  {network['name']}: {' '.join(votes)}")
        return "\n".join(lines)

    def page(self) -> str:
        states = self.states
        network = states["networks"][0]
        digits = [str(states["true"][image]) for image in states["asked"]]
        body = (
            f'<div class="controls">{choice("network", "Network", [each["name"] for each in states["networks"]])}'
            f"{choice('image', 'Image of a', digits)}</div>{_slider(states['layers'])}"
            f"{depth_picture.panel(states, network, 0, 0)}"
            f'<p class="reading" aria-live="polite">{escape(depth_picture.summary(states, network, 0, 0))}</p>'
            f'<p class="note">{NOTE}</p>'
        )
        return page_html("depth_explorer", TITLE, body, self._page_data())

    def live_view(self) -> "ipywidgets.Widget | None":
        if self.live is None:
            return None
        from ntf_utils.show.depth_live import DepthView

        return DepthView(self.states, self.live).widget

    def _page_data(self) -> dict:
        """The states in the form that the script reads: only the pictures that it can come to show."""
        states, layers = self.states, range(len(self.states["layers"]))
        rows = {row for network in states["networks"] for layer in network["near"] for near in layer for row in near}
        return {
            "layers": states["layers"], "asked": states["asked"],
            "images": {
                row: [states["true"][row], states["labels"][row], states["pictures"][row]]
                for row in sorted(rows | set(states["asked"]))
            },
            "places": [f"{depth_picture.place(states, layer):.1f}" for layer in layers],
            "networks": [{
                "near": network["near"], "true": depth_picture.curve(states, network["true"]),
                "random": depth_picture.curve(states, network["random"]),
                "words": [
                    [depth_picture.summary(states, network, asked, layer) for asked in range(len(states["asked"]))]
                    for layer in layers
                ],
            } for network in states["networks"]],
        }  # fmt: skip


def _check(states: dict) -> None:
    """Refuses lists whose lengths do not fit, which a page would show as a dead slider."""
    if not states["networks"] or not states["asked"]:
        raise Refusal("depth explorer: there is no network or no image to show")
    layers, asked, images = (len(states[name]) for name in ("layers", "asked", "true"))
    if not images == len(states["labels"]) == len(states["pictures"]):
        raise Refusal(f"depth explorer: each of {images} images needs a random label and a picture")
    for network in states["networks"]:
        where = f"depth explorer: the network {network['name']!r}"
        if not layers == len(network["true"]) == len(network["random"]) == len(network["near"]):
            raise Refusal(f"{where} must say something of each of {layers} layers")
        if any(len(near) != asked for near in network["near"]):
            raise Refusal(f"{where} must have neighbours of each of {asked} images")
        if any(not 0 <= row < images for layer in network["near"] for near in layer for row in near):
            raise Refusal(f"{where} names images that are not there")


def _slider(layers: list[str]) -> str:
    return (
        f'<div class="time"><span class="from">images</span><input type="range" min="0" max="{len(layers) - 1}" '
        f'value="0" aria-label="Layer, from the first to the last"><output>{escape(layers[0])}</output></div>'
    )
