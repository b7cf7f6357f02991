"""The live side of the path explorer: draws graphs, trains a path finder and answers from its checkpoints."""

import copy
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch

from ntf_utils.data.star_graphs import StarGraphs, StarTask, draw_star_graphs
from ntf_utils.papers.next_token_pitfalls.path_finder import (
    Lessons,
    PathFinderConfig,
    answers,
    build_model,
    probe_graphs,
    recipe_of,
)
from ntf_utils.training.device import default_device
from ntf_utils.training.loop import train

TITLES = {
    "next_token": "Teacher forcing",
    "reversed": "Reversed targets",
    "teacherless": "Teacherless",
}


def picture_of(graphs: StarGraphs) -> list[dict[str, Any]]:
    """Each graph as plain labels: edges in token order, start, goal, path and arms."""
    return [
        {"edges": edges, "start": start, "goal": goal, "path": path, "arms": arms}
        for edges, start, goal, path, arms in zip(
            graphs.edges.tolist(),
            graphs.start.tolist(),
            graphs.goal.tolist(),
            graphs.path().tolist(),
            graphs.arms.tolist(),
            strict=True,
        )
    ]


def recorded_states(configs: list[PathFinderConfig], probes: pd.DataFrame) -> dict[str, Any]:
    """The explorer's states from recorded runs, one run an objective.

    Args:
        configs: of the runs to show; their probe graphs are the same.
        probes: their "probes" curves, with the column `objective`.
    """
    objectives = []
    for config in configs:
        seen = probes[probes["objective"] == config.objective]
        objective = {
            "name": config.objective,
            "title": TITLES[config.objective],
            "order": "backward" if config.objective == "reversed" else "forward",
            "steps": sorted(seen["step"].unique().tolist()),
            "predictions": _nested(seen[~seen["alone"].astype(bool)]),
        }
        if seen["alone"].any():
            objective["alone"] = _nested(seen[seen["alone"].astype(bool)])
        objectives.append(objective)
    return {"graphs": picture_of(probe_graphs(configs[0])), "objectives": objectives}


def _nested(seen: pd.DataFrame) -> list[list[list[dict[str, Any]]]]:
    """[graph][step][position] of {label, p, p_true}."""
    return [
        [
            at.sort_values("position")[["label", "p", "p_true"]].to_dict("records")
            for _, at in of_graph.groupby("step", sort=True)
        ]
        for _, of_graph in seen.groupby("graph", sort=True)
    ]


class LivePathFinder:
    """Trains the model of `config` for one objective at a time and keeps a checkpoint at each look.

    Implements what `PathExplorer(live=...)` asks for.
    """

    def __init__(self, config: PathFinderConfig):
        self.config = config
        self.device = default_device()
        self.random = torch.Generator(self.device)
        self.random.seed()  # a reader who asks for a new graph wants one never seen
        self._kept: dict[str, dict[int, dict[str, torch.Tensor]]] = {}

    def draw_graph(self) -> dict[str, Any]:
        """A new random graph of the config's size."""
        return picture_of(draw_star_graphs(self.config.task, 1, self.random))[0]

    def train(self, objective: str, report: Callable[[int, int], None]) -> None:
        """Trains afresh; `report(step, last_step)` follows every update, and may raise to end it."""
        config = self.config.but(objective=objective, seed=int(torch.randint(1, 2**20, ()).item()))
        torch.manual_seed(config.seed)
        model = build_model(config).to(self.device)
        lessons, kept = Lessons(config, self.device), {}
        self._kept[objective] = kept
        done = 0

        def next_lesson():
            nonlocal done
            report(done, config.steps)
            done += 1
            return lessons.next()

        def keep(step: int, loss: float) -> bool:
            kept[step] = copy.deepcopy(model.state_dict())
            return False

        train(model, next_lesson, recipe_of(config, self.device), keep, config.looks)
        report(config.steps, config.steps)

    def checkpoints(self, objective: str) -> list[int]:
        """Steps at which weights were kept."""
        return sorted(self._kept.get(objective, {}))

    def predict(self, objective: str, graph: dict[str, Any], step: int, alone: bool) -> list[dict[str, Any]]:
        """[position] of {label, p, p_true} by the weights of one checkpoint."""
        model = build_model(self.config).to(self.device)
        model.load_state_dict(self._kept[objective][step])
        said = answers(model.eval(), self._as_batch(graph), objective, alone)
        names = ("label", "p", "p_true")
        return [dict(zip(names, (column[0, i].item() for column in said), strict=True)) for i in range(len(said[0][0]))]

    def _as_batch(self, graph: dict[str, Any]) -> StarGraphs:
        columns = (torch.tensor([graph[name]], device=self.device) for name in ("start", "arms", "edges"))
        return StarGraphs(self.config.task, *columns)


def task_name(task: StarTask) -> str:
    """e.g. `G(2,5), 9 labels`."""
    return f"G({task.degree},{task.path_length}), {task.labels} labels"
