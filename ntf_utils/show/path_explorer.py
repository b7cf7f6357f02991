"""The explorer of chapter one: what a model says for each token of a path as training goes on.

The states that it shows come from recorded runs:

    {"graphs": [{"edges": [[u, v], ...],          in token order
                 "start": s, "goal": g,
                 "path": [s, ..., g],             the answer, outwards
                 "arms": [[...], ...]}],          labels of each arm after the start
     "objectives": [{"name": "next_token",        "teacherless" hides the target tokens from the model
                     "title": "Teacher forcing",
                     "order": "forward",          order in which the model writes the path, or "backward"
                     "steps": [0, 50, ...],
                     "predictions": P,            P[graph][step][position] = {"label", "p", "p_true"}
                     "alone": P}]}                optional: the same when the model reads its own tokens

Positions count the target tokens in the order in which the model writes them; `p` is the probability of the
label that the model puts first, `p_true` that of the right one.
"""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from ntf_utils.refusal import Refusal
from ntf_utils.show import path_picture
from ntf_utils.show.explorer import Explorer, choice, page_html

if TYPE_CHECKING:
    from ntf_utils.show.path_live import LiveModel, PathView

_TITLE = "Path explorer: what a model says for each token of the path"
_NOTE = (
    "Pick a token card to light up what a copying model could read for it: yellow tokens and edges "
    "are read, the dashed token was just given. Rings in the graph mark what the model says: solid is right, "
    "dashed is wrong. The small curve is the probability of the right token over training."
)


class PathExplorer(Explorer):
    """Graphs, objectives and training steps to choose from; every target token shows the model's first
    choice.

    Args:
        states: see the module.
        live: makes the model that Jupyter's view computes with; called when it is first needed.

    Raises:
        Refusal: the predictions do not fit the graphs and steps.
    """

    def __init__(self, states: dict, live: "Callable[[], LiveModel] | None" = None) -> None:
        _check(states)
        self.states = states
        self.live = live

    def __repr__(self) -> str:
        graphs, objectives = self.states["graphs"], self.states["objectives"]
        lines = [f"Path explorer: {len(graphs)} graphs; tokens right at the last step:"]
        for objective in objectives:
            counts = [
                sum(
                    path_picture.same(said["label"], label)
                    for said, label in zip(history[-1], path_picture.targets(graph, objective), strict=True)
                )
                for graph, history in zip(graphs, objective["predictions"], strict=True)
            ]
            told = ", ".join(
                f"{count} of {len(graph['path'])}" for count, graph in zip(counts, graphs, strict=True)
            )
            lines.append(f"  {objective['title']} (step {objective['steps'][-1]}): {told}")
        return "\n".join(lines)

    def page(self) -> str:
        graphs, objectives = self.states["graphs"], self.states["objectives"]
        first, at = objectives[0], len(objectives[0]["steps"]) - 1
        position = min(2, min(len(graph["path"]) for graph in graphs) - 1)
        panels = [
            path_picture.panel(graph, first, history, at, position)
            for graph, history in zip(graphs, first["predictions"], strict=True)
        ]
        panels = [panels[0], *(panel.replace("<div", "<div hidden", 1) for panel in panels[1:])]
        controls = choice("graph", "Graph", [str(number + 1) for number in range(len(graphs))])
        controls += choice("objective", "Training", [objective["title"] for objective in objectives])
        if any("alone" in objective for objective in objectives):
            controls += '<label><input type="checkbox" name="alone"> the model reads its own tokens</label>'
        lit = path_picture.shown_clue(graphs[0], first, first["predictions"][0][at], position)
        told = path_picture.summary(
            graphs[0], first, first["predictions"][0][at], first["steps"][at], position, lit
        )
        body = (
            f'<div class="controls">{controls}</div>{_slider(first["steps"])}{"".join(panels)}'
            f'<p class="reading" aria-live="polite">{escape(told)}</p><p class="note">{_NOTE}</p>'
        )
        return page_html("path_explorer", _TITLE, body, self._page_data(position))

    def live_view(self) -> "PathView | None":
        if self.live is None:
            return None
        from ntf_utils.show.path_live import PathView

        return PathView(self.states, self.live).widget

    def _page_data(self, position: int) -> dict:
        """The states in the form that the script reads; clues are listed once and pointed to by number."""
        clues: dict[path_picture.Clue, int] = {}

        def compact(objective: dict, predictions: list, alone: bool) -> list:
            return [
                [[cell(graph, objective, row, place, alone) for place in range(len(row))] for row in history]
                for graph, history in zip(self.states["graphs"], predictions, strict=True)
            ]

        def cell(graph: dict, objective: dict, row: list, place: int, alone: bool) -> list:
            lit = path_picture.shown_clue(graph, objective, row, place, alone)
            said = row[place]
            return [
                said["label"],
                round(said["p"], 3),
                round(said["p_true"], 3),
                clues.setdefault(lit, len(clues)),
            ]

        objectives = [
            {
                "title": objective["title"],
                "order": objective["order"],
                "steps": objective["steps"],
                "shown": compact(objective, objective["predictions"], alone=False),
                "alone": compact(objective, objective["alone"], alone=True) if "alone" in objective else None,
            }
            for objective in self.states["objectives"]
        ]
        return {
            "position": position,
            "graphs": [{"path": graph["path"]} for graph in self.states["graphs"]],
            "objectives": objectives,
            "clues": [[lit.given, lit.read, lit.told] for lit in clues],
        }


def _check(states: dict) -> None:
    """Refuses predictions whose shape does not fit, which a page would show as a dead slider."""
    lengths = [len(graph["path"]) for graph in states["graphs"]]
    for objective in states["objectives"]:
        for kind in ("predictions", "alone"):
            shape = [[len(row) for row in history] for history in objective.get(kind, [])]
            expected = [[length] * len(objective["steps"]) for length in lengths]
            if shape != expected and (kind in objective or kind == "predictions"):
                raise Refusal(
                    f"path explorer: {kind} of {objective['name']!r} must be [graph][step][position] with "
                    f"{len(lengths)} graphs, {len(objective['steps'])} steps, and a position a node"
                )


def _slider(steps: list[int]) -> str:
    """The slider over training, at its last step."""
    last = len(steps) - 1
    return (
        '<div class="time"><button type="button" class="play">Play</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="Training step">'
        f"<output>step {steps[-1]:,}</output></div>"
    )
