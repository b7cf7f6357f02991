"""From the rows of the chapter's experiments to what is judged: one number a seed, and the gates.

A table of cells is one of `sweep(measure_guides, ...)` without the null, a table of nulls one with the null alone. A
*reach* is the range of a concept's score over the fluent strengths, PNES the paper's measure. All come from the half of
the prompts on which no cell was picked.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from ntf_utils.claims import mean_interval

FIVE = ("truth", "appropriateness", "humor", "creativity", "quality")  # the paper's concepts, each counted once
PARSES, RECALLS, PRIMES, QUIET = 0.97, 0.9, 0.3, 0.6  # of the gates
NORMALISED_FIT = 0.8  # R² from which the paper's curve counts as fitting


def beside_null(cells: pd.DataFrame, nulls: pd.DataFrame) -> pd.DataFrame:
    """The cells with the null of the same seed, site, number of layers and score: columns pnes_95, reach_95 and so on.

    "random" is scored as truth.
    """
    scored = cells["concept"].replace({"random": "truth"}).rename("scored")
    shown = ["seed", "site", "top", "scored", *(c for c in nulls.columns if c.endswith(("_95", "_mean")))]
    return cells.assign(scored=scored).merge(nulls[shown], on=["seed", "site", "top", "scored"], how="left")


def full(cells: pd.DataFrame) -> pd.DataFrame:
    """Without the second fits on few examples."""
    return cells[cells["fitted_on"] == cells["examples"]]


def picked(cells: pd.DataFrame) -> pd.DataFrame:
    """The cell of each seed and concept that did best on the other half of the prompts."""
    return cells[cells["picked"].astype(bool)]


def margin(cells: pd.DataFrame, concept: str, measure: str = "reach") -> pd.Series:
    """A concept's measure in its picked cell minus the null's, by seed."""
    rows = picked(cells)
    rows = rows[rows["concept"] == concept].set_index("seed")
    return rows[measure] - rows[f"{measure}_95"]


def count_above(cells: pd.DataFrame, concepts: Sequence[str] = FIVE) -> pd.Series:
    """How many concepts have a reach above the null, by seed."""
    return sum((margin(cells, concept) > 0).astype(int) for concept in concepts)


def mean_margin(cells: pd.DataFrame, concepts: Sequence[str]) -> pd.Series:
    return sum(margin(cells, concept) for concept in concepts) / len(concepts)


def share_above(cells: pd.DataFrame, concept: str) -> pd.Series:
    """Share of a concept's cells with a PNES above the null, by seed."""
    rows = full(cells)[lambda table: table["concept"] == concept]
    return (rows["pnes"] > rows["pnes_95"]).groupby(rows["seed"]).mean()


def lead(cells: pd.DataFrame, concept: str) -> pd.Series:
    """A concept's share of cells above the null minus the second largest share of the other four: not below 0 for the
    two best."""
    others = pd.DataFrame({name: share_above(cells, name) for name in FIVE if name != concept})
    second = others.apply(lambda row: row.nlargest(2).iloc[-1], axis=1)
    return share_above(cells, concept) - second


def worst_probe(cells: pd.DataFrame, concept: str) -> pd.Series:
    """PNES minus null for the worst of a concept's probes, each in the site and layers that did best with it on the
    other half of the prompts, by seed."""
    rows = full(cells)[lambda table: table["concept"] == concept]
    best = rows.loc[rows.groupby(["seed", "probe"])["pnes_pick"].idxmax()]
    return (best["pnes"] - best["pnes_95"]).groupby(best["seed"]).min()


def spread(cells: pd.DataFrame, concept: str, least: float = 0.01) -> pd.Series:
    """log of PNES in the picked cell over the median of all cells, by seed; both at least `least`, our resolution."""
    rows = full(cells)[lambda table: table["concept"] == concept]
    median = rows.groupby("seed")["pnes"].median().clip(lower=least)
    best = picked(rows).set_index("seed")["pnes"].clip(lower=least)
    return np.log(best / median)


def regret(cells: pd.DataFrame, concepts: Sequence[str] = FIVE) -> pd.Series:
    """PNES of the cell picked on the other half of the prompts minus that of the cell with the best held-out detection
    accuracy, mean over concepts, by seed. It may be negative: neither was chosen on the prompts that report."""
    rows = full(cells)
    found = {}
    for concept in concepts:
        own = rows[rows["concept"] == concept]
        detector = own.loc[own.groupby("seed")["accuracy"].idxmax()].set_index("seed")["pnes"]
        found[concept] = picked(own).set_index("seed")["pnes"] - detector
    return pd.DataFrame(found).mean(axis=1)


def detection_rank_correlation(cells: pd.DataFrame, concepts: Sequence[str] = FIVE) -> pd.DataFrame:
    """Spearman's correlation over cells of held-out accuracy and PNES: a row a seed, a column a concept.

    Without a spread in either there is no correlation, which counts as 0.
    """
    rows = full(cells)
    lines = {
        concept: {seed: _correlation(part, stats.spearmanr, "accuracy", "pnes")
                  for seed, part in rows[rows["concept"] == concept].groupby("seed")}
        for concept in concepts
    }  # fmt: skip
    return pd.DataFrame(lines)


def agreement(cells: pd.DataFrame, other: str) -> pd.Series:
    """Kendall's correlation over all cells of PNES and another measure of them, by seed."""
    return pd.Series({seed: _correlation(rows, stats.kendalltau, "pnes", other)
                      for seed, rows in full(cells).groupby("seed")})  # fmt: skip


def _correlation(rows: pd.DataFrame, measure, first: str, second: str) -> float:
    one, two = rows[first].astype(float), rows[second].astype(float)
    return float(measure(one, two).statistic) if one.nunique() > 1 and two.nunique() > 1 else 0.0


