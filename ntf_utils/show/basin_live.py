"""The live face of the basin explorer, for Jupyter: its picture in ipywidgets, and ensembles that train.

The slider walks over the recorded settings. Under it any other setting can be typed in and trained; it then takes its
place among the recorded ones. Choosing another sweep cancels a training.
"""

from collections.abc import Callable
from html import escape
from typing import Protocol

import ipywidgets

from ntf_utils.show import basin_picture
from ntf_utils.show.explorer import style_html
from ntf_utils.show.live_training import LiveTraining, wrapped


class LiveEnsembles(Protocol):
    """What the live face needs."""

    def train(self, sweep: str, value: float, report: Callable[[int, int], None]) -> dict:
        """Trains the ensemble of a sweep at a value and returns it as a stop of the explorer's states.

        Calls `report(updates, of)` often; whatever it raises must pass through.
        """

    def pictures(self) -> list[str]:
        """The shown test images as addresses of pictures."""


class BasinView(LiveTraining):
    """The widgets and what they do. `widget` is the whole view."""

    def __init__(self, states: dict, live: Callable[[], LiveEnsembles]) -> None:
        super().__init__(live, "train a new ensemble at this setting")
        self._states = states
        self._stops = [list(sweep["stops"]) for sweep in states["sweeps"]]  # trained ones come in between
        self._pixels: list[str] | None = None

        titles = [(sweep["title"], place) for place, sweep in enumerate(states["sweeps"])]
        self.sweep = ipywidgets.Dropdown(options=titles, description="Change")
        self.place = ipywidgets.IntSlider(min=0, max=1, description="Setting", readout=False)
        self.where = ipywidgets.Label()
        self.value = ipywidgets.BoundedFloatText(min=0, max=1, step=0.05, description="New setting")
        self.images = ipywidgets.Checkbox(description="show the images", indent=False)
        self.picture = ipywidgets.HTML()
        self.widget = ipywidgets.VBox([
            wrapped(self.sweep, self.images), wrapped(self.place, self.where),
            wrapped(self.value, self.train_button, self.progress, self.status), self.picture,
        ])  # fmt: skip

        self.sweep.observe(self._on_sweep, "value")
        self.place.observe(lambda change: self._draw(), "value")
        self.images.observe(lambda change: self._guarded(self._show_images), "value")
        self._on_sweep({})

    def _shown(self) -> dict:
        stops = self._stops[self.sweep.value]
        return stops[min(self.place.value, len(stops) - 1)]

    def _on_sweep(self, change: dict) -> None:
        self._cancel()
        self.place.max = len(self._stops[self.sweep.value]) - 1
        self.place.value = 0
        self._draw()

    def _draw(self) -> None:
        stop = self._shown()
        self.where.value = f"{stop['title']} ({'live' if stop.get('live') else 'recorded'})"
        self.picture.value = (
            f'{style_html("basin_explorer")}<div class="explorer basin-explorer">'
            f"{basin_picture.panel(self._states, stop, self._pixels)}"
            f'<p class="reading" aria-live="polite">{escape(basin_picture.summary(self._states, stop))}</p></div>'
        )

    def _show_images(self) -> None:
        self._pixels = self._live_model().pictures() if self.images.value else None
        self._draw()

    def _asked(self) -> tuple[int, str, float]:
        return self.sweep.value, self._states["sweeps"][self.sweep.value]["title"], self.value.value

    def _train(self, asked: tuple[int, str, float], report: Callable[[int, int], None]) -> dict:
        _, title, value = asked
        return self._live_model().train(title, value, report) | {"live": True}

    def _take(self, asked: tuple[int, str, float], found: dict) -> None:
        sweep, _, value = asked
        others = [other for other in self._stops[sweep] if not (other.get("live") and other["value"] == value)]
        self._stops[sweep] = sorted([*others, found], key=lambda stop: stop["value"])
        self.place.max = len(self._stops[sweep]) - 1
        self.place.value = self._stops[sweep].index(found)
        self._draw()
