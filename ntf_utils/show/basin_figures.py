"""The figures of the chapter on a single basin, drawn from tables of runs and their curves.

Performance and connectivity always stand side by side: either alone says nothing. The deep ensemble and clones of one
network, which mark both ends, are in every figure that compares ensembles.
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntf_utils.claims import mean_interval
from ntf_utils.papers.single_basin import effects
from ntf_utils.show.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

LOOK = {  # strategy -> name, colour, marker
    "deep": ("deep ensemble", BLACK, "s"),
    "clones": ("control: clones of one network", GREY, "X"),
    "branch": ("branch (by spawn time)", BLUE, "o"),
    "snapshot": ("snapshots", SKY, "v"),
    "constrained": ("constrained (by weight)", PURPLE, "D"),
    "drawn": ("drawn together (by weight)", ORANGE, "D"),
    "permuted": ("permuted", VERMILLION, "P"),
    "distilled": ("distilled", GREEN, "*"),
    "unbound": ("control: no connectivity term", GREEN, "1"),
    "mean_teacher": ("control: mean of all teachers", GREEN, "2"),
    "one_teacher": ("control: one teacher for all", GREEN, "3"),
    "same_basin": ("control: same-basin teachers", GREY, "4"),
    "no_teacher": ("control: no teacher", GREY, "+"),
}
ZERO = 0.01  # nats, below which the axis of joint barriers becomes linear, so that 0 has a place
TITLES = {"objects": "objects", "clothes": "clothes", "contrast": "objects, convolutional"}


def trade_off(tables: Mapping[str, pd.DataFrame], strategies: Sequence[str] = tuple(LOOK)) -> Figure:
    """NLL above the deep ensemble's against the joint barrier, a panel a tier: means over seeds, with the 95 % interval
    of the paired difference. Lines join the settings of one strategy; green is what counts as one basin."""
    figure, panels = plt.subplots(1, len(tables), figsize=(max(6.0, 3.6 * len(tables) + 0.6), 4.6), squeeze=False)
    handles: dict[str, object] = {}
    for axes, (tier, table) in zip(panels[0], tables.items(), strict=True):
        deep = effects.of(table, "deep", "calibrated")
        for strategy in (name for name in LOOK if name in strategies and name in set(table["strategy"])):
            name, colour, marker = LOOK[strategy]
            xs, ys = [], []
            over = "at_spawn" if strategy == "branch" else "at_weight"
            for _, rows in table[table["strategy"] == strategy].groupby(over, dropna=False):
                left = rows.dropna(subset="joint").set_index("seed")
                above = (left["calibrated"].astype(float) - deep).dropna().to_numpy()
                if not len(above):
                    continue
                mean, low, high = mean_interval(above) if len(above) > 1 else (above[0],) * 3
                xs.append(max(left["joint"].astype(float).mean(), 0.0))
                ys.append(mean)
                axes.plot([xs[-1]] * 2, [low, high], color=colour, linewidth=1, alpha=0.55)
            size = 11 if marker == "*" else 8 if marker in "1234" else 5.5
            (line,) = axes.plot(xs, ys, marker, linestyle="-" if len(xs) > 1 else "none", linewidth=0.9, color=colour,
                                markersize=size, markeredgewidth=1.6 if marker in "1234+" else 0)  # fmt: skip
            handles.setdefault(name, line)
        one_basin = effects.ONE_BASIN * effects.of(table, "deep", "joint").mean()
        axes.axvspan(0, one_basin, color=GREEN, alpha=0.1, linewidth=0)
        axes.axhline(0, color=BLACK, linewidth=0.8, linestyle=":")
        axes.set_xscale("symlog", linthresh=ZERO, linscale=0.7)
        axes.set_xlim(left=-0.0015)
        axes.set_xticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
        axes.set(title=TITLES.get(tier, tier), xlabel="joint barrier, nats")
    panels[0, 0].set_ylabel("test NLL above deep ensemble, nats")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def between_members(lines: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Mean training loss on the lines between all pairs of members, a panel a tier: thin lines are seeds.

    Args:
        lines: tier -> name of an ensemble -> its lines of the "lines" curve, with `seed`, `alpha` and `loss`.
    """
    figure, panels = plt.subplots(1, len(lines), figsize=(max(6.0, 3.1 * len(lines) + 0.6), 3.6), squeeze=False)
    for axes, (tier, ensembles) in zip(panels[0], lines.items(), strict=True):
        for name, curve in ensembles.items():
            label, colour, _ = LOOK[name.split()[0]]
            wide = curve.pivot(index="alpha", columns="seed", values="loss").astype(float)
            dashes = {"deep": "--", "clones": ":"}.get(name, "-")
            axes.plot(wide.index, wide, color=colour, alpha=0.2, linewidth=0.7)
            axes.plot(wide.index, wide.mean(axis=1), dashes, color=colour, label=label.split(" (")[0])
        axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        axes.set(title=TITLES.get(tier, tier), xlabel="position between two members")
    panels[0, 0].set_ylabel("training loss, nats")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8.5)
    return figure