def fit_quality(cells: pd.DataFrame) -> pd.DataFrame:
    """By seed: the median R² of the log perplexity's parabola over all cells, and the share of the cells above the null
    whose normalised effect is fitted with R² of 0.8 or more."""
    rows = full(cells)
    parabola = rows.groupby("seed")["perplexity_r_squared"].median()
    above = rows[rows["pnes"] > rows["pnes_95"]]
    good = above["r_squared"].astype(float) >= NORMALISED_FIT
    curve = (
        good.groupby(above["seed"]).mean().reindex(parabola.index, fill_value=0.0)
    )  # no such cell: nothing is fitted
    return pd.DataFrame({"parabola": parabola.fillna(0.0), "curve": curve})


def fooled(nulls: pd.DataFrame) -> pd.DataFrame:
    """Raw effect and PNES of random directions on the judge that broken text fools, mean over directions and settings,
    by seed."""
    rows = nulls[nulls["scored"] == "not_myth"]
    return rows.groupby("seed")[["raw_range_mean", "pnes_mean"]].mean()


def confusion(cells: pd.DataFrame, crossed: pd.DataFrame) -> pd.DataFrame:
    """What the picked guide of appropriateness changes, by seed: `ratio` and `same_sign` of claim C5.

    Args:
        crossed: the "cross" curves of the runs with the concept appropriateness; a column `seed` tells them apart.
    """
    ends = picked(cells)[lambda table: table["concept"] == "appropriateness"].set_index("seed")[["low", "high"]]
    found = {}
    columns = ["compliance", "appropriateness", "compliance_harmless", "compliance_harmful"]
    for seed, lines in crossed.groupby("seed"):
        scores = lines.set_index("strength")[columns].astype(float)
        low, high = (
            min(scores.index, key=lambda strength: abs(strength - ends.loc[seed, end])) for end in ("low", "high")
        )
        change = scores.loc[high] - scores.loc[low]
        parts = change[["compliance_harmless", "compliance_harmful"]]
        found[seed] = {
            "ratio": abs(change["compliance"]) - 3 * abs(change["appropriateness"]),
            "same_sign": parts.abs().min() * np.sign(parts.prod()),
            "compliance": change["compliance"], "appropriateness": change["appropriateness"],
        }  # fmt: skip
    return pd.DataFrame.from_dict(found, orient="index")


def few_examples(cells: pd.DataFrame, concepts: Sequence[str] = FIVE, share: float = 0.8) -> pd.Series:
    """PNES of the picked cell fitted to few examples minus `share` of that fitted to all, mean over the concepts above
    the null, by seed. A seed without such a concept has none."""
    found = {}
    for seed, rows in cells.groupby("seed"):
        best, few = picked(rows).set_index("concept"), rows[rows["fitted_on"] < rows["examples"]].set_index("concept")
        above = [c for c in concepts if c in few.index and best.loc[c, "pnes"] > best.loc[c, "pnes_95"]]
        if above:
            found[seed] = float(np.mean([few.loc[c, "pnes"] - share * best.loc[c, "pnes"] for c in above]))
    return pd.Series(found, dtype=float)


def interaction(larger: pd.DataFrame, smaller: pd.DataFrame) -> pd.Series:
    """PNES of creativity minus that of quality in the larger model, minus the same in the smaller one, by seed."""
    difference = []
    for cells in (larger, smaller):
        best = picked(cells).pivot(index="seed", columns="concept", values="pnes")
        difference.append(best["creativity"] - best["quality"])
    return (difference[0] - difference[1]).dropna()


def at_share(flips: pd.DataFrame, measure: str, which: str) -> pd.Series:
    """A measure of `flip_sign` at the smallest ("few") or the largest ("many") share of harmful prompts, by seed."""
    edge = flips["share"].min() if which == "few" else flips["share"].max()
    return flips[flips["share"] == edge].set_index("seed")[measure].astype(float)


def gates(models: pd.DataFrame, cells: pd.DataFrame | None = None) -> dict[str, bool]:
    """The chapter's gates: from the table of `train_persona`, and for the two controls from cells beside their null."""
    primes = {c: bool((models[f"{c}_high"] - models[f"{c}_low"]).mean() >= PRIMES) for c in (*FIVE, "compliance")}
    found = {
        "parses": bool((models["parsed"] >= PARSES).all()), "recalls": bool((models["recall"] >= RECALLS).all()),
        **{f"primed_{concept}": passed for concept, passed in primes.items()},
    }  # fmt: skip
    if cells is not None:
        polite = margin(cells, "polite").to_numpy(dtype=float)
        found["polite_guided"] = len(polite) > 1 and bool(mean_interval(polite)[1] > 0)
        random = full(cells)[lambda table: table["concept"] == "random"]
        found["random_quiet"] = bool(random["accuracy"].mean() < QUIET and margin(cells, "random").mean() <= 0)
    return found


def summary(cells: pd.DataFrame) -> pd.DataFrame:
    """A line a concept: the picked cell's accuracy, reach and PNES beside the null's, means over seeds, and in how many
    seeds the reach exceeds the null."""
    lines = {}
    for concept, rows in picked(cells).groupby("concept", sort=False):
        above = int((rows["reach"] > rows["reach_95"]).sum())
        lines[concept] = {
            "accuracy": rows["accuracy"].mean(), "reach": rows["reach"].mean(), "null reach": rows["reach_95"].mean(),
            "PNES": rows["pnes"].mean(), "null PNES": rows["pnes_95"].mean(),
            "signed": rows["signed"].mean(), "above null": f"{above} of {len(rows)}",
        }  # fmt: skip
    return pd.DataFrame.from_dict(lines, orient="index").round(3)
