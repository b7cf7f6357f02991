"""The figures of the chapter on random teachers, drawn from tables of runs and their curves.

Every figure of accuracies carries the levels that a student has to beat: its teacher and the pixels, and chance.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntf_utils.claims import mean_interval
from ntf_utils.papers.random_teachers.effects import NAMES
from ntf_utils.show.style import COLOURS, GREEN

ARMS = {"student": "student rewound to its end", "start": "rewound to its start", "late": "rewound to an early update"}
CHILDREN = {"student": "children of the student", "start": "control: children of its start"}


def over_training(
    students: pd.DataFrame, noise: pd.DataFrame, teachers: pd.DataFrame, pixels: pd.DataFrame,
    probes: Sequence[str] = ("converged", "adamw", "knn"),
) -> Figure:  # fmt: skip
    """Probe accuracy over the student's updates, a panel a probe; thin lines are seeds, thick ones their mean.

    Args:
        students, noise: "learning" curves of the first round, with `seed`.
        teachers: the rows of the same runs. pixels: the row of the pixel probes.
    """
    figure, panels = plt.subplots(1, len(probes), figsize=(3.1 * len(probes), 3.4), sharey=True, squeeze=False)
    for axes, probe in zip(panels[0], probes, strict=True):
        for name, curve, label in (
            ("noise", noise, "control: student of noise"), ("student", students, "student of images"),
        ):  # fmt: skip
            wide = 100 * curve.pivot(index="step", columns="seed", values=probe).astype(float)
            axes.plot(wide.index, wide, color=COLOURS[name], alpha=0.3, linewidth=0.8)
            axes.plot(wide.index, wide.mean(axis=1), color=COLOURS[name], label=label,
                      linestyle="--" if name == "noise" else "-")  # fmt: skip
        _levels(axes, teachers, pixels, probe)
        axes.set(title=NAMES[probe], xlabel="updates of the student")
        axes.title.set_fontsize(9.5)
    panels[0, 0].set_ylabel("test accuracy of the probe, %")
    _legend(figure, panels[0, 0], 3)
    return figure


def _levels(axes: Axes, rows: pd.DataFrame, pixels: pd.DataFrame, probe: str) -> None:
    """Teacher, pixels and chance as horizontal lines."""
    teacher = 100 * rows.drop_duplicates("seed")[f"{probe}_teacher"].astype(float)
    if len(teacher) > 1:
        _, low, high = mean_interval(teacher.to_numpy())
        axes.axhspan(low, high, color=COLOURS["teacher"], alpha=0.15, linewidth=0)
    axes.axhline(teacher.mean(), color=COLOURS["teacher"], label="teacher")
    first = pixels.iloc[0]
    axes.axhline(100 * float(first[probe]), color=COLOURS["pixels"], linestyle=":", label="pixels")
    axes.axhline(100 * float(first["chance"]), color=COLOURS["chance"], linestyle=(0, (1, 3)), label="chance")


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=9)


def against(
    table: pd.DataFrame, over: str, pixels: pd.DataFrame, *, name: str, log: bool = False,
    probes: Sequence[str] = ("converged", "adamw", "knn"),
) -> Figure:  # fmt: skip
    """The student's accuracy against a column, a panel a probe: dots are seeds, bars the mean with its 95 % interval.

    Args:
        table: rows of runs. over: the column, numbers or names. name: of the x axis. log: logarithmic x axis.
        pixels: the row of the pixel probes.
    """
    settings = list(dict.fromkeys(table[over]))
    numeric = all(isinstance(value, (int, float, np.number)) for value in settings)
    settings = sorted(settings) if numeric else settings
    figure, panels = plt.subplots(1, len(probes), figsize=(3.1 * len(probes), 3.4), sharey=True, squeeze=False)
    for axes, probe in zip(panels[0], probes, strict=True):
        places = settings if numeric else list(range(len(settings)))
        means = []
        for place, setting in zip(places, settings, strict=True):
            found = 100 * table.loc[table[over] == setting, f"{probe}_student"].to_numpy(dtype=float)
            axes.plot(np.full(len(found), place), found, "o", color=COLOURS["student"], alpha=0.4, markersize=3.5,
                      markeredgewidth=0)  # fmt: skip
            means.append(found.mean())
            if len(found) > 1:
                _, low, high = mean_interval(found)
                axes.plot([place] * 2, [low, high], color=COLOURS["student"], linewidth=2.6, solid_capstyle="butt")
        axes.plot(places, means, "-D" if numeric else "D", color=COLOURS["student"], markersize=4, linewidth=1,
                  label="student")  # fmt: skip
        _levels(axes, table, pixels, probe)
        axes.set_title(NAMES[probe], fontsize=9.5)
        axes.set_xlabel(name)
        if log:
            axes.set_xscale("log")
            axes.set_xticks(places, [f"{place:g}" for place in places])
            axes.minorticks_off()
        if not numeric:
            axes.set_xticks(places, [str(setting).replace(" ", "\n") for setting in settings], fontsize=7.5)
            axes.set_xlim(-0.5, len(settings) - 0.5)
    panels[0, 0].set_ylabel("test accuracy of the probe, %")
    _legend(figure, panels[0, 0], 4)
    return figure


def gains(found: Mapping[str, Mapping[str, pd.Series]], label: str = "distilled on\n{}") -> Figure:
    """Points by which students beat their teachers, a line a data set of distillation or an encoder.

    Args:
        found: title of a panel -> name of a line -> gain by seed. Three panels a row.
        label: of a line, with its name.
    """
    rows = -(-len(found) // 3)
    tall = 0.45 * max(len(lines) for lines in found.values()) + 1.1
    figure, panels = plt.subplots(rows, 3, figsize=(9.3, tall * rows + 0.3), sharex=True, sharey=True, squeeze=False)
    for axes, (title, sources) in zip(panels.flat, found.items(), strict=False):
        for place, gained in enumerate(sources.values()):
            values = gained.to_numpy(dtype=float)
            axes.plot(values, np.full(len(values), place), "o", color=COLOURS["student"], alpha=0.4, markersize=4,
                      markeredgewidth=0)  # fmt: skip
            if len(values) > 1:
                mean, low, high = mean_interval(values)
                axes.plot([low, high], [place] * 2, color=COLOURS["student"], linewidth=2.6, solid_capstyle="butt")
                axes.plot([mean], [place], "D", color=COLOURS["student"], markersize=5)
        axes.axvline(0, color=COLOURS["teacher"])
        axes.annotate("teacher", (0, 1), xycoords=("data", "axes fraction"), xytext=(3, -9),
                      textcoords="offset points", fontsize=8, color=COLOURS["teacher"])  # fmt: skip
        axes.set_yticks(range(len(sources)), [label.format(name) for name in sources], fontsize=9)
        axes.set_ylim(len(sources) - 0.4, -0.6)
        axes.set_title(title.replace(": ", ":\n"), fontsize=9.5)
    for axes in panels[-1]:
        axes.set_xlabel("student minus teacher, points")
    return figure


def along_the_line(line: pd.DataFrame) -> Figure:
    """Distillation loss and k-NN accuracy from the teacher (0) to the student (1) and a little beyond.

    Args:
        line: the "line" curve, with `seed`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.1))
    for axes, column, scale in ((left, "kl", 1), (right, "knn", 100)):
        wide = scale * line.assign(t=line["t"].round(6)).pivot(index="t", columns="seed", values=column).astype(float)
        axes.plot(wide.index, wide, color=COLOURS["student"], alpha=0.3, linewidth=0.8)
        axes.plot(wide.index, wide.mean(axis=1), color=COLOURS["student"])
        for place, name, colour in ((0, "teacher", "teacher"), (1, "student", "student")):
            axes.axvline(place, color=COLOURS[colour], linestyle=":", linewidth=1.2)
            axes.annotate(name, (place, 1), xycoords=("data", "axes fraction"), xytext=(3, -9),
                          textcoords="offset points", fontsize=8, color=COLOURS[colour])  # fmt: skip
        axes.set_xlabel("position t on the line")
    left.set(ylabel="distillation loss above entropy, nats", title="what the student minimises")
    left.set_yscale("symlog", linthresh=1e-5)
    left.set_ylim(bottom=0)
    right.set(ylabel="test accuracy, k-NN, %", title="what nobody minimises")
    return figure


