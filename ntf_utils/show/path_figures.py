"""The figures of the next-token chapter, drawn from tables of runs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntf_utils.show.style import COLOURS

NAMES = {
    "next_token": "teacher forcing",
    "reversed": "reversed targets",
    "teacherless": "teacherless",
    "hop_only": "hop token only",
    "mamba": "Mamba, teacher forcing",
    "shuffled": "control: query tells nothing",
}
INITS = {"mimetic": "mimetic (ours)", "fan_in": "by fan-in", "gpt2": "N(0, 0.02) (authors')"}
INIT_LINES = {"mimetic": "-", "fan_in": "--", "gpt2": ":"}


def token_labels(path_length: int) -> list[str]:
    """start, hop, 3, ..., goal."""
    return ["start", "hop", *(str(i + 1) for i in range(2, path_length - 1)), "goal"]


def accuracy_by_token(
    arms: dict[str, pd.DataFrame], path_length: int, degree: int, prefix: str = "forced"
) -> Figure:
    """Accuracy of each token along the path, a line a method: mean over seeds, the seeds as dots.

    Args:
        arms: method (a key of NAMES) -> table with a row a seed and the columns `<prefix>_1` ... `<prefix>_l`;
            `hop_only` has one token, the hop, and gets its seeds' dots with a bar at their mean.
        prefix: "forced" (the true path so far is shown) or "own" (the model reads its own tokens).
    """
    figure, axes = plt.subplots()
    places = np.arange(path_length)
    for shift, (method, table) in zip(_dodge(len(arms)), arms.items(), strict=True):
        asked = places[1:2] if method == "hop_only" else places
        columns = [f"{prefix}_{i + 1}" for i in range(len(asked))]
        accuracy = 100 * table[columns].to_numpy(dtype=float)  # [seeds, tokens]
        colour = COLOURS[method]
        axes.plot(asked + shift, accuracy.T, "o", color=colour, alpha=0.35, markersize=4, markeredgewidth=0)
        line = {"linestyle": "none", "marker": "_", "markersize": 14} if len(asked) == 1 else {}
        axes.plot(asked + shift, accuracy.mean(0), color=colour, label=NAMES[method], **line)
    _chance_line(axes, degree)
    axes.set_xticks(places, token_labels(path_length))
    axes.set(xlabel="token of the path", ylabel="accuracy on unseen graphs, %", ylim=(-3, 105))
    _legend(axes)
    return figure


def learning_by_token(curves: dict[str, pd.DataFrame], path_length: int, degree: int) -> Figure:
    """Accuracy of each token over training, a panel a method; thin lines are seeds, thick lines their median.

    Args:
        curves: method -> long table with `step`, `seed` and `token_1` ... `token_l`.
    """
    figure, panels = plt.subplots(
        1, len(curves), figsize=(3.4 * len(curves), 3.4), sharey=True, squeeze=False
    )
    shades = plt.colormaps["viridis"](np.linspace(0, 0.9, path_length))
    for axes, (method, table) in zip(panels[0], curves.items(), strict=True):
        for place, name in enumerate(token_labels(path_length)):
            column = f"token_{place + 1}"
            for _, run in table.groupby("seed"):
                axes.plot(run["step"], 100 * run[column], color=shades[place], alpha=0.25, linewidth=0.8)
            median = _median(table, column)
            axes.plot(median.index, 100 * median, color=shades[place], label=name)
        _chance_line(axes, degree)
        axes.set(title=NAMES[method], xlabel="training step", ylim=(-3, 105))
    panels[0, 0].set_ylabel("accuracy, %")
    panels[0, -1].legend(title="token", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def exact_over(table: pd.DataFrame, column: str, label: str) -> Figure:
    """Exact match against a property of the graph, a line an objective: mean over seeds, the seeds as dots.

    Args:
        table: rows with `exact`, `objective`, `degree` and the column.
        column: e.g. `path_length` or `labels`.
    """
    figure, axes = plt.subplots()
    methods = [method for method in NAMES if method in set(table["objective"])]
    values = sorted(table[column].unique())
    places = {value: place for place, value in enumerate(values)}
    for shift, method in zip(_dodge(len(methods)), methods, strict=True):
        rows = table[table["objective"] == method]
        axes.plot(
            rows[column].map(places) + shift, 100 * rows["exact"], "o",
            color=COLOURS[method], alpha=0.45, markersize=5, markeredgewidth=0,
        )  # fmt: skip
        mean = rows.groupby(column)["exact"].mean()
        axes.plot(mean.index.map(places) + shift, 100 * mean, "-", color=COLOURS[method], label=NAMES[method])
    for degree in sorted(table["degree"].unique()):
        _chance_line(axes, degree)
    axes.set_xticks(range(len(values)), [str(value) for value in values])
    axes.set(xlabel=label, ylabel="exact match on unseen graphs, %", ylim=(-3, 105))
    _legend(axes)
    return figure


def exact_over_training(curves: pd.DataFrame) -> Figure:
    """Exact match of reversed training, a line an initialisation; thin lines are seeds, thick ones their median.

    Args:
        curves: long table with `step`, `seed`, `init` and `exact`.
    """
    figure, axes = plt.subplots()
    colour = COLOURS["reversed"]
    for init, table in curves.groupby("init"):
        for _, run in table.groupby("seed"):
            axes.plot(run["step"], 100 * run["exact"], INIT_LINES[init], color=colour, alpha=0.35, linewidth=0.9)
        median = _median(table, "exact")
        axes.plot(median.index, 100 * median, INIT_LINES[init], color=colour, label=INITS[init])
    axes.set(xlabel="training step", ylabel="exact match, %", ylim=(-3, 105))
    _legend(axes)
    return figure


def memorised_and_unseen(curves: pd.DataFrame, degree: int) -> Figure:
    """Exact match on a fixed training set and on unseen graphs over training; thin lines are seeds."""
    figure, axes = plt.subplots()
    for column, colour, name in (
        ("train_exact", COLOURS["control"], "training graphs"),
        ("exact", COLOURS["next_token"], "unseen graphs"),
    ):
        for _, run in curves.groupby("seed"):
            axes.plot(run["step"], 100 * run[column], color=colour, alpha=0.35, linewidth=0.9)
        median = _median(curves, column)
        axes.plot(median.index, 100 * median, color=colour, label=name)
    _chance_line(axes, degree)
    axes.set(xlabel="training step", ylabel="exact match, %", ylim=(-3, 105))
    _legend(axes)
    return figure


def _median(curves: pd.DataFrame, column: str) -> pd.Series:
    """Median over seeds at each step; a run that has ended, solved, counts on at its last value."""
    by_seed = curves.pivot(index="step", columns="seed", values=column)
    return by_seed.ffill().median(axis=1)


def _dodge(count: int) -> list[float]:
    """Small shifts that keep the dots of several methods apart."""
    return [0.06 * (i - (count - 1) / 2) for i in range(count)]


def _chance_line(axes: Axes, degree: int) -> None:
    axes.axhline(100 / degree, color=COLOURS["chance"], linestyle="--", linewidth=1, zorder=0.5)
    axes.annotate(
        f"1/{degree}", (1, 100 / degree), xycoords=("axes fraction", "data"), xytext=(-3, 3),
        textcoords="offset points", ha="right", color=COLOURS["chance"], fontsize=9,
    )  # fmt: skip


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
