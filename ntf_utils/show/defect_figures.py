"""The figures and tables of the page on the published code: where the alignment's gradient goes, and what follows."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntf_utils.claims import mean_interval
from ntf_utils.show.style import BLACK, BLUE, GREY, VERMILLION
from ntf_utils.show.wording import number

VARIANTS = {"fixed": "mended", "released": "as released"}
ARMS = {"TI": "mended", "R": "as released"}
_COLOURS = {"fixed": BLUE, "TI": BLUE, "released": VERMILLION, "R": VERMILLION}
_NETWORKS = {"proposals given": "proposals given: the chapter's arms", "end to end": "end to end: VoteNet below"}
_FOUND = {"acc25": "Acc@0.25", "acc50": "Acc@0.5", "map25": "mAP@0.25", "map50": "mAP@0.5"}


def gradient_bars(gradients: pd.DataFrame) -> Figure:
    """Gradient of the alignment at each part of the network, a panel a network: bars are means, dots seeds.

    Parts stand in the order of the data's way, the points below, the scene vector on top. A bar of length 0 is named.

    Args:
        gradients: the "gradients" curves: `network`, `variant`, `part`, `norm`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.9), layout="constrained")
    left = 10 ** np.floor(np.log10(gradients.loc[gradients["norm"] > 0, "norm"].min()))
    right = 2 * gradients["norm"].max()
    for axes, (network, title) in zip(panels, _NETWORKS.items(), strict=True):
        here = gradients[gradients["network"] == network]
        parts = list(dict.fromkeys(here["part"]))
        for shift, variant in ((0.2, "fixed"), (-0.2, "released")):
            for place, part in enumerate(parts):
                norms = here[(here["part"] == part) & (here["variant"] == variant)]["norm"].to_numpy(dtype=float)
                _bar(axes, norms, place + shift, variant, left, label=VARIANTS[variant] if place == 0 else None)
        axes.set(xscale="log", xlim=(left, right), yticks=range(len(parts)), yticklabels=parts,
                 xlabel="norm of the alignment's gradient")  # fmt: skip
        axes.set_title(title, fontsize=9.5)
        axes.grid(axis="y", visible=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=9)
    return figure


def _bar(axes: Axes, norms: np.ndarray, place: float, variant: str, left: float, label: str | None) -> None:
    colour, mean = _COLOURS[variant], norms.mean()
    hatch = "///" if variant == "released" else None
    axes.barh(place, max(mean - left, 0), left=left, height=0.36, color=colour, alpha=0.85, hatch=hatch,
              edgecolor="white", linewidth=0, label=label)  # fmt: skip
    if mean == 0:
        axes.annotate("exactly 0", (left, place), xytext=(3, 0), textcoords="offset points", va="center",
                      fontsize=8.5, color=colour)  # fmt: skip
    else:
        axes.plot(norms, np.full(len(norms), place), "o", color=BLACK, markersize=2.6)


def end_to_end(table: pd.DataFrame) -> Figure:
    """Detectors trained with the alignment above them, mended and as released: dots are seeds, bars 95 % intervals.

    Left what they find, beside the same network before training (grey crosses); right what the scene vector knows,
    beside chance.

    Args:
        table: rows of `train_detector`: `arm`, `seed`, acc25 ... in percent.
    """
    figure, (found, known) = plt.subplots(
        1, 2, figsize=(8.6, 3.4), width_ratios=(3, 2), layout="constrained"
    )
    for shift, arm in ((-0.13, "TI"), (0.13, "R")):
        rows = table[table["arm"] == arm]
        for place, name in enumerate(_FOUND):
            _dots(found, rows[name].to_numpy(dtype=float), place + shift, arm, ARMS[arm] if place == 0 else None)
        for place, values in enumerate((rows["recall1"], 100 * rows["cosine_centred"])):
            _dots(known, values.to_numpy(dtype=float), place + shift, arm)
    for place, name in enumerate(_FOUND):
        before = table[f"untrained_{name}"].to_numpy(dtype=float).mean()
        found.plot([place], [before], "x", color=GREY, markersize=7, markeredgewidth=1.8, linestyle="none",
                   label="control: before training" if place == 0 else None)  # fmt: skip
    found.set(xticks=range(len(_FOUND)), xticklabels=_FOUND.values(), ylabel="unseen rooms, %", ylim=(-3, 103))
    found.set_title("things found", fontsize=9.5)
    chance = float(table["recall1_chance"].iloc[0])
    known.plot([-0.35, 0.35], [chance] * 2, color=GREY, linestyle=":", label="control: chance")
    known.plot([0.65, 1.35], [0] * 2, color=GREY, linestyle=":")
    known.set(xticks=(0, 1), xticklabels=("R@1 of the picture", "centred cosine"), ylabel="unseen rooms, %")
    known.set_title("the scene vector", fontsize=9.5)
    for axes in (found, known):
        axes.grid(axis="x", visible=False)
    (handles, labels), (more, names) = (axes.get_legend_handles_labels() for axes in (found, known))
    figure.legend(handles + more, labels + names, loc="outside upper center", ncols=4, fontsize=9)
    return figure