def by_number_of_members(sizes: Mapping[str, pd.DataFrame], arms: Sequence[str]) -> Figure:
    """Test NLL of the first m members, a panel a tier: mean over seeds.

    Args:
        sizes: tier -> the "sizes" curve of all its runs, with `arm`, `members` and `calibrated`.
        arms: which ensembles; the first word of an arm is its strategy.
    """
    figure, panels = plt.subplots(1, len(sizes), figsize=(max(6.0, 3.1 * len(sizes) + 0.6), 3.6), squeeze=False)
    for axes, (tier, curve) in zip(panels[0], sizes.items(), strict=True):
        for arm in arms:
            rows = curve[curve["arm"].str.split().str[0] == arm]
            if rows.empty:
                continue
            label, colour, marker = LOOK[arm]
            means = rows.groupby("members")["calibrated"].mean()
            axes.plot(means.index, means, marker + "-", color=colour, label=label.split(" (")[0], linewidth=1.3)
        axes.set_xticks(sorted(curve["members"].unique()))
        axes.set(title=TITLES.get(tier, tier), xlabel="members")
    panels[0, 0].set_ylabel("test NLL, nats")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8.5)
    return figure


def sweep_panels(tables: Mapping[str, pd.DataFrame], strategies: Mapping[str, str]) -> Figure:
    """Joint barrier (above) and NLL above the deep ensemble's (below) over a strategy's settings.

    Args:
        tables: title -> a tier's table, a column of panels each. strategies: title -> the strategy.
    """
    figure, grid = plt.subplots(2, len(tables), figsize=(2.3 * len(tables) + 0.8, 4.4), sharex="col", squeeze=False)
    for column, (title, table) in enumerate(tables.items()):
        rows = effects.sweep_of(table, strategies[title])
        deep = effects.of(table, "deep", "calibrated")
        settings = sorted(rows["setting"].unique())
        for place, setting in enumerate(settings):
            left = rows[rows["setting"] == setting].dropna(subset="joint").set_index("seed")
            _dots(grid[0, column], place, left["joint"].astype(float).to_numpy(), BLUE)
            _dots(grid[1, column], place, (left["calibrated"].astype(float) - deep).dropna().to_numpy(), VERMILLION)
        reference = effects.of(table, "deep", "joint").mean()
        grid[0, column].axhline(reference, color=BLACK, linestyle="--", linewidth=1)
        grid[0, column].axhspan(0, effects.ONE_BASIN * reference, color=GREEN, alpha=0.1, linewidth=0)
        grid[0, column].set_yscale("symlog", linthresh=ZERO, linscale=0.7)
        grid[0, column].set_ylim(bottom=-0.002)
        grid[0, column].set_yticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
        grid[1, column].axhline(0, color=BLACK, linestyle="--", linewidth=1)
        grid[1, column].set_xticks(range(len(settings)), [f"{setting:g}" for setting in settings])
        grid[1, column].set_xlabel("spawn time, share" if strategies[title] == "branch" else "weight of the term")
        grid[0, column].set_title(title, fontsize=9.5)
    grid[0, 0].set_ylabel("joint barrier, nats")
    grid[1, 0].set_ylabel("NLL above deep, nats")
    figure.align_ylabels(grid[:, 0])
    return figure


def _dots(axes: Axes, place: float, values: np.ndarray, colour: str) -> None:
    """Seeds as dots, and their mean with its 95 % interval."""
    at = np.full(len(values), place - 0.14)
    axes.plot(at, values, "o", color=colour, alpha=0.4, markersize=3.2, markeredgewidth=0)
    if len(values) > 1:
        mean, low, high = mean_interval(values)
        axes.plot([place] * 2, [low, high], color=colour, linewidth=2.6, solid_capstyle="butt")
        axes.plot([place], [mean], "D", color=colour, markersize=3.5)


def closing_the_gap(tables: Mapping[str, pd.DataFrame], strategies: Sequence[str]) -> Figure:
    """What each kind of student closes of the gap (left: 0 is the branch ensemble, dashed the deep one) and the
    joint barrier at which it does so (right), a row of panels a tier."""
    figure, grid = plt.subplots(len(tables), 2, figsize=(7.2, 0.36 * len(strategies) * len(tables) + 1.4),
                                sharey="row", squeeze=False, width_ratios=(3, 2))  # fmt: skip
    for row, (tier, table) in enumerate(tables.items()):
        shown = [name for name in strategies if name in set(table["strategy"])]
        reference = effects.above_deep(table, "branch")
        for place, strategy in enumerate(shown):
            colour = LOOK[strategy][1]
            _bar(grid[row, 0], place, effects.closed(table, strategy).to_numpy(), colour)
            _bar(grid[row, 1], place, effects.relative(table, strategy).to_numpy(), colour)
        grid[row, 0].axvline(0, color=BLACK, linewidth=0.8)
        grid[row, 0].xaxis.set_major_locator(plt.MaxNLocator(5))
        grid[row, 0].axvline(reference.mean(), color=BLACK, linestyle="--", linewidth=1)
        grid[row, 1].axvspan(0, effects.ONE_BASIN, color=GREEN, alpha=0.1, linewidth=0)
        grid[row, 1].set_xscale("symlog", linthresh=0.01, linscale=0.7)
        grid[row, 1].set_xlim(left=-0.002)
        grid[row, 1].set_xticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
        grid[row, 0].set_yticks(range(len(shown)), [LOOK[name][0].removeprefix("control: ") for name in shown])
        grid[row, 0].set_ylim(len(shown) - 0.5, -0.5)
        grid[row, 0].set_title(TITLES.get(tier, tier), fontsize=10)
    grid[-1, 0].set_xlabel("NLL below branch, nats")
    grid[-1, 1].set_xlabel("joint barrier over deep's")
    return figure


