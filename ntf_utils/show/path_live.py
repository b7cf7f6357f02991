"""The live face of the path explorer, for Jupyter: its picture in ipywidgets, and a model that trains.

Recorded graphs show recorded predictions until a training is started for their objective; from then on, and
for newly drawn graphs, the live model answers. Changing the objective cancels a training.
"""

import threading
from collections.abc import Callable
from html import escape
from typing import Protocol

import ipywidgets

from ntf_utils.show import path_picture
from ntf_utils.show.explorer import style_html
from ntf_utils.show.live_training import LiveTraining, wrapped


class LiveModel(Protocol):
    """What the live face needs. Graphs and predictions have the form of the explorer's states."""

    def draw_graph(self) -> dict:
        """A new random graph."""

    def train(self, objective: str, report: Callable[[int, int], None]) -> None:
        """Trains afresh; calls `report(step, last_step)` often, after keeping the weights where it wants to.

        Returns at `last_step`. Whatever `report` raises must pass through.
        """

    def checkpoints(self, objective: str) -> list[int]:
        """Steps at which weights are at hand, in increasing order; empty before any training."""

    def predict(self, objective: str, graph: dict, step: int, alone: bool) -> list[dict]:
        """[position] predictions at one of the checkpoints; `alone` feeds the model its own tokens.

        May be called while `train` runs in another thread.
        """


class PathView(LiveTraining):
    """The widgets and what they do. `widget` is the whole view."""

    def __init__(self, states: dict, live: Callable[[], LiveModel]) -> None:
        super().__init__(live, "train this objective afresh")
        self._states = states
        self._graphs = list(states["graphs"])
        self._trained: set[str] = set()  # objectives for which the live model answers
        self._answers: dict[
            tuple, list[dict]
        ] = {}  # (objective, graph, alone, step) -> what the live model said

        objectives = states["objectives"]
        self.graph = ipywidgets.Dropdown(
            options=_numbered(self._graphs, len(self._graphs)), description="Graph"
        )
        self.objective = ipywidgets.Dropdown(
            options=[(objective["title"], index) for index, objective in enumerate(objectives)],
            description="Training",
        )
        self.alone = ipywidgets.Checkbox(description="the model reads its own tokens", indent=False)
        self.step = ipywidgets.IntSlider(min=0, max=0, description="Step", readout=False)
        self.token = ipywidgets.IntSlider(min=1, max=1, description="Token", tooltip="whose clue is lit up")
        self.when = ipywidgets.Label()
        self.draw_button = ipywidgets.Button(
            description="New graph", tooltip="draw another graph; the live model answers"
        )
        self.picture = ipywidgets.HTML()
        self.widget = ipywidgets.VBox([
            wrapped(self.graph, self.objective, self.alone), wrapped(self.step, self.when, self.token),
            wrapped(self.draw_button, self.train_button, self.progress, self.status), self.picture,
        ])  # fmt: skip

        self.graph.observe(self._on_graph, "value")
        self.objective.observe(self._on_objective, "value")
        for control in (self.step, self.token, self.alone):
            control.observe(lambda change: self._draw(), "value")
        self.draw_button.on_click(lambda button: self._guarded(self._draw_graph))
        self._fit_controls(to_last_step=True)
        self.token.value = min(3, self.token.max)
        self._draw()

    # what is shown

    def _shown(self) -> tuple[dict, dict]:
        return self._graphs[self.graph.value], self._states["objectives"][self.objective.value]

    def _is_live(self) -> bool:
        """Whether the live model answers: it was trained for this, or the graph is a drawn one."""
        _, objective = self._shown()
        return objective["name"] in self._trained or self.graph.value >= len(self._states["graphs"])

    def _steps(self) -> list[int]:
        _, objective = self._shown()
        return self._live_model().checkpoints(objective["name"]) if self._is_live() else objective["steps"]

    def _history(self, steps: list[int]) -> list[list[dict]]:
        """[step][position] predictions, recorded or of the live model."""
        _, objective = self._shown()
        if self._is_live():
            return [self._answer(objective["name"], step) for step in steps]
        return objective["alone" if self.alone.value and "alone" in objective else "predictions"][
            self.graph.value
        ]

    def _answer(self, objective: str, step: int) -> list[dict]:
        """The live model's predictions at one checkpoint, asked once."""
        key = (objective, self.graph.value, self.alone.value, step)
        if key not in self._answers:
            graph = self._graphs[self.graph.value]
            self._answers[key] = self._live_model().predict(objective, graph, step, self.alone.value)
        return self._answers[key]

    def _draw(self) -> None:
        self._guarded(self._draw_now)

    def _draw_now(self) -> None:
        steps = self._steps()
        if not steps:
            self.picture.value = ""
            self.when.value = ""
            self._say("No weights for this objective yet: press Train.")
            return
        graph, objective = self._shown()
        at, position = self.step.value, self.token.value - 1
        history = self._history(steps)
        lit = path_picture.shown_clue(graph, objective, history[at], position, self.alone.value)
        told = path_picture.summary(graph, objective, history[at], steps[at], position, lit)
        self.when.value = f"{steps[at]:,} ({'live' if self._is_live() else 'recorded'})"
        self.picture.value = (
            f'{style_html("path_explorer")}<div class="explorer path-explorer">'
            f"{path_picture.panel(graph, objective, history, at, position, self.alone.value)}"
            f'<p class="reading" aria-live="polite">{escape(told)}</p></div>'
        )

    def _fit_controls(self, to_last_step: bool) -> None:
        """Fits sliders and checkbox to the shown graph, objective and checkpoints."""
        graph, objective = self._shown()
        last = max(0, len(self._steps()) - 1)
        self.step.max = last
        if to_last_step:
            self.step.value = last
        self.token.max = len(graph["path"])
        self.alone.disabled = not (self._is_live() or "alone" in objective)

    # what the reader does

    def _on_graph(self, change: dict) -> None:
        self._guarded(lambda: self._fit_controls(to_last_step=False))
        self._draw()

    def _on_objective(self, change: dict) -> None:
        self._cancel()
        self._guarded(lambda: self._fit_controls(to_last_step=True))
        self._draw()

    def _draw_graph(self) -> None:
        self._graphs.append(self._live_model().draw_graph())
        self.graph.options = _numbered(self._graphs, len(self._states["graphs"]))
        self.graph.value = len(self._graphs) - 1

    def _asked(self) -> str:
        return self._shown()[1]["name"]

    def _work(self, asked: str, stop: threading.Event) -> None:
        self._answers = {key: answer for key, answer in self._answers.items() if key[0] != asked}

        def report(step: int, last_step: int) -> None:
            self._reported(stop, step, last_step)
            if self._live_model().checkpoints(asked):
                self._trained.add(asked)
                self._guarded(lambda: self._fit_controls(to_last_step=True))
                self._draw_now()

        self._live_model().train(asked, report)


def _numbered(graphs: list[dict], recorded: int) -> list[tuple[str, int]]:
    return [
        (f"recorded {index + 1}" if index < recorded else f"drawn {index + 1 - recorded}", index)
        for index in range(len(graphs))
    ]