def _dots(axes: Axes, values: np.ndarray, place: float, arm: str, label: str | None = None) -> None:
    """Seeds, their mean and its 95 % interval at one place of the x axis."""
    colour, marker = _COLOURS[arm], "o" if arm == "TI" else "s"
    if len(values) > 1:
        _, low, high = mean_interval(values)
        axes.plot([place] * 2, [low, high], color=colour, linewidth=3, alpha=0.55, solid_capstyle="butt")
    axes.plot(np.full(len(values), place), values, marker, color=colour, markersize=4, markeredgewidth=0, label=label,
              linestyle="none")  # fmt: skip


def losses_on_the_way(learning: pd.DataFrame, parts: Sequence[str] = ("vote", "objectness", "box", "class")) -> Figure:
    """The detection losses over the updates, a panel each: thin lines are seeds, thick ones their mean.

    Args:
        learning: the "learning" curves of `train_detector`, with `arm` and `seed`.
    """
    units = {"vote": "m", "objectness": "nats", "box": "m² and parts", "class": "nats"}
    figure, panels = plt.subplots(1, len(parts), figsize=(8.6, 2.5), layout="constrained")
    for axes, part in zip(panels, parts, strict=True):
        for arm in ("TI", "R"):
            wide = learning[learning["arm"] == arm].pivot(index="step", columns="seed", values=part).astype(float)
            line = "-" if arm == "TI" else "--"
            axes.plot(wide.index, wide, line, color=_COLOURS[arm], alpha=0.3, linewidth=0.8)
            axes.plot(wide.index, wide.mean(axis=1), line, color=_COLOURS[arm], label=ARMS[arm])
        axes.set(xlabel="updates", ylabel=units.get(part, ""), ylim=(0, None))
        axes.set_title(part, fontsize=9.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=9)
    return figure


def consequences(table: pd.DataFrame) -> pd.DataFrame:
    """A line a defect: what is measured, as released and mended; means over seeds.

    Args:
        table: rows of `measure_defects`.
    """
    told = {
        "gradient at the proposals' encoder": "gradient", "the same, end to end": "end_to_end",
        "spread of scene vectors": "spread", "pre-trained tensors loaded": "loaded",
        "DepthContrast's tensors loaded": "trunk", "answers that change in another batch, %": "changed",
    }  # fmt: skip
    lines = {
        what: {VARIANTS[v]: _short(table[f"{name}_{v}"].astype(float).mean()) for v in ("released", "fixed")}
        for what, name in told.items()
    }
    for what, of in (("pre-trained tensors loaded", "of"), ("DepthContrast's tensors loaded", "trunk_of")):
        lines[what]["of"] = _short(table[of].astype(float).mean())
    return pd.DataFrame.from_dict(lines, orient="index").fillna("")


def _short(value: float) -> str:
    """Three digits; powers of ten below a ten-thousandth."""
    return number(value) if value == 0 or abs(value) >= 1e-4 else f"{value:.0e}".replace("-", "−")


def detectors(table: pd.DataFrame) -> pd.DataFrame:
    """A line a detector: things found, mean average precision, what z_scene knows; means over seeds, percent.

    Args:
        table: rows of `train_detector`.
    """
    columns = _FOUND | {"recall1": "R@1"}
    lines = {ARMS[arm]: rows[list(columns)].astype(float).mean() for arm, rows in table.groupby("arm", sort=False)}
    before = table[[f"untrained_{name}" for name in _FOUND]].astype(float).mean()
    lines["before training"] = before.rename(lambda name: name.removeprefix("untrained_"))
    components = table[["components_acc25", "components_acc50"]].astype(float).mean()
    lines["components, no network"] = components.rename(lambda name: name.removeprefix("components_"))
    found = pd.DataFrame.from_dict(lines, orient="index").reindex(columns=list(columns)).rename(columns=columns)
    return found.map(lambda value: "" if np.isnan(value) else f"{value:.1f}")
