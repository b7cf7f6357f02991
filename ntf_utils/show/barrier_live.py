"""The live face of the barrier explorer, for Jupyter: its picture in ipywidgets, and networks that train.

A setting shows its recorded pair until it has been trained here; then the path is a finer one between new networks.
Training runs in a thread. Starting another one, pressing Stop or choosing another setting cancels it: its next report
raises `Cancelled` inside the model's `train`, and nothing stale is shown.
"""

import threading
from collections.abc import Callable
from html import escape
from typing import Protocol

import ipywidgets

from ntf_utils.show import barrier_picture
from ntf_utils.show.explorer import style_html


class Cancelled(Exception):
    """Raised out of `report` in a training that nobody waits for any more; `train` lets it pass."""


class LivePairs(Protocol):
    """What the live face needs."""

    def train(self, title: str, report: Callable[[int, int], None]) -> dict:
        """Trains a setting afresh and returns it in the form of the explorer's states.

        Calls `report(updates, of)` often; whatever it raises must pass through.
        """

    def pictures(self) -> list[str]:
        """The shown test images as addresses of pictures."""


class BarrierView:
    """The widgets and what they do. `widget` is the whole view."""

    def __init__(self, states: dict, live: Callable[[], LivePairs]) -> None:
        self._states = states
        self._make_live = live
        self._model: LivePairs | None = None
        self._settings = list(states["settings"])  # a trained one takes the place of the recorded one
        self._trained: set[int] = set()
        self._pixels: list[str] | None = None
        self._stop = threading.Event()  # of the training that runs now
        self._thread: threading.Thread | None = None

        titles = [(setting["title"], place) for place, setting in enumerate(self._settings)]
        kinds = [(barrier_picture.KINDS[p["kind"]], place) for place, p in enumerate(self._settings[0]["pairs"])]
        self.setting = ipywidgets.Dropdown(options=titles, description="Setting")
        self.pair = ipywidgets.Dropdown(options=kinds, description="Networks")
        self.alpha = ipywidgets.IntSlider(min=0, max=1, description="Position", readout=False)
        self.where = ipywidgets.Label()
        self.train_button = ipywidgets.Button(description="Train", tooltip="train new networks in this setting")
        self.images = ipywidgets.Checkbox(description="show the images", indent=False)
        self.progress = ipywidgets.IntProgress(min=0, max=1, layout=ipywidgets.Layout(visibility="hidden"))
        self.status = ipywidgets.HTML()
        self.picture = ipywidgets.HTML()
        rows = [[self.setting, self.pair, self.images], [self.alpha, self.where],
                [self.train_button, self.progress, self.status]]  # fmt: skip
        wrapped = ipywidgets.Layout(flex_flow="row wrap")
        self.widget = ipywidgets.VBox([*(ipywidgets.HBox(row, layout=wrapped) for row in rows), self.picture])

        self.setting.observe(self._on_setting, "value")
        self.pair.observe(lambda change: self._draw(), "value")
        self.alpha.observe(lambda change: self._draw(), "value")
        self.images.observe(lambda change: self._guarded(self._show_images), "value")
        self.train_button.on_click(lambda button: self._guarded(self._train_or_stop))
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

    def _train_or_stop(self) -> None:
        if self._training():
            self._cancel()
            self._say("Training stopped.")
            return
        self._stop = threading.Event()
        place = self.setting.value
        arguments = (place, self._settings[place]["title"], self._stop, self._thread)
        self._thread = threading.Thread(target=self._train, args=arguments, daemon=True)
        self.train_button.description = "Stop"
        self.progress.value = 0
        self.progress.layout.visibility = "visible"
        self._say("Training …")
        self._thread.start()

    def _train(self, place: int, title: str, stop: threading.Event, stale: threading.Thread | None) -> None:
        """Runs in the thread; `stop` belongs to this training alone: a stale one stays silent."""
        if stale is not None:
            stale.join()

        def report(done: int, last: int) -> None:
            if stop.is_set():
                raise Cancelled
            if done % max(1, last // 100) == 0:
                self.progress.max, self.progress.value = last, done
                self._say(f"Training: update {done:,} of {last:,}")

        try:
            found = self._live_model().train(title, report)
        except Cancelled:
            return
        except Exception as error:
            if not stop.is_set():
                self._end(f"Training failed: {type(error).__name__}: {error}", alarm=True)
            return
        if not stop.is_set():
            self._settings[place] = found
            self._trained.add(place)
            self._fit_slider()
            self._draw()
            self._end("Training done.")

    def _cancel(self) -> None:
        if self._training():
            self._stop.set()
            self._end("Training cancelled.")

    def _training(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and not self._stop.is_set()

    def _end(self, sentence: str, alarm: bool = False) -> None:
        self.train_button.description = "Train"
        self.progress.layout.visibility = "hidden"
        self._say(sentence, alarm)

    def _live_model(self) -> LivePairs:
        if self._model is None:
            self._model = self._make_live()
        return self._model

    def _guarded(self, action: Callable[[], None]) -> None:
        """An error in a callback would only reach a log; it is shown in the view instead."""
        try:
            action()
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}", alarm=True)

    def _say(self, sentence: str, alarm: bool = False) -> None:
        role, style = ("alert", "color:#c04a00;font-weight:600") if alarm else ("status", "")
        self.status.value = f'<span role="{role}" style="{style}">{escape(sentence)}</span>'
