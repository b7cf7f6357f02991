"""The figures and tables of the chapter on CLIP-guided pre-training, drawn from rows of runs and their curves.

A row is one seed and arm, scores in percent. Every figure of answers carries what a network reaches that has not seen
the room: one that reads the question alone (the arm "blind"), one that is shown another room, and the best fixed answer
of each kind of question.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntf_utils.claims import mean_interval
from ntf_utils.data.rooms import KINDS
from ntf_utils.papers.clip_guided_3dqa.pretraining import GALLERY
from ntf_utils.show.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, YELLOW

ARMS = {
    "S": "S: from scratch",
    "D": "D: detection only",
    "T": "T: text",
    "I": "I: image",
    "TI": "TI: text and image",
    "Sh": "Sh: wrong rooms' targets",
    "R": "R: as released",
    "RT": "RT: untrained teacher",
    "TIx": "TI, no held-out pairs",
}
BLIND = "blind"  # the arm that is drawn as a control
COLOURS_OF_ARMS = {"S": BLACK, "D": ORANGE, "T": SKY, "I": GREEN, "TI": BLUE, "Sh": GREY, "R": VERMILLION,
                   "RT": PURPLE, "TIx": PURPLE}  # fmt: skip
SPLITS = {"iid": "iid: pairs that training asked about", "comp": "comp: pairs never asked about"}
_MARKS = ("o", "s", "^", "D", "v", "P")
_KIND_COLOURS = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, YELLOW)


def by_arm(table: pd.DataFrame) -> Figure:
    """Right answers of each arm, a panel a report: dots are seeds, bars the mean with its 95 % interval.

    Controls stand in the same panel: the shaded band is the network that reads only the question, the cross is the
    arm when it is shown another room, the dotted line the best fixed answer for each kind of question.

    Args:
        table: rows of runs: `arm`, `seed`, and `em1_<split>`, `swapped_<split>` and `majority_<split>` for the splits
            iid and comp, in percent.
    """
    arms = _arms(table)
    figure, panels = plt.subplots(1, len(SPLITS), figsize=(8.6, 0.42 * len(arms) + 1.5), sharey=True, sharex=True)
    for axes, (split, title) in zip(panels, SPLITS.items(), strict=True):
        _, low, high = _mean(_by_seed(table[table["arm"] == BLIND], f"em1_{split}"))
        axes.axvspan(low, high, color=GREY, alpha=0.3, linewidth=0, label="control: question only")
        axes.axvline(_by_seed(table, f"majority_{split}").mean(), color=GREY, linestyle=":", linewidth=1.4,
                     label="best fixed answer")  # fmt: skip
        for place, arm in enumerate(arms):
            rows = table[table["arm"] == arm]
            other = rows[f"swapped_{split}"].astype(float).mean()
            axes.plot([other], [place], "x", color=GREY, markersize=7, markeredgewidth=1.8, linestyle="none",
                      label="control: another room" if place == 0 else None)  # fmt: skip
            _dots(axes, rows[f"em1_{split}"].astype(float), place, COLOURS_OF_ARMS.get(arm, BLACK))
        axes.set_title(title, fontsize=9.5)
        axes.set_xlabel("EM@1, %")
        axes.grid(axis="y", visible=False)
    _name_arms(panels[0], arms)
    _legend(figure, panels[0], 3)
    return figure


def gains(
    table: pd.DataFrame, over: str = "S", column: str = "em1", name: str = "EM@1",
    least: Mapping[str, float] | None = None,
) -> Figure:  # fmt: skip
    """Points by which each arm beats another, paired by seed, a panel a report.

    Args:
        table: as for `by_arm`. over: the arm that the others are compared with.
        least: split -> the gain that a claim asks for, drawn as a dashed line.
    """
    arms = [arm for arm in _arms(table) if arm != over]
    figure, panels = plt.subplots(1, len(SPLITS), figsize=(8.6, 0.42 * len(arms) + 1.2), sharey=True, sharex=True)
    for axes, (split, title) in zip(panels, SPLITS.items(), strict=True):
        base = _by_seed(table[table["arm"] == over], f"{column}_{split}")
        for place, arm in enumerate(arms):
            gained = (_by_seed(table[table["arm"] == arm], f"{column}_{split}") - base).dropna()
            _dots(axes, gained, place, COLOURS_OF_ARMS.get(arm, BLACK))
        axes.axvline(0, color=COLOURS_OF_ARMS.get(over, BLACK), linewidth=1.4)
        axes.annotate(over, (0, 1), xycoords=("data", "axes fraction"), xytext=(3, -9), textcoords="offset points",
                      fontsize=8.5, color=COLOURS_OF_ARMS.get(over, BLACK))  # fmt: skip
        if least and split in least:
            axes.axvline(least[split], color=GREY, linestyle="--", linewidth=1.2, label="asked for by the claim")
        axes.set_title(title, fontsize=9.5)
        axes.set_xlabel(f"{name} minus that of {over}, points")
        axes.grid(axis="y", visible=False)
    _name_arms(panels[0], arms)
    if least:
        _legend(figure, panels[0 if "iid" in least else 1], 1)
    return figure


def gains_by_template(templates: pd.DataFrame, arm: str = "TI", over: str = "S") -> Figure:
    """Where a gain comes from: EM@1 of one arm minus another's for each kind of question, both reports side by side.

    Below the gains, in the same order, what both arms reach, with the network that reads only the question.

    Args:
        templates: the "templates" curves: `seed`, `arm`, `split`, `template`, `em1` in percent.
    """
    kinds = list(dict.fromkeys(templates["template"]))
    figure, panels = plt.subplots(2, len(SPLITS), figsize=(8.6, 5.2), sharey="row", sharex="col")
    for column, (split, title) in enumerate(SPLITS.items()):
        above, below = panels[:, column]
        here = templates[templates["split"] == split]
        for place, kind in enumerate(kinds):
            rows = here[here["template"] == kind]
            said = {one: _by_seed(rows[rows["arm"] == one], "em1") for one in (arm, over)}
            _dots(above, (said[arm] - said[over]).dropna(), place, COLOURS_OF_ARMS.get(arm, BLACK), upright=True)
            blind = _by_seed(rows[rows["arm"] == BLIND], "em1").mean()
            below.plot([place - 0.3, place + 0.3], [blind] * 2, color=GREY, linewidth=2,
                       label="control: question only" if place == 0 else None)  # fmt: skip
            for one, shift, mark in ((over, -0.12, "s"), (arm, 0.12, "D")):
                _interval(below, said[one], place + shift, COLOURS_OF_ARMS.get(one, BLACK), mark,
                          ARMS.get(one, one) if place == 0 else None)  # fmt: skip
        above.axhline(0, color=COLOURS_OF_ARMS.get(over, BLACK), linewidth=1.4)
        above.set_title(title, fontsize=9.5)
        below.set_xticks(range(len(kinds)), kinds, rotation=35, ha="right", fontsize=8.5)
        for axes in (above, below):
            axes.grid(axis="x", visible=False)
    panels[0, 0].set_ylabel(f"{arm} minus {over}, points")
    panels[1, 0].set_ylabel("EM@1, %")
    _legend(figure, panels[1, 0], 3)
    return figure


def maps(points: pd.DataFrame, table: pd.DataFrame, most: pd.Series | None = None) -> Figure:
    """Scene vectors of unseen rooms drawn flat by t-SNE, a panel an arm, and the purity that they truly have beside it.

    Mark and colour are the room's type. On the right, the share of the five nearest neighbours that are of the same
    type; grey, what 95 % of permutations of the types stay below.

    Args:
        points: the "map" curves of one seed: `arm`, `x`, `y`, `kind`.
        table: rows of runs: `arm`, `seed`, `purity`, `purity_95`, shares.
        most: purity of who counts every room's things, in percent by seed; drawn as a dotted line.
    """
    drawn = [arm for arm in _arms(table) if arm in set(points["arm"])]
    kinds = sorted(points["kind"].unique())
    figure, panels = plt.subplots(1, len(drawn) + 1, figsize=(2.0 * len(drawn) + 3.1, 2.9),
                                  width_ratios=[1] * len(drawn) + [1.35])  # fmt: skip
    for axes, arm in zip(panels, drawn, strict=False):
        for number, kind in enumerate(kinds):
            rows = points[(points["arm"] == arm) & (points["kind"] == kind)]
            colour = _KIND_COLOURS[number % len(_KIND_COLOURS)]
            axes.plot(rows["x"], rows["y"], _MARKS[number % len(_MARKS)], color=colour, markersize=4, alpha=0.8,
                      markeredgewidth=0, linestyle="none", label=kind)  # fmt: skip
        axes.set_title(ARMS.get(arm, arm), fontsize=9)
        axes.set(xticks=[], yticks=[], xlabel="t-SNE 1")
        axes.set_box_aspect(1)
    panels[0].set_ylabel("t-SNE 2")
    _purities(panels[-1], table, most)
    _legend(figure, panels[0], len(kinds))
    return figure


def _purities(axes: Axes, table: pd.DataFrame, most: pd.Series | None) -> None:
    arms, nulls = _arms(table), []
    for place, arm in enumerate(arms):
        rows = table[table["arm"] == arm]
        null = 100 * rows["purity_95"].astype(float).mean()
        nulls.append(null)
        axes.plot([null] * 2, [place - 0.35, place + 0.35], color=GREY, linewidth=2)
        _dots(axes, 100 * rows["purity"].astype(float), place, COLOURS_OF_ARMS.get(arm, BLACK))
    axes.annotate("95 % of permuted types", (min(nulls), -0.6), fontsize=7.5, color="#555555", va="bottom")
    if most is not None:
        axes.axvline(most.mean(), color=BLACK, linestyle=":", linewidth=1.2)
        axes.annotate("counts known ", (most.mean(), 1), xycoords=("data", "axes fraction"), fontsize=7.5,
                      color="#555555", ha="right", va="top")  # fmt: skip
    axes.set_yticks(range(len(arms)), arms, fontsize=9)
    axes.set_ylim(len(arms) - 0.4, -1.4)
    axes.set_xlabel("purity of 5 neighbours, %")
    axes.grid(axis="y", visible=False)


def cosines(table: pd.DataFrame, of: str = "cosine") -> Figure:
    """The cosine trap: how close scene vectors come to the teacher's of their rooms, and how close a constant comes.

    Left, the mean cosine of each arm with the mark of a constant vector, which knows no room. Middle, the cosine once
    both means are taken away. Right, how often a room finds its own caption or picture.

    Args:
        table: rows of runs: `arm`, `seed`, and the columns that `vector_knowledge` gives.
        of: "cosine" to the captions' vectors, "image_cosine" to the pictures'.
    """
    what, retrieved = ("caption", "recall1") if of == "cosine" else ("picture", "image_recall1")
    arms = _arms(table)
    figure, panels = plt.subplots(1, 3, figsize=(8.6, 0.36 * len(arms) + 1.6), sharey=True)
    columns = {of: (f"cosine to the {what}", 1), f"{of}_centred": ("the same, centred", 1),
               retrieved: (f"rooms that find their\n{what} among {GALLERY}, %", 100)}  # fmt: skip
    table = table.assign(centred_floor=0.0, recall_floor=1 / GALLERY)
    floors = {of: f"{of}_constant", f"{of}_centred": "centred_floor", retrieved: "recall_floor"}
    for axes, (column, (title, scale)) in zip(panels, columns.items(), strict=True):
        for place, arm in enumerate(arms):
            rows = table[table["arm"] == arm]
            floor = scale * rows[floors[column]].astype(float).mean()
            axes.plot([floor] * 2, [place - 0.35, place + 0.35], color=GREY, linewidth=2.2,
                      label="knows no room: one vector for all, or chance" if place == 0 else None)  # fmt: skip
            _dots(axes, scale * rows[column].astype(float), place, COLOURS_OF_ARMS.get(arm, BLACK))
        axes.set_xlabel(title)
        axes.grid(axis="y", visible=False)
    _name_arms(panels[0], arms)
    _legend(figure, panels[0], 1)
    return figure


def data_curve(table: pd.DataFrame, over: str, name: str, column: str = "em1") -> Figure:
    """Right answers against how much there is to learn from, a line an arm: the mean with its 95 % interval.

    Args:
        table: rows of runs, several settings of `over` an arm. over: the column of the x axis, logarithmic.
        name: of it.
    """
    figure, panels = plt.subplots(1, len(SPLITS), figsize=(8.6, 3.3), sharey=True)
    for axes, (split, title) in zip(panels, SPLITS.items(), strict=True):
        amounts = sorted(table[over].unique())
        blind = table.loc[table["arm"] == BLIND, f"em1_{split}"].astype(float)
        axes.axhline(blind.mean(), linestyle=":", color=GREY, label="control: question only")
        for number, arm in enumerate(_arms(table)):
            rows = table[table["arm"] == arm]
            found = [_mean(_by_seed(rows[rows[over] == amount], f"{column}_{split}")) for amount in amounts]
            mean, low, high = np.array(found).T
            colour = COLOURS_OF_ARMS.get(arm, BLACK)
            axes.plot(amounts, mean, marker=_MARKS[number % len(_MARKS)], color=colour, label=ARMS.get(arm, arm))
            axes.fill_between(amounts, low, high, color=colour, alpha=0.14, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks(amounts, [f"{amount:g}" for amount in amounts])
        axes.minorticks_off()
        axes.set_title(title, fontsize=9.5)
        axes.set_xlabel(name)
    panels[0].set_ylabel("EM@1, %")
    _legend(figure, panels[0], 4)
    return figure


# tables


def answers_table(table: pd.DataFrame, split: str = "comp") -> pd.DataFrame:
    """A line an arm, means over seeds in percent: answers, things found and named; the control that sees another room.

    The last two lines answer without a room: the network that reads only the question and the best fixed answer.
    BLEU-4, ROUGE-L and CIDEr are a hundred times pycocoevalcap's, as papers print them. Of answers of one word CIDEr
    ends at 250.
    """
    columns = {"EM@1": "em1", "EM@3": "em3", "BLEU-4": "bleu4", "ROUGE-L": "rouge_l", "CIDEr": "cider",
               "Acc": "acc25", "class": "kind", "other room": "swapped"}  # fmt: skip
    lines = {}
    for arm in _arms(table):
        rows = table[table["arm"] == arm]
        scale = {"BLEU-4": 100, "ROUGE-L": 100, "CIDEr": 100}
        found = {name: scale.get(name, 1) * rows[f"{column}_{split}"].astype(float).mean()
                 for name, column in columns.items()}  # fmt: skip
        half = _mean(rows[f"em1_{split}"].astype(float))
        lines[arm] = {"EM@1": found.pop("EM@1"), "+-": half[2] - half[0], **found}
    blind = _by_seed(table[table["arm"] == BLIND], f"em1_{split}")
    for label, told in (("question only", blind), ("fixed answers", _by_seed(table, f"majority_{split}"))):
        lines[label] = {"EM@1": told.mean(), "+-": _mean(told)[2] - told.mean()}
    return pd.DataFrame.from_dict(lines, orient="index").round(1).astype(object).fillna("")


def spaces_table(table: pd.DataFrame, prefix: str = "", of: str = "cosine") -> pd.DataFrame:
    """A line an arm, means over seeds: what the scene vectors know; the last line, what is reached without knowing.

    Args:
        prefix: of the columns: "" after pre-training, "tuned_" after training on questions.
        of: "cosine" to the captions' vectors, "image_cosine" to the pictures'.
    """
    retrieved = "recall1" if of == "cosine" else "image_recall1"
    columns = {"purity": ("purity", 100), "permuted": ("purity_95", 100), "zero-shot": ("zero_shot", 100),
               "R@1": (retrieved, 100), "cosine": (of, 1), "constant": (f"{of}_constant", 1),
               "centred": (f"{of}_centred", 1)}  # fmt: skip
    lines = {}
    for arm in _arms(table):
        rows = table[table["arm"] == arm]
        means = {name: scale * rows[prefix + column].astype(float).mean() for name, (column, scale) in columns.items()}
        digits = {name: 1 if scale > 1 else 2 for name, (_, scale) in columns.items()}
        lines[arm] = {name: round(mean, digits[name]) for name, mean in means.items()}
    nothing = {"purity": round(100 / len(KINDS), 1), "zero-shot": round(100 / len(KINDS), 1),
               "R@1": round(100 / GALLERY, 1), "centred": 0.0}  # fmt: skip
    found = pd.DataFrame.from_dict(lines | {"chance": nothing}, orient="index")
    return found.astype(object).fillna("")


def scans_table(table: pd.DataFrame) -> pd.DataFrame:
    """A line an arm of the runs on ScanNet's scans, means over seeds in percent; see `answer_in_scans`."""
    columns = {"EM@1": "em1", "EM@10": "em10", "answerable": "em1_answerable", "BLEU-4": "bleu_4", "ROUGE-L": "rouge_l",
               "CIDEr": "cider", "Acc@.25": "acc25", "other scan": "swapped"}  # fmt: skip
    scale = {"BLEU-4": 100, "ROUGE-L": 100, "CIDEr": 100}
    lines = {}
    for arm in [*_arms(table), BLIND]:
        rows = table[table["arm"] == arm]
        if len(rows):
            mean, _, high = _mean(rows["em1"].astype(float))
            found = {name: scale.get(name, 1) * rows[column].astype(float).mean() for name, column in columns.items()
                     if column in rows}  # fmt: skip
            lines["question only" if arm == BLIND else arm] = {"EM@1": found.pop("EM@1"), "+-": high - mean, **found}
    return pd.DataFrame.from_dict(lines, orient="index").round(1).astype(object).fillna("")


