"""The figures of the chapter on benign memorization, drawn from tables of runs and their curves.

Every figure of accuracies carries the network's start and chance; every one of memorisation the line below which an arm
counts as not having memorised.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntf_utils.claims import mean_interval
from ntf_utils.papers.benign_memorization import effects
from ntf_utils.show.style import COLOURS, ORANGE

KNN = "test accuracy of k-NN, %"
MEMORISED = "labels memorised, %"
ENOUGH = {"color": COLOURS["control"], "linestyle": (0, (4, 2)), "linewidth": 1}
DASHES = {"benign": "-", "malign": "--", "true labels": "-."}
SPREAD = 0.35  # opacity of single seeds


def over_training(arms: Mapping[str, pd.DataFrame], names: Mapping[str, str], chance: float) -> Figure:
    """Memorised share and k-NN over the updates; thin lines are seeds, thick ones their mean.

    Args:
        arms: a name of `COLOURS` -> "learning" curves, with `seed`. names: what the legend calls it.
        chance: in percent.
    """
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.5))
    for axes, column, label in zip(panels, ("memorised", "knn"), (MEMORISED, KNN), strict=True):
        for arm, curve in arms.items():
            wide = 100 * curve.pivot(index="step", columns="seed", values=column).astype(float)
            axes.plot(wide.index, wide, DASHES[arm], color=COLOURS[arm], alpha=SPREAD, linewidth=0.8)
            axes.plot(wide.index, wide.mean(axis=1), DASHES[arm], color=COLOURS[arm], label=names[arm])
        _chance(axes, chance)
        axes.set(xlabel="updates", ylabel=label)
    panels[0].axhline(effects.ENOUGH, **ENOUGH)
    panels[0].set_title("what is learnt by heart")
    panels[1].set_title("what the embedding is worth")
    _legend(figure, panels[0], 4)
    return figure


def split_over_training(arms: Mapping[str, pd.DataFrame], names: Mapping[str, str]) -> Figure:
    """The loss as bias and spread over views, a panel an arm; means over seeds.

    Args:
        arms: name -> "learning" curves. names: titles.
    """
    figure, panels = plt.subplots(1, len(arms), figsize=(4 * len(arms), 3.2), sharey=True, squeeze=False)
    for axes, (arm, curve) in zip(panels[0], arms.items(), strict=True):
        means = curve.astype({"bias": float, "spread": float}).groupby("step")[["bias", "spread"]].mean()
        axes.fill_between(means.index, 0, means["bias"], color=COLOURS["malign"], alpha=0.5, linewidth=0,
                          label="bias: the mean view's error")  # fmt: skip
        axes.fill_between(means.index, means["bias"], means.sum(axis=1), color=COLOURS["benign"], alpha=0.5,
                          linewidth=0, label="spread: how much views differ")  # fmt: skip
        axes.set(xlabel="updates", title=names[arm])
        axes.title.set_fontsize(9.5)
    panels[0, 0].set_ylabel("mean squared error on training views")
    panels[0, 0].set_ylim(bottom=0)
    _legend(figure, panels[0, 0], 2)
    return figure


def against_strength(table: pd.DataFrame, early: pd.DataFrame, chance: float, quarter: int) -> Figure:
    """Memorised share and k-NN against the augmentation's strength: dots are seeds, bars the mean's 95 % interval.

    Args:
        table: rows of runs that differ in `strength`. early: the "learning" curves' rows at a quarter of the updates,
            with `strength`. chance: in percent. quarter: that many updates.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.5))
    _series(left, early["strength"], 100 * early["memorised"].astype(float), ORANGE, f"after {quarter} updates", "--")
    _series(left, table["strength"], 100 * table["memorised"].astype(float), COLOURS["benign"], "at the end")
    left.axhline(effects.ENOUGH, **ENOUGH)
    left.set(xlabel="strength of the augmentation", ylabel=MEMORISED, title="memorisation", ylim=(0, 104))
    left.legend(fontsize=9)
    _series(right, table["strength"], 100 * table["knn"].astype(float), COLOURS["benign"], "after training")
    _start(right, table)
    _chance(right, chance)
    right.set(xlabel="strength of the augmentation", ylabel=KNN, title="generalisation")
    right.legend(fontsize=9)
    return figure


