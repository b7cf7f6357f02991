"""The live face of the depth explorer, for Jupyter: its picture in ipywidgets, and networks that train.

Train memorises the same labels with the strength of augmentation that the slider says; the new network joins the list.
Choosing another strength while one trains cancels it: the newest request wins.
"""

from collections.abc import Callable
from html import escape
from typing import Protocol

import ipywidgets

from ntf_utils.show import depth_picture
from ntf_utils.show.explorer import style_html
from ntf_utils.show.live_training import LiveTraining, wrapped


class LiveMemory(Protocol):
    """What the live face needs."""

    def train(self, strength: float, report: Callable[[int, int], None]) -> dict:
        """Memorises with that strength of augmentation and returns a network in the form of the explorer's states.

        Calls `report(updates, of)` often; whatever it raises must pass through.
        """


class DepthView(LiveTraining):
    """The widgets and what they do. `widget` is the whole view."""

    def __init__(self, states: dict, live: Callable[[], LiveMemory]) -> None:
        super().__init__(live, "memorise with this strength of augmentation")
        self._states = states
        self._networks = {network["name"]: network for network in states["networks"]}
        digits = [(str(states["true"][image]), place) for place, image in enumerate(states["asked"])]
        self.network = ipywidgets.Dropdown(options=list(self._networks), description="Network")
        self.image = ipywidgets.Dropdown(options=digits, description="Image of a")
        layers = [(name, place) for place, name in enumerate(states["layers"])]
        self.layer = ipywidgets.SelectionSlider(options=layers, value=0, description="Layer")
        self.strength = ipywidgets.FloatSlider(min=0, max=1, step=0.05, value=0.2, description="Strength")
        self.picture = ipywidgets.HTML()
        self.widget = ipywidgets.VBox([
            wrapped(self.network, self.image), wrapped(self.layer), self.picture,
            wrapped(self.strength, self.train_button, self.progress, self.status),
        ])  # fmt: skip
        for control in (self.network, self.image, self.layer):
            control.observe(lambda change: self._draw(), "value")
        self.strength.observe(lambda change: self._cancel(), "value")
        self._draw()

    def _draw(self) -> None:
        network, asked, layer = self._networks[self.network.value], self.image.value, self.layer.value
        reading = escape(depth_picture.summary(self._states, network, asked, layer))
        self.picture.value = (
            f'{style_html("depth_explorer")}<div class="explorer depth-explorer">'
            f"{depth_picture.panel(self._states, network, asked, layer)}"
            f'<p class="reading" aria-live="polite">{reading}</p></div>'
        )

    def _asked(self) -> float:
        return round(self.strength.value, 4)

    def _train(self, asked: float, report: Callable[[int, int], None]) -> dict:
        return self._live_model().train(asked, report)

    def _take(self, asked: float, found: dict) -> None:
        name = f"{found['name']} (live)"
        self._networks[name] = found
        self.network.options = list(self._networks)
        self.network.value = name
        self._draw()
