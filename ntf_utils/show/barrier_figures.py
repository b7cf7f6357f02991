"""The figures of the chapter on linear mode connectivity, drawn from tables of runs and their curves.

Every figure of paths and of r carries both controls: pairs of independent networks, whose barrier is the unit of r, and
copies trained in the same order, whose barrier must be 0.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntf_utils.claims import mean_interval
from ntf_utils.papers.linear_mode_connectivity.effects import CONNECTED
from ntf_utils.show.style import COLOURS, ORANGE, VERMILLION

NAMES = {
    "order": "same start, other order",
    "independent": "control: independent networks",
    "same": "control: same start, same order",
}
ARCHITECTURES = {
    "dense": "dense", "local": "local", "convolutional": "conv.", "random_sparse": "random\nsparse",
    "shuffled": "conv.,\nshuffled\npixels", "resnet20": "ResNet-20", "vit": "ViT",
}  # fmt: skip


def along_the_path(paths: Mapping[str, pd.DataFrame], column: str = "loss", columns: int = 4) -> Figure:
    """Loss along the path, a panel a setting: thin lines are initialisations, thick lines their mean.

    Args:
        paths: title of the setting -> its "paths" curve, with `kind`, `seed`, `alpha` and the column.
        column: "loss" in nats on the training images, or "test_error" as a share.
        columns: panels in a row.
    """
    rows = -(-len(paths) // columns)
    size = (max(6.6, 1.9 * min(columns, len(paths)) + 0.6), 2.3 * rows + 0.5)
    figure, panels = plt.subplots(rows, min(columns, len(paths)), figsize=size, sharey=True, squeeze=False)
    scale = 100 if column == "test_error" else 1
    for axes in panels.flat[len(paths) :]:
        axes.set_visible(False)
    for axes, (title, curve) in zip(panels.flat, paths.items(), strict=False):
        for kind in ("independent", "order", "same"):
            lines = curve[curve["kind"] == kind]
            if lines.empty:
                continue
            wide = scale * lines.pivot(index="alpha", columns="seed", values=column)
            dashes = {"independent": "--", "order": "-", "same": ":"}[kind]
            if kind != "same":
                axes.plot(wide.index, wide, color=COLOURS[kind], alpha=0.22, linewidth=0.7)
            axes.plot(wide.index, wide.mean(axis=1), dashes, color=COLOURS[kind], label=NAMES[kind])
        axes.set_title(title, fontsize=9.5)
        axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    figure.supxlabel("position on the path, α", fontsize=10)
    unit = "test error, %" if column == "test_error" else "training loss, nats"
    for axes in panels[:, 0]:
        axes.set_ylabel(unit)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=9)
    return figure


def relative_over(
    panels: Mapping[str, pd.DataFrame | Mapping[str, pd.DataFrame]], over: Mapping[str, str], *, columns: int = 3
) -> Figure:
    """r against a factor, a panel a factor: dots are initialisations, bars the mean with its 95 % interval.

    Args:
        panels: title -> a table, or several by the name of their line.
        over: title -> the config column on the x axis, taken as categories in their order.
        columns: panels in a row.
    """
    rows = -(-len(panels) // columns)
    width = min(columns, len(panels))
    figure, grid = plt.subplots(
        rows, width, figsize=(max(5.6, 2.6 * width + 0.4), 2.8 * rows + 0.4), sharey=True, squeeze=False
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, tables) in zip(grid.flat, panels.items(), strict=False):
        lines = tables if isinstance(tables, Mapping) else {"": tables}
        _relative_panel(axes, lines, over[title])
        axes.set_title(title, fontsize=9.5)
    for axes in grid[:, 0]:
        axes.set_ylabel("relative barrier, r")
    return figure


def _relative_panel(axes: Axes, lines: Mapping[str, pd.DataFrame], over: str) -> None:
    settings = list(dict.fromkeys(value for table in lines.values() for value in table[over]))
    if all(isinstance(value, (int, float)) for value in settings):
        settings.sort()
    colours = (COLOURS["order"], VERMILLION, ORANGE)
    for number, (name, table) in enumerate(lines.items()):
        shift = 0.16 * (number - (len(lines) - 1) / 2)
        means = []
        for place, setting in enumerate(settings):
            left = table.loc[table[over] == setting, "relative"].dropna().to_numpy(dtype=float)
            axes.plot(np.full(len(left), place + shift - 0.1), left, "o", color=colours[number], alpha=0.4,
                      markersize=3.5, markeredgewidth=0)  # fmt: skip
            if len(left) > 1:
                mean, low, high = mean_interval(left)
                means.append((place + shift, mean))
                axes.plot([place + shift] * 2, [max(low, 0), high], color=colours[number], linewidth=2.6,
                          solid_capstyle="butt")  # fmt: skip
        joined = "-" if settings and isinstance(settings[0], (int, float)) else "none"
        axes.plot(*zip(*means, strict=True) if means else ((), ()), linestyle=joined, marker="D", markersize=3.5,
                  color=colours[number], linewidth=1, label=name)  # fmt: skip
    _controls(axes)
    axes.set_xticks(range(len(settings)), [_short(setting) for setting in settings], fontsize=8)
    axes.set_xlim(-0.5, len(settings) - 0.5)
    if len(lines) > 1:
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.9))


def _controls(axes: Axes) -> None:
    """r = 1 for independent networks, 0 for the same order, and the band in which networks count as connected."""
    axes.set_yscale("symlog", linthresh=CONNECTED, linscale=0.8)
    axes.set_ylim(-0.013, 2)
    axes.set_yticks([0, 0.05, 0.1, 0.2, 0.5, 1], ["0", "0.05", "0.1", "0.2", "0.5", "1"])
    axes.minorticks_off()
    axes.axhspan(0, CONNECTED, color="#009E73", alpha=0.12, linewidth=0)
    axes.axhline(1, color=COLOURS["independent"], linestyle="--", linewidth=1)
    axes.axhline(0, color=COLOURS["same"], linestyle=":", linewidth=1.2)
    for height, text, lift in ((1, "independent", 2), (0, "same order", -9)):
        axes.annotate(text, (0, height), xycoords=("axes fraction", "data"), xytext=(3, lift),
                      textcoords="offset points", fontsize=7, color=COLOURS["independent"])  # fmt: skip


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ARCHITECTURES.get(str(value), str(value).replace("_", "\n"))


def heat_map(factors: Mapping[str, Sequence[tuple[str, pd.DataFrame]]]) -> Figure:
    """r by factor and setting: a row a factor, a cell a setting, with its mean r; hatched where copies diverged.

    Args:
        factors: name -> (setting, table of that one setting), in order.
    """
    widest = max(len(cells) for cells in factors.values())
    figure, axes = plt.subplots(figsize=(1.5 + 0.86 * widest, 0.55 * len(factors) + 1.0))
    colours = plt.colormaps["cividis"]

    def shade(r: float) -> float:
        """0.005 to 1 on a logarithmic scale."""
        return float(np.clip(np.log10(max(r, 0.005) / 0.005) / np.log10(200), 0, 1))

    for row, cells in enumerate(factors.values()):
        for column, (setting, table) in enumerate(cells):
            left = table["relative"].dropna().to_numpy(dtype=float)
            gone = table["relative"].isna().any()
            level = shade(left.mean()) if len(left) else 1.0
            axes.add_patch(plt.Rectangle((column, row), 0.97, 0.94, facecolor=colours(level),
                                         hatch="///" if gone else None, edgecolor="white", linewidth=0))  # fmt: skip
            ink = "black" if level > 0.55 else "white"
            told = f"{left.mean():.3f}" if len(left) else "diverged"
            axes.text(column + 0.485, row + 0.3, setting, ha="center", va="center", fontsize=7, color=ink)
            axes.text(column + 0.485, row + 0.66, told, ha="center", va="center", fontsize=9, color=ink, weight="bold")
    axes.set(xlim=(0, widest), ylim=(len(factors), 0), xticks=[])
    axes.set_yticks(np.arange(len(factors)) + 0.47, list(factors))
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    scale = plt.cm.ScalarMappable(plt.matplotlib.colors.LogNorm(0.005, 1), colours)
    bar = figure.colorbar(scale, ax=axes, shrink=0.9, pad=0.02)
    bar.set_ticks([0.005, 0.05, 0.2, 1], labels=["≤ 0.005", "0.05 connected", "0.2", "1 independent"])
    bar.ax.minorticks_off()
    return figure


def loss_planes(planes: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Figure:
    """The training loss in the plane through two solutions and their common initialisation, a panel a setting.

    Args:
        planes: title -> (the "plane" curve with x, y and loss; the "corners" curve with name, x and y).
    """
    figure, panels = plt.subplots(1, len(planes), figsize=(3.3 * len(planes) + 0.9, 3.1), squeeze=False)
    losses = np.concatenate([plane["loss"].to_numpy(dtype=float) for plane, _ in planes.values()])
    levels = np.geomspace(max(losses.min(), 1e-3), np.quantile(losses, 0.98), 13)
    for axes, (title, (plane, corners)) in zip(panels[0], planes.items(), strict=True):
        grid = plane.pivot(index="y", columns="x", values="loss")
        drawn = axes.contourf(grid.columns, grid.index, grid.clip(lower=levels[0]), levels, cmap="cividis",
                              norm=plt.matplotlib.colors.LogNorm(levels[0], levels[-1]), extend="max")  # fmt: skip
        at = corners.set_index("name")[["x", "y"]].astype(float)
        first, second, start = (at.loc[name] for name in ("first", "second", "initialisation"))
        axes.plot([first.x, second.x], [first.y, second.y], "-", color="white", linewidth=1.4)
        axes.plot([start.x], [start.y], "s", color="white", markeredgecolor="black", markersize=7)
        axes.plot([first.x, second.x], [first.y, second.y], "o", color="white", markeredgecolor="black", markersize=7)
        for name, corner, ink in (("start", start, "black"), ("A", first, "white"), ("B", second, "white")):
            axes.annotate(name, corner, xytext=(0, 8), textcoords="offset points", ha="center", fontsize=9, color=ink)
        axes.set(title=title, xlabel="distance along A to B")
        axes.grid(False)
    panels[0, 0].set_ylabel("distance from that line")
    bar = figure.colorbar(drawn, ax=panels[0], shrink=0.85)
    bar.set_label("training loss, nats")
    bar.set_ticks(levels[::3], labels=[f"{level:.2g}" for level in levels[::3]])
    bar.ax.minorticks_off()
    return figure