def by_layer(arms: Mapping[str, pd.DataFrame], names: Mapping[str, str], chance: float) -> Figure:
    """k-NN in each layer, of true labels (left) and of the random ones (right), with the interval of the mean.

    Args:
        arms: a name of `COLOURS` -> "layers" curves, with `seed`. The start is the first arm's: it is the same in all.
    """
    figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.8))
    first = next(iter(arms.values()))
    layers = effects.layer_names(first)
    encoder = [name for name in layers if name not in effects.BEHIND]
    for axes, column in zip(panels, ("true", "random"), strict=True):
        curves = {"start": first[first["when"] == "start"]}
        curves |= {arm: curve[curve["when"] == "end"] for arm, curve in arms.items()}
        for arm, curve in curves.items():
            wide = 100 * curve.pivot(index="seed", columns="layer", values=column).astype(float)[layers]
            colour = COLOURS["control"] if arm == "start" else COLOURS[arm]
            dashes = ":" if arm == "start" else DASHES[arm]
            label = "before training" if arm == "start" else names[arm]
            axes.plot(range(len(layers)), wide.mean(), dashes, marker="o", markersize=3.5, color=colour, label=label)
            if len(wide) > 1:
                _, low, high = mean_interval(wide.to_numpy().T)
                axes.fill_between(range(len(layers)), low, high, color=colour, alpha=0.15, linewidth=0)
        _chance(axes, chance)
        axes.axvline(len(encoder) - 0.5, color="#444444", linewidth=0.8)
        axes.annotate("projector", (len(encoder) - 0.45, 1), xycoords=("data", "axes fraction"), xytext=(0, -9),
                      textcoords="offset points", fontsize=8)  # fmt: skip
        axes.set_xticks(range(len(layers)), layers, rotation=40, ha="right", fontsize=8.5)
    panels[0].set(ylabel=KNN, title="true labels, test images")
    panels[1].set(ylabel="k-NN of the random labels, %", title="random labels, training views", ylim=(0, 104))
    _legend(figure, panels[0], 4)
    return figure


def against_projector(table: pd.DataFrame, chance: float) -> Figure:
    """k-NN of the random labels and of the true ones in the embedding, against the width of the projector.

    Args:
        table: a row a run: `hidden`, `random` and `true` in percent.
    """
    figure, axes = plt.subplots(figsize=(5.6, 3.4))
    _series(axes, table["hidden"], table["random"], COLOURS["malign"], "random labels, training views", "--")
    _series(axes, table["hidden"], table["true"], COLOURS["benign"], "true labels, test images")
    _chance(axes, chance)
    axes.set_xscale("log")
    widths = sorted(set(table["hidden"]))
    axes.set_xticks(widths, [f"{width:,}" for width in widths])
    axes.minorticks_off()
    axes.set(xlabel="width of the projector", ylabel="k-NN in the embedding, %", ylim=(0, 104))
    axes.legend(fontsize=9)
    return figure


def against_noise(table: pd.DataFrame, chance: float) -> Figure:
    """Test accuracy of k-NN on the embedding and of the network's own head, against the share of random labels."""
    figure, axes = plt.subplots(figsize=(5.8, 3.5))
    share = 100 * table["noise"].astype(float)
    _series(axes, share, 100 * table["knn"].astype(float), COLOURS["benign"], "k-NN on the embedding")
    _series(axes, share, 100 * table["head"].astype(float), COLOURS["malign"], "the network's own head", "--")
    _start(axes, table)
    _chance(axes, chance)
    axes.set(xlabel="random labels among the training labels, %", ylabel="test accuracy, %")
    axes.legend(fontsize=8.5)
    return figure