def planes(plane: pd.DataFrame, corners: pd.DataFrame) -> Figure:
    """Loss and k-NN accuracy over the plane through teacher and two students.

    Args:
        plane: x, y, kl and knn of each point. corners: name, x and y.
    """
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
    smallest = plane["kl"][plane["kl"] > 0].min()
    shades = {
        "kl": (np.log10(plane["kl"].clip(lower=smallest)), "log10 of the distillation loss, nats", "cividis"),
        "knn": (100 * plane["knn"], "test accuracy, k-NN, %", "viridis"),
    }
    for axes, (values, label, colours) in zip(panels, shades.values(), strict=True):
        grid = plane.assign(value=values).pivot(index="y", columns="x", values="value").astype(float)
        drawn = axes.contourf(grid.columns, grid.index, grid, 12, cmap=colours)
        for name, x, y in corners[["name", "x", "y"]].itertuples(index=False):
            axes.plot([x], [y], "s" if name == "teacher" else "o", color="white", markeredgecolor="black",
                      markersize=7)  # fmt: skip
            lift = -16 if name == "teacher" else 8
            axes.annotate(name, (x, y), xytext=(0, lift), textcoords="offset points", ha="center", fontsize=8.5,
                          bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1})  # fmt: skip
        axes.set_xlabel("distance from the teacher towards the near student")
        axes.grid(False)
        figure.colorbar(drawn, ax=axes, label=label)
    panels[0].set_ylabel("distance from that line")
    return figure


