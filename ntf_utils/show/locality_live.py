"""The live face of the locality explorer, for Jupyter: its picture in ipywidgets, and students that train.

The slider takes any locality. Where a recorded run has the same one, it is shown; Train makes a student of just that
locality. Moving the slider while a student trains cancels it: the newest request wins.
"""

from collections.abc import Callable
from html import escape
from typing import Protocol

import ipywidgets

from ntf_utils.papers.random_teachers.effects import NAMES
from ntf_utils.show import locality_picture
from ntf_utils.show.explorer import style_html
from ntf_utils.show.live_training import LiveTraining, wrapped


class LiveStudent(Protocol):
    """What the live face needs."""

    def train(self, locality: float, report: Callable[[int, int], None]) -> dict:
        """Distils a student from that start and returns it in the form of the explorer's settings.

        Calls `report(updates, of)` often; whatever it raises must pass through.
        """

    def pictures(self) -> list[str]:
        """The shown test images as addresses of pictures."""


class LocalityView(LiveTraining):
    """The widgets and what they do. `widget` is the whole view."""

    def __init__(self, states: dict, live: Callable[[], LiveStudent]) -> None:
        super().__init__(live, "train a student that starts at this locality")
        self._states = states
        self._settings = {setting["locality"]: setting for setting in states["settings"]}
        self._trained: set[float] = set()
        self._pixels: list[str] | None = None

        names = [(NAMES[probe], probe) for probe in states["pixels"]]
        self.probe = ipywidgets.Dropdown(options=names, description="Probe")
        first = states["settings"][0]["locality"]
        self.locality = ipywidgets.FloatSlider(
            min=0, max=1, step=0.05, value=round(first, 2), description="Locality", readout_format=".2f"
        )
        self.where = ipywidgets.Label()
        self.images = ipywidgets.Checkbox(description="show the images", indent=False)
        self.picture = ipywidgets.HTML()
        self.widget = ipywidgets.VBox([
            wrapped(self.probe, self.images), wrapped(self.locality, self.where),
            wrapped(self.train_button, self.progress, self.status), self.picture,
        ])  # fmt: skip

        self.probe.observe(lambda change: self._draw(), "value")
        self.locality.observe(self._on_locality, "value")
        self.images.observe(lambda change: self._guarded(self._show_images), "value")
        self._draw()

    def _shown(self) -> dict:
        """The setting nearest to the slider."""
        return self._settings[min(self._settings, key=lambda known: abs(known - self.locality.value))]

    def _draw(self) -> None:
        setting = self._shown()
        known = setting["locality"]
        near = abs(known - self.locality.value) < 0.01
        origin = "live" if known in self._trained else "recorded"
        self.where.value = f"shown: {known:g} ({origin})" + ("" if near else "; press Train for this one")
        reading = escape(locality_picture.summary(self._states, setting, self.probe.value))
        self.picture.value = (
            f'{style_html("locality_explorer")}<div class="explorer locality-explorer">'
            f"{locality_picture.panel(self._states, setting, self.probe.value, self._pixels)}"
            f'<p class="reading" aria-live="polite">{reading}</p></div>'
        )

    def _on_locality(self, change: dict) -> None:
        self._cancel()
        self._draw()

    def _show_images(self) -> None:
        self._pixels = self._live_model().pictures() if self.images.value else None
        self._draw()

    def _asked(self) -> float:
        return round(self.locality.value, 4)

    def _train(self, asked: float, report: Callable[[int, int], None]) -> dict:
        return self._live_model().train(asked, report)

    def _take(self, asked: float, found: dict) -> None:
        self._settings[asked] = found
        self._trained.add(asked)
        self._draw()
