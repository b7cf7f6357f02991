"""What the explorers' live views share: a Train button, its thread, its progress, and the last word on errors.

Training runs in a thread. Starting another one, pressing Stop or changing what is shown cancels it: its next report
raises `Cancelled` inside the model's `train`, and nothing stale is shown.
"""

import threading
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets


class Cancelled(Exception):
    """Raised out of `report` in a training that nobody waits for any more; `train` lets it pass."""


class LiveTraining:
    """The widgets `train_button`, `progress` and `status`, and what they do.

    A subclass says `_asked`, `_train` and `_take`.

    Args:
        live: makes the model; called when it is first needed.
        tooltip: of the button.
    """

    def __init__(self, live: Callable[[], Any], tooltip: str) -> None:
        self._make_live = live
        self._model: Any = None
        self._stop = threading.Event()  # of the training that runs now
        self._thread: threading.Thread | None = None
        self.train_button = ipywidgets.Button(description="Train", tooltip=tooltip)
        self.progress = ipywidgets.IntProgress(min=0, max=1, layout=ipywidgets.Layout(visibility="hidden"))
        self.status = ipywidgets.HTML()
        self.train_button.on_click(lambda button: self._guarded(self._train_or_stop))

    def _asked(self) -> Any:
        """What a press of Train asks for, as the view stands."""
        raise NotImplementedError

    def _work(self, asked: Any, stop: threading.Event) -> None:
        """Trains, in the thread, and shows what comes out, once it is done. A view that draws on the way has its own.

        Raises:
            Cancelled: `stop` was set; it belongs to this training alone.
        """

        def report(done: int, last: int) -> None:
            if stop.is_set() or done % max(1, last // 100) == 0:
                self._reported(stop, done, last)

        found = self._train(asked, report)
        if stop.is_set():
            raise Cancelled
        self._take(asked, found)

    def _train(self, asked: Any, report: Callable[[int, int], None]) -> Any:
        """Trains what was asked for, and calls report(done, last) before every update."""
        raise NotImplementedError

    def _take(self, asked: Any, found: Any) -> None:
        """Shows what a training has found."""
        raise NotImplementedError

    def _train_or_stop(self) -> None:
        if self._training():
            self._cancel()
            self._say("Training stopped.")
            return
        self._stop = threading.Event()
        arguments = (self._asked(), self._stop, self._thread)
        self._thread = threading.Thread(target=self._run, args=arguments, daemon=True)
        self.train_button.description = "Stop"
        self.progress.value = 0
        self.progress.layout.visibility = "visible"
        self._say("Training …")
        self._thread.start()

    def _run(self, asked: Any, stop: threading.Event, stale: threading.Thread | None) -> None:
        """Runs in the thread; a stale training stays silent."""
        if stale is not None:
            stale.join()  # it ends at its next report; two trainings must not write one model's weights
        try:
            self._work(asked, stop)
        except Cancelled:
            return
        except Exception as error:
            if not stop.is_set():
                self._end(f"Training failed: {type(error).__name__}: {error}", alarm=True)
            return
        if not stop.is_set():
            self._end("Training done.")

    def _reported(self, stop: threading.Event, done: int, last: int) -> None:
        """Shows how far a training is, or ends one that nobody waits for."""
        if stop.is_set():
            raise Cancelled
        self.progress.max, self.progress.value = last, done
        self._say(f"Training: step {done:,} of {last:,}")

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

    def _live_model(self) -> Any:
        if self._model is None:
            self._model = self._make_live()
        return self._model

    def _guarded(self, action: Callable[[], None]) -> None:
        """An error in a callback would only reach a log; it is shown in the view instead."""
        try:
            action()
        except Cancelled:
            raise
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}", alarm=True)

    def _say(self, sentence: str, alarm: bool = False) -> None:
        self.status.value = status_html(sentence, alarm)


def status_html(sentence: str, alarm: bool = False) -> str:
    """What a view says of itself; an alarm is read out at once."""
    role, style = ("alert", "color:#c04a00;font-weight:600") if alarm else ("status", "")
    return f'<span role="{role}" style="{style}">{escape(sentence)}</span>'


def wrapped(*widgets: ipywidgets.Widget) -> ipywidgets.HBox:
    """A row that breaks where it is narrow."""
    return ipywidgets.HBox(widgets, layout=ipywidgets.Layout(flex_flow="row wrap"))