def between_children(paths: Mapping[str, pd.DataFrame]) -> Figure:
    """Test error and training loss on the line between two children, for both checkpoints.

    Args:
        paths: "student" and "start" -> their "paths" curve at one rate, with `seed`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(7.4, 3.2))
    columns = {"test_error": (100, "test error, %"), "loss": (1, "training loss, nats")}
    for axes, (column, (scale, label)) in zip(panels, columns.items(), strict=True):
        for which, rows in paths.items():
            wide = scale * rows.pivot(index="alpha", columns="seed", values=column).astype(float)
            colour = COLOURS["student" if which == "student" else "teacher"]
            dashes = "-" if which == "student" else "--"
            axes.plot(wide.index, wide, color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(wide.index, wide.mean(axis=1), dashes, color=colour, label=CHILDREN[which])
        axes.set(xlabel="position on the line, α", ylabel=label)
    _legend(figure, panels[0], 2)
    return figure


def pruning_curves(curve: pd.DataFrame) -> Figure:
    """Test accuracy against the share of weights that is gone; thin lines are seeds, thick ones their mean.

    Args:
        curve: the "pruning" curve, with `seed`.
    """
    figure, axes = plt.subplots(figsize=(5.6, 3.4))
    colours = {"student": COLOURS["student"], "start": COLOURS["teacher"], "late": GREEN}
    for arm, dashes in (("student", "-"), ("start", "--"), ("late", "-.")):
        rows = curve[curve["arm"] == arm].copy()
        rows["level"] = rows.groupby("seed").cumcount()
        left = 100 * (1 - rows.groupby("level")["sparsity"].mean().astype(float))
        wide = 100 * rows.pivot(index="level", columns="seed", values="accuracy").astype(float)
        axes.plot(left, wide.to_numpy(), color=colours[arm], alpha=0.3, linewidth=0.8)
        axes.plot(left, wide.mean(axis=1).to_numpy(), dashes, marker="o", color=colours[arm], label=ARMS[arm])
    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = [value for value in (100, 50, 20, 10, 5, 2, 1) if value >= left.min() * 0.9]
    axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axes.minorticks_off()
    axes.set(xlabel="weights left, %", ylabel="test accuracy at the last update, %")
    axes.legend(fontsize=9)
    return figure