def against_count(table: pd.DataFrame) -> Figure:
    """Memorised share and k-NN change against the number of views; where the change's sign flips is marked.

    Args:
        table: rows with `count`, infinite for ever new views.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.5))
    finite = sorted(count for count in set(table["count"]) if np.isfinite(count))
    gap = finite[-1] / finite[-2] if len(finite) > 1 else 4
    place = table["count"].replace(np.inf, finite[-1] * gap)
    gained = 100 * (table["knn"].astype(float) - table["knn_start"].astype(float))
    _series(left, place, 100 * table["memorised"].astype(float), COLOURS["benign"], "")
    left.axhline(effects.ENOUGH, **ENOUGH)
    left.set(ylabel=MEMORISED, title="memorisation", ylim=(0, 104))
    _series(right, place, gained, COLOURS["benign"], "")
    right.axhline(0, color="#444444", linewidth=1)
    flip = sign_change(place, gained)
    if flip is not None:
        right.axvline(flip, color=COLOURS["malign"], linestyle=":", linewidth=1.4)
        right.annotate("malign | benign", (flip, 0.02), xycoords=("data", "axes fraction"), ha="center", fontsize=8.5,
                       bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1})  # fmt: skip
    right.set(ylabel="change of k-NN by training, points", title="generalisation")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks([*finite, finite[-1] * gap], [*(f"{count:g}" for count in finite), "ever\nnew"])
        axes.minorticks_off()
        axes.set_xlabel("distinct views of an image")
    return figure


def sign_change(place: pd.Series, gained: pd.Series) -> float | None:
    """Where on a log axis the mean change first passes from below 0 to above it; None if nowhere."""
    means = gained.groupby(place).mean()
    for (a, low), (b, high) in zip(means.items(), list(means.items())[1:], strict=False):
        if low < 0 <= high:
            return float(np.exp(np.interp(0, [low, high], np.log([a, b]))))
    return None


def against_capacity(networks: Mapping[str, pd.DataFrame], bits_a_weight: float, chance: float) -> Figure:
    """Memorised share against the number of independent labels, one panel a network, beside its estimated capacity.

    Args:
        networks: title -> rows with `labels`, `memorised`, `parameters` and `classes`.
        bits_a_weight: the estimate's. chance: in percent.
    """
    figure, panels = plt.subplots(1, len(networks), figsize=(4 * len(networks), 3.5), sharey=True, squeeze=False)
    for axes, (title, table) in zip(panels[0], networks.items(), strict=True):
        _series(axes, table["labels"], 100 * table["memorised"].astype(float), COLOURS["malign"], "")
        first = table.iloc[0]
        most = bits_a_weight * float(first["parameters"]) / np.log2(float(first["classes"]))
        labels = np.geomspace(table["labels"].min(), max(most, table["labels"].max()) * 1.6, 100)
        stored = np.minimum(1, most / labels)
        axes.plot(labels, 100 * (stored + (1 - stored) * chance / 100), color=COLOURS["predicted"], linestyle="-.")
        axes.axvline(most, color=COLOURS["predicted"], linestyle=":")
        axes.annotate(f"{bits_a_weight:g} bits a weight", (most, 0.03), xycoords=("data", "axes fraction"),
                      rotation=90, ha="right", va="bottom", fontsize=8)  # fmt: skip
        _chance(axes, chance)
        axes.set_xscale("log")
        axes.set(xlabel="independent labels", title=title, ylim=(0, 104))
        axes.title.set_fontsize(9.5)
    panels[0, 0].set_ylabel(MEMORISED)
    return figure


def arms_apart(tables: Mapping[str, pd.DataFrame], colours: Sequence[str]) -> Figure:
    """k-NN change of each arm as dots, its mean and interval, a line an arm."""
    figure, axes = plt.subplots(figsize=(6.4, 0.42 * len(tables) + 1.1))
    for place, table in enumerate(tables.values()):
        gained = effects.change(table).to_numpy()
        colour = COLOURS[colours[place]]
        axes.plot(gained, np.full(len(gained), place), "o", color=colour, alpha=0.4, markersize=4, markeredgewidth=0)
        if len(gained) > 1:
            mean, low, high = mean_interval(gained)
            axes.plot([low, high], [place] * 2, color=colour, linewidth=2.6, solid_capstyle="butt")
            axes.plot([mean], [place], "D", color=colour, markersize=5)
    axes.axvline(0, color="#444444", linewidth=1)
    axes.set_yticks(range(len(tables)), list(tables), fontsize=9)
    axes.set_ylim(len(tables) - 0.4, -0.6)
    axes.set_xlabel("change of k-NN by training, points; 0 is the random start")
    return figure


def _series(axes: Axes, x: pd.Series, y: pd.Series, colour: str, label: str, dashes: str = "-") -> None:
    """Dots for seeds, a bar for the mean's interval, a line through the means."""
    axes.plot(x, y, "o", color=colour, alpha=SPREAD, markersize=3.5, markeredgewidth=0)
    groups = y.astype(float).groupby(x.astype(float))
    for place, values in groups:
        if len(values) > 1:
            _, low, high = mean_interval(values.to_numpy())
            axes.plot([place] * 2, [low, high], color=colour, linewidth=2.6, solid_capstyle="butt", alpha=0.8)
    means = groups.mean()
    axes.plot(means.index, means, dashes, marker="D", color=colour, markersize=4, linewidth=1.2, label=label or None)


def _start(axes: Axes, table: pd.DataFrame) -> None:
    """The k-NN before training, the same in every arm of a seed."""
    start = 100 * table.drop_duplicates("seed")["knn_start"].astype(float)
    if len(start) > 1:
        _, low, high = mean_interval(start.to_numpy())
        axes.axhspan(low, high, color=COLOURS["control"], alpha=0.2, linewidth=0)
    axes.axhline(start.mean(), color=COLOURS["control"], linestyle=":", label="k-NN before training")


def _chance(axes: Axes, chance: float) -> None:
    axes.axhline(chance, color=COLOURS["chance"], linestyle=(0, (1, 3)), label="chance")


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=9)
