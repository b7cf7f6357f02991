"""The figures of the chapter on concept guidance, drawn from tables of cells and their curves.

A cell is one way to make a guide: probe x site x number of layers. Every figure of effects carries the null of random
directions. Strengths are in medians of the activations' length and drawn as categories: they grow geometrically.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from ntf_utils.claims import mean_interval
from ntf_utils.measures.guidance import FLUENT, cross_effects, fit_guidance
from ntf_utils.show.style import COLOURS, GREY

PROBES = {"logistic": "logistic regression", "difference": "difference in means", "principal": "principal component"}
SITES = {"norm": "norm in front of the attention", "residual": "residual stream"}
MARKS = {"logistic": "o", "difference": "D", "principal": "^"}
DASHES = {"logistic": "-", "difference": "--", "principal": "-."}
NULL = "random directions"


def detection_by_layer(layers: pd.DataFrame, columns: int = 4) -> Figure:
    """Held-out accuracy of the probes in each layer, a panel a concept: mean over seeds with its 95 % interval.

    Args:
        layers: the "layers" curves: `concept`, `seed`, `probe`, `site`, `layer`, `held_out`.
    """
    concepts = list(dict.fromkeys(layers["concept"]))
    figure, panels = _panels(len(concepts), columns, 2.1, 1.9)
    for axes, concept in zip(panels.flat, concepts, strict=False):
        for (site, probe), lines in layers[layers["concept"] == concept].groupby(["site", "probe"], sort=False):
            wide = lines.pivot(index="layer", columns="seed", values="held_out").astype(float)
            mean, low, high = _interval(wide)
            faint = site != "residual"
            axes.plot(wide.index, mean, ":" if faint else "-", marker=MARKS[probe], markersize=3.5,
                      color=COLOURS[probe], linewidth=1.2, label=f"{PROBES[probe]}, {site}")  # fmt: skip
            axes.fill_between(wide.index, low, high, color=COLOURS[probe], alpha=0.12, linewidth=0)
        axes.axhline(0.5, color=COLOURS["chance"], linewidth=1, linestyle="--")
        axes.set_title(concept, fontsize=9.5)
        axes.set_ylim(0.4, 1.02)
        axes.set_xticks(sorted(layers["layer"].unique()))
    figure.supxlabel("layer", fontsize=10)
    figure.supylabel("held-out accuracy (0.5: chance)", fontsize=10)
    _legend(figure, panels, 3)
    return figure


def tradeoff_curves(
    tradeoff: pd.DataFrame, bands: pd.DataFrame, site: str, top: int, concepts: Sequence[str]
) -> Figure:
    """Score above and perplexity below against strength, a column a concept, a line a probe: means over seeds, the
    interval of the mean shaded. Grey: where random directions lie. Dotted: perplexity doubled.

    Args:
        tradeoff: the "tradeoff" curves of the concepts' runs: `concept`, `seed`, `probe`, `site`, `top`, `strength`,
            `score`, `perplexity`.
        bands: the "band" curves of the null's runs: `seed`, `site`, `top`, `scored`, `strength`, `low`, `high`,
            `perplexity`. The band of the largest number of layers is drawn: the widest.
    """
    here = tradeoff[(tradeoff["site"] == site) & (tradeoff["top"] == top)]
    null = bands[bands["site"] == site]
    size = (max(6.6, 1.55 * len(concepts) + 0.8), 4.2)
    figure, panels = plt.subplots(2, len(concepts), figsize=size, sharex=True, sharey="row", squeeze=False,
                                  height_ratios=[1.5, 1])  # fmt: skip
    for column, concept in enumerate(concepts):
        lines, band = here[here["concept"] == concept], null[null["scored"] == _scored_as(concept)]
        above, below = panels[:, column]
        places = _places(lines["strength"])
        edges = band.groupby("strength")[["low", "high"]].mean()
        above.fill_between([places[s] for s in edges.index], edges["low"], edges["high"], color=GREY, alpha=0.28,
                           linewidth=0, label=NULL)  # fmt: skip
        middle = _relative(band.drop_duplicates(["seed", "strength"]))
        below.plot([places[s] for s in middle.index], middle.mean(axis=1), color=GREY, linewidth=3, alpha=0.5)
        for probe, rows in lines.groupby("probe", sort=False):
            for axes, wide in ((above, _wide(rows, "score")), (below, _relative(rows))):
                x = [places[s] for s in wide.index]
                mean, low, high = _interval(wide)
                axes.plot(x, mean, DASHES[probe], color=COLOURS[probe], marker=MARKS[probe], markersize=3,
                          linewidth=1.3, label=PROBES[probe])  # fmt: skip
                axes.fill_between(x, low, high, color=COLOURS[probe], alpha=0.14, linewidth=0)
        above.set_title(concept, fontsize=9.5)
        below.set_yscale("log")
        below.axhline(FLUENT, color="black", linestyle=":", linewidth=1)
        _strength_ticks(below, places)
    panels[0, 0].set_ylabel("score")
    panels[1, 0].set_ylabel("perplexity,\ntimes unguided")
    panels[1, 0].set_ylim(0.8, 60)
    figure.supxlabel(f"strength, in median lengths of an activation ({SITES[site]}, {_layers(top)})", fontsize=10)
    _legend(figure, panels, 4)
    return figure


def pnes_by_concept(cells: pd.DataFrame) -> Figure:
    """PNES of each concept and probe: dots are seeds, bars the mean with its 95 % interval, grey the null.

    Args:
        cells: rows beside the null: `concept`, `seed`, `probe`, `pnes_pick`, `pnes`, `pnes_95`. Of each probe the cell
            that did best on the other half of the prompts is drawn.
    """
    best = cells.loc[cells.groupby(["seed", "concept", "probe"])["pnes_pick"].idxmax()]
    concepts, probes = (list(dict.fromkeys(cells[name])) for name in ("concept", "probe"))
    figure, axes = plt.subplots(figsize=(max(6.6, 0.95 * len(concepts) + 1), 3.4))
    for place, concept in enumerate(concepts):
        for number, probe in enumerate(probes):
            rows = best[(best["concept"] == concept) & (best["probe"] == probe)]
            x = place + 0.25 * (number - (len(probes) - 1) / 2)
            level = rows["pnes_95"].mean()
            axes.fill_between([x - 0.11, x + 0.11], 0, level, color=GREY, alpha=0.3, linewidth=0,
                              label=f"95 % of {NULL}" if place == number == 0 else None)  # fmt: skip
            _dots_and_mean(axes, x, rows["pnes"], COLOURS[probe], MARKS[probe], PROBES[probe] if place == 0 else None)
    axes.set_xticks(range(len(concepts)), concepts, fontsize=8.5)
    axes.set_ylabel("PNES")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=4, fontsize=8.5)
    return figure


def detector_against_guide(cells: pd.DataFrame, columns: int = 3) -> Figure:
    """Does the best detector guide best? Held-out accuracy against PNES, a point a cell and seed, a panel a concept.

    Open: the layers of the norm; filled: of the residual stream. Grey: PNES that random directions reach (the largest
    95 % level of the concept's cells).

    Args:
        cells: rows beside the null: `concept`, `probe`, `site`, `accuracy`, `pnes`, `pnes_95`.
    """
    concepts = list(dict.fromkeys(cells["concept"]))
    figure, panels = _panels(len(concepts), columns, 2.5, 2.1)
    for axes, concept in zip(panels.flat, concepts, strict=False):
        rows = cells[cells["concept"] == concept]
        axes.axhspan(0, rows["pnes_95"].max(), color=GREY, alpha=0.2, linewidth=0)
        for (probe, site), points in rows.groupby(["probe", "site"], sort=False):
            colour = COLOURS[probe]
            axes.plot(points["accuracy"], points["pnes"], linestyle="none", marker=MARKS[probe], color=colour,
                      markersize=4.5, alpha=0.75, markerfacecolor=colour if site == "residual" else "none",
                      label=f"{PROBES[probe]}, {site}")  # fmt: skip
        axes.set_title(concept, fontsize=9.5)
    panels[0, 0].set_ylim(bottom=0)  # last, since it also ends the panels' common scaling
    figure.supxlabel("held-out detection accuracy, mean over the guided layers", fontsize=10)
    figure.supylabel("PNES", fontsize=10)
    _legend(figure, panels, 3)
    return figure


def cross_effect_matrix(crossed: pd.DataFrame, concepts: Sequence[str]) -> Figure:
    """What each concept's guide (rows) does to all scores (columns): mean over seeds of the signed effect.

    Bold with a star: the 95 % interval over seeds excludes 0. Framed: a guide on its own concept.

    Args:
        crossed: the "cross" curves of the concepts' runs: `concept` (of the guide), `seed`, `strength`, a column a
            scored concept, `perplexity`.
        concepts: the scored ones.
    """
    by_seed = [
        cross_effects(dict(iter(rows.groupby("concept", sort=False))), concepts)
        for _, rows in crossed.groupby("seed")
    ]
    found = np.stack([table.to_numpy(dtype=float) for table in by_seed], axis=-1)  # [guides, concepts, seeds]
    guides = list(by_seed[0].index)
    mean = found.mean(axis=-1)
    low, high = mean_interval(found)[1:] if found.shape[-1] > 1 else (mean * 0 - 1, mean * 0 + 1)
    figure, axes = plt.subplots(figsize=(1.9 + 0.78 * len(concepts), 0.9 + 0.42 * len(guides)))
    bound = max(0.1, float(np.abs(mean).max()))
    drawn = axes.imshow(mean, cmap="PuOr", norm=TwoSlopeNorm(0, -bound, bound), aspect="auto")
    for row, guide in enumerate(guides):
        for column, concept in enumerate(concepts):
            sure = low[row, column] > 0 or high[row, column] < 0
            ink = "white" if abs(mean[row, column]) > 0.6 * bound else "black"
            axes.text(column, row, f"{mean[row, column]:+.2f}".replace("-", "−") + ("*" if sure else ""), ha="center",
                      va="center", fontsize=8, color=ink, weight="bold" if sure else "normal")  # fmt: skip
            if guide == concept:
                axes.add_patch(plt.Rectangle((column - 0.48, row - 0.47), 0.96, 0.94, fill=False, linewidth=1.6))
    axes.set_xticks(range(len(concepts)), concepts, rotation=25, ha="right", fontsize=8.5)
    axes.set_yticks(range(len(guides)), guides, fontsize=8.5)
    axes.set(xlabel="scored concept", ylabel="guide")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axes, shrink=0.9, pad=0.02, label="change of the score")
    return figure


def sign_flip(flips: pd.DataFrame) -> Figure:
    """The appropriateness vector against the share of harmful prompts it was fitted on: dots are seeds, bars the mean
    with its 95 % interval. Shaded: the signs that were predicted.

    Args:
        flips: `seed`, `share`, `cosine` with the compliance vector, and the guide's change of `compliance` and
            `appropriateness`.
    """
    figure, panels = plt.subplots(1, 3, figsize=(7.6, 3.0))
    told = {
        "cosine": "cosine with compliance",
        "compliance": "change of compliance",
        "appropriateness": "change of appropriateness",
    }
    shares = sorted(flips["share"].unique())
    for axes, (column, label) in zip(panels, told.items(), strict=True):
        bound = 1.15 * max(0.1, float(flips[column].astype(float).abs().max()))
        if column != "appropriateness":  # nothing was predicted of it
            axes.fill_between([0, 0.5], 0, bound, color=COLOURS["predicted"], alpha=0.12, linewidth=0)
            axes.fill_between([0.5, 1], -bound, 0, color=COLOURS["predicted"], alpha=0.12, linewidth=0)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.axvline(0.5, color="black", linestyle=":", linewidth=1)
        means = []
        for share in shares:
            values = flips.loc[flips["share"] == share, column].astype(float)
            means.append(values.mean())
            _dots_and_mean(axes, share, values, COLOURS["difference"], "D", shift=0.02)
        axes.plot(shares, means, color=COLOURS["difference"], linewidth=1)
        axes.set(xlim=(0, 1), ylim=(-bound, bound))
        axes.set_title(label, fontsize=9)
        axes.set_xticks(shares)
    figure.supxlabel("share of harmful prompts among the examples", fontsize=10)
    return figure


def fitted_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """How the paper's two fits look, a column a guide: above the normalised effect with (tanh(aα) + c) exp(-bα²), below
    log(P / P(0)) with bα². PNES is the height between the fitted curve's ends, marked at the side.

    Args:
        curves: title -> one curve, with `strength`, `score`, `perplexity`.
    """
    figure, panels = plt.subplots(2, len(curves), figsize=(max(6.6, 1.9 * len(curves)), 4.0), sharex="col",
                                  squeeze=False)  # fmt: skip
    for column, (title, curve) in enumerate(curves.items()):
        curve = curve.sort_values("strength")
        x, s, p = (curve[name].to_numpy(dtype=float) for name in ("strength", "score", "perplexity"))
        found = fit_guidance(x, s, p)
        base = int(np.argmin(np.abs(x)))
        above, below = panels[:, column]
        grid = np.linspace(x[0], x[-1], 200)
        fitted = found.curve(grid)
        above.plot(x, (s - s[base]) / (p / p[base]), "s", color="black", markersize=3.5, label="measured")
        above.plot(grid, fitted, color=COLOURS["fit"], label="fit")
        if found.pnes is not None:
            above.plot([grid[-1]] * 2, [fitted.min(), fitted.max()], color=COLOURS["fit"], linewidth=4, alpha=0.4,
                       solid_capstyle="butt", label="PNES")  # fmt: skip
        below.plot(x, np.log(p / p[base]), "s", color="black", markersize=3.5)
        below.plot(grid, found.b * grid**2, color=COLOURS["fit"])
        for axes, r_squared in ((above, found.r_squared), (below, found.perplexity_r_squared)):
            told = "flat" if r_squared is None else f"R² = {r_squared:.2f}"
            axes.annotate(told, (0.5, 0.97), xycoords="axes fraction", fontsize=8, va="top", ha="center",
                          backgroundcolor="#ffffffb0")  # fmt: skip
        above.set_title(title, fontsize=9.5)
    panels[0, 0].set_ylabel("normalised effect")
    panels[1, 0].set_ylabel("log perplexity ratio")
    figure.supxlabel("strength, in median lengths of an activation", fontsize=10)
    _legend(figure, panels, 3)
    return figure


def _panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(max(6.6, width * columns + 0.6), height * rows + 0.8),
                                  sharey=True, squeeze=False)  # fmt: skip
    for axes in panels.flat[count:]:
        axes.set_visible(False)
    return figure, panels


def _legend(figure: Figure, panels: np.ndarray, columns: int) -> None:
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=8.5)


def _dots_and_mean(
    axes: Axes, x: float, values: pd.Series, colour: str, mark: str, label: str | None = None, shift: float = 0.06
) -> None:
    values = values.dropna().to_numpy(dtype=float)
    axes.plot(np.full(len(values), x - shift), values, mark, color=colour, alpha=0.4, markersize=3.5,
              markeredgewidth=0)  # fmt: skip
    if len(values) > 1:
        mean, low, high = mean_interval(values)
        axes.plot([x] * 2, [low, high], color=colour, linewidth=2.4, solid_capstyle="butt")
        axes.plot([x], [mean], mark, color=colour, markersize=5, label=label)
    elif len(values):
        axes.plot([x], values, mark, color=colour, markersize=5, label=label)


def _interval(wide: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = wide.to_numpy(dtype=float)
    if values.shape[1] > 1:
        return mean_interval(values)
    return values[:, 0], values[:, 0], values[:, 0]


def _wide(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    return rows.pivot(index="strength", columns="seed", values=column).astype(float)


def _relative(rows: pd.DataFrame) -> pd.DataFrame:
    """[strengths, seeds] perplexity in units of the unguided one."""
    wide = _wide(rows, "perplexity")
    return wide / wide.loc[min(wide.index, key=abs)]


def _places(strengths: pd.Series) -> dict[float, int]:
    ordered = sorted(strengths.unique())
    base = ordered.index(min(ordered, key=abs))
    return {strength: place - base for place, strength in enumerate(ordered)}


def _strength_ticks(axes: Axes, places: Mapping[float, int]) -> None:
    last = max(places.values())
    shown = {s: p for s, p in places.items() if p == 0 or (abs(p) > 1 and (last - abs(p)) % 2 == 0)}
    axes.set_xticks(list(shown.values()), [f"{s:g}".replace("-", "−") for s in shown], fontsize=7, rotation=45)


def _layers(top: int) -> str:
    return f"{top} layer{'s' if top > 1 else ''}"


def _scored_as(concept: str) -> str:
    """A guide of random labels is scored as one of truth."""
    return "truth" if concept == "random" else concept