# parts


def _arms(table: pd.DataFrame) -> list[str]:
    """The arms that the table holds beside the blind one, in the chapter's order."""
    there = [arm for arm in dict.fromkeys(table["arm"]) if arm != BLIND]
    return [arm for arm in ARMS if arm in there] + [arm for arm in there if arm not in ARMS]


def _by_seed(rows: pd.DataFrame, column: str) -> pd.Series:
    """A column by seed; where several arms have a seed's control in common, once."""
    return rows.drop_duplicates("seed").set_index("seed")[column].astype(float)


def _mean(values: Sequence[float] | pd.Series) -> tuple[float, float, float]:
    """Mean and 95 % interval; of a single seed the value three times."""
    found = np.asarray(values, dtype=float)
    if len(found) < 2:
        return (found.mean(),) * 3 if len(found) else (np.nan,) * 3
    return tuple(float(value) for value in mean_interval(found))


def _dots(axes: Axes, values: pd.Series, place: float, colour: str, upright: bool = False) -> None:
    """Seeds as dots, their mean as a diamond on its interval."""
    found = values.to_numpy(dtype=float)
    spots = (np.full(len(found), place), found)
    axes.plot(*(spots if upright else spots[::-1]), "o", color=colour, alpha=0.35, markersize=3.5, markeredgewidth=0)
    mean, low, high = _mean(found)
    bar, centre = ([place] * 2, [low, high]), ([place], [mean])
    axes.plot(*(bar if upright else bar[::-1]), color=colour, linewidth=2.6, solid_capstyle="butt")
    axes.plot(*(centre if upright else centre[::-1]), "D", color=colour, markersize=5)


def _interval(axes: Axes, values: pd.Series, place: float, colour: str, mark: str, label: str | None) -> None:
    mean, low, high = _mean(values)
    axes.plot([place] * 2, [low, high], color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot([place], [mean], mark, color=colour, markersize=5, linestyle="none", label=label)


def _name_arms(axes: Axes, arms: Sequence[str]) -> None:
    axes.set_yticks(range(len(arms)), [ARMS.get(arm, arm) for arm in arms], fontsize=9)
    axes.set_ylim(len(arms) - 0.4, -0.6)


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=8.5)
