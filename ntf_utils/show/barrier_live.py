"""The live face of the barrier explorer, for Jupyter: its picture in ipywidgets, and networks that train.

A setting shows its recorded pair until it has been trained here; then the path is a finer one between new networks.
Choosing another setting cancels a training.
"""

from collections.abc import Callable
from html import escape
from typing import Protocol

import ipywidgets

from ntf_utils.show import barrier_picture
from ntf_utils.show.explorer import style_html
from ntf_utils.show.live_training import LiveTraining, wrapped


class LivePairs(Protocol):
    """What the live face needs."""

    def train(self, title: str, report: Callable[[int, int], None]) -> dict:
        """Trains a setting afresh and returns it in the form of the explorer's states.

        Calls `report(updates, of)` often; whatever it raises must pass through.
        """

    def pictures(self) -> list[str]:
        """The shown test images as addresses of pictures."""


class BarrierView(LiveTraining):
    """The widgets and what they do. `widget` is the whole view."""

    def __init__(self, states: dict, live: Callable[[], LivePairs]) -> None:
        super().__init__(live, "train new networks in this setting")
        self._states = states
        self._settings = list(states["settings"])  # a trained one takes the place of the recorded one
        self._trained: set[int] = set()
        self._pixels: list[str] | None = None

        titles = [(setting["title"], place) for place, setting in enumerate(self._settings)]
        kinds = [(barrier_picture.KINDS[p["kind"]], place) for place, p in enumerate(self._settings[0]["pairs"])]
        self.setting = ipywidgets.Dropdown(options=titles, description="Setting")
        self.pair = ipywidgets.Dropdown(options=kinds, description="Networks")
        self.alpha = ipywidgets.IntSlider(min=0, max=1, description="Position", readout=False)
        self.where = ipywidgets.Label()
        self.images = ipywidgets.Checkbox(description="show the images", indent=False)
        self.picture = ipywidgets.HTML()
        self.widget = ipywidgets.VBox([
            wrapped(self.setting, self.pair, self.images), wrapped(self.alpha, self.where),
            wrapped(self.train_button, self.progress, self.status), self.picture,
        ])  # fmt: skip

        self.setting.observe(self._on_setting, "value")
        self.pair.observe(lambda change: self._draw(), "value")
        self.alpha.observe(lambda change: self._draw(), "value")
        self.images.observe(lambda change: self._guarded(self._show_images), "value")
        self._fit_slider()
        self._draw()

    def _shown(self) -> tuple[dict, dict]:
        setting = self._settings[self.setting.value]
        return setting, setting["pairs"][self.pair.value]

    def _fit_slider(self) -> None:
        """Fits the slider to the shown path and moves it to the middle."""
        points = len(self._shown()[1]["alphas"])
        self.alpha.max = points - 1
        self.alpha.value = points // 2

    def _draw(self) -> None:
        setting, pair = self._shown()
        at = min(self.alpha.value, len(pair["alphas"]) - 1)
        origin = "live" if self.setting.value in self._trained else "recorded"
        self.where.value = f"α = {pair['alphas'][at]:.3f} ({origin})"
        self.picture.value = (
            f'{style_html("barrier_explorer")}<div class="explorer barrier-explorer">'
            f"{barrier_picture.panel(self._states, pair, at, self._pixels)}"
            f'<p class="reading" aria-live="polite">{escape(barrier_picture.summary(setting, pair, at))}</p></div>'
        )

    def _on_setting(self, change: dict) -> None:
        self._cancel()
        self._fit_slider()
        self._draw()

    def _show_images(self) -> None:
        self._pixels = self._live_model().pictures() if self.images.value else None
        self._draw()

    def _asked(self) -> tuple[int, str]:
        return self.setting.value, self._settings[self.setting.value]["title"]

    def _train(self, asked: tuple[int, str], report: Callable[[int, int], None]) -> dict:
        _, title = asked
        return self._live_model().train(title, report)

    def _take(self, asked: tuple[int, str], found: dict) -> None:
        place, _ = asked
        self._settings[place] = found
        self._trained.add(place)
        self._fit_slider()
        self._draw()