def _bar(axes: Axes, place: int, values: np.ndarray, colour: str) -> None:
    """Lying: seeds as dots, and their mean with its 95 % interval."""
    at = np.full(len(values), place + 0.2)
    axes.plot(values, at, "o", color=colour, alpha=0.4, markersize=3.2, markeredgewidth=0)
    if len(values) > 1:
        mean, low, high = mean_interval(values)
        axes.plot([low, high], [place] * 2, color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot([mean], [place], "D", color=colour, markersize=4)


def agreement_matrix(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """How often each distilled student says what each deep member says, mean over seeds, a panel a tier.

    Args:
        curves: tier -> the "agreement" curve of all its runs, with `student`, `teacher` and `share`.
    """
    curves = {tier: curve for tier, curve in curves.items() if len(curve)}  # all students of a tier may have diverged
    figure, panels = plt.subplots(1, max(1, len(curves)), figsize=(3.3 * max(1, len(curves)) + 0.4, 3.3), squeeze=False)
    for axes, (tier, curve) in zip(panels[0], curves.items(), strict=True):
        means = 100 * curve.groupby(["student", "teacher"])["share"].mean().unstack()
        drawn = axes.imshow(means, cmap="cividis")
        middle = (means.to_numpy().max() + means.to_numpy().min()) / 2
        for student, row in enumerate(means.to_numpy()):
            for teacher, share in enumerate(row):
                ink = "black" if share > middle else "white"
                axes.text(teacher, student, f"{share:.0f}", ha="center", va="center", color=ink, fontsize=9,
                          weight="bold" if student == teacher else "normal")  # fmt: skip
        axes.set_xticks(range(len(means)), range(1, len(means) + 1))
        axes.set_yticks(range(len(means)), range(1, len(means) + 1))
        axes.set(title=TITLES.get(tier, tier), xlabel="deep member")
        axes.grid(False)
        figure.colorbar(drawn, ax=axes, shrink=0.8)
    panels[0, 0].set_ylabel("student")
    figure.supylabel("")
    return figure


def member_planes(planes: pd.DataFrame, corners: pd.DataFrame, titles: Callable[[str], str] = str) -> Figure:
    """The training loss in the plane through the first three members of some ensembles, a panel an ensemble.

    Args:
        planes: the "planes" curve with `arm`, x, y and loss. corners: the "corners" curve with `arm`, `member`, x, y.
        titles: arm -> the panel's title.
    """
    arms = list(dict.fromkeys(planes["arm"]))
    figure, panels = plt.subplots(1, len(arms), figsize=(2.6 * len(arms) + 0.8, 3.0), squeeze=False)
    losses = planes["loss"].to_numpy(dtype=float)
    norm = plt.matplotlib.colors.LogNorm(max(losses.min(), 1e-3), np.quantile(losses, 0.97))
    levels = np.geomspace(norm.vmin, norm.vmax, 13)
    for axes, arm in zip(panels[0], arms, strict=True):
        grid = planes[planes["arm"] == arm].pivot(index="y", columns="x", values="loss").astype(float)
        drawn = axes.contourf(grid.columns, grid.index, grid.clip(lower=levels[0]), levels, cmap="cividis", norm=norm,
                              extend="max")  # fmt: skip
        own = corners[corners["arm"] == arm]
        axes.plot(own["x"], own["y"], "o", color="white", markeredgecolor="black", markersize=6)
        for member, x, y in own[["member", "x", "y"]].itertuples(index=False):
            axes.annotate(str(member + 1), (x, y), xytext=(5, 5), textcoords="offset points", fontsize=9, color="white",
                          weight="bold")  # fmt: skip
        axes.set(title=titles(arm), xlabel="distance of weights", aspect="equal")
        axes.grid(False)
    bar = figure.colorbar(drawn, ax=panels[0], shrink=0.8)
    bar.set_label("training loss, nats")
    bar.set_ticks(levels[::3], labels=[f"{level:.2g}" for level in levels[::3]])
    bar.ax.minorticks_off()
    return figure
