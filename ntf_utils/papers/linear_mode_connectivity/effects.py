"""From rows of `measure_connectivity` to what is judged: one number an initialisation, and the chapter's gates.

A row is one initialisation in one setting, its pairs averaged already. Where nothing could be measured, because
copies diverged, `relative` is missing: such a row stands in the tables and takes no part in an effect.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ntf_utils.claims import mean_interval
from ntf_utils.refusal import Refusal

CONNECTED = 0.05  # r below which two networks count as connected
CONNECTED_ERROR = 0.02  # and their error barrier (Frankle et al. 2020, from memory)
REFERENCE = 0.1  # nats that independent networks must be apart for r to mean anything
FITTED = 0.02  # training error of a network that is not merely undertrained
SMALLEST = 1e-4  # r below this is rounding, and has no logarithm worth interpolating


def relative(table: pd.DataFrame) -> pd.Series:
    """r of each initialisation, by seed; those without one are left out.

    Raises:
        Refusal: the table holds more than one setting.
    """
    if table["key"].nunique() > 1:
        raise Refusal(f"one setting at a time: the table holds {table['key'].nunique()}")
    return table.set_index("seed")["relative"].dropna().astype(float)


def difference(table: pd.DataFrame, baseline: pd.DataFrame) -> pd.Series:
    """r in one setting minus r in another, for each initialisation that has both."""
    return (relative(table) - relative(baseline)).dropna()


def rank_correlation(table: pd.DataFrame, over: str) -> pd.Series:
    """Spearman's correlation of r with a config column, for each initialisation that has three settings or more.

    An initialisation whose r never moves has no correlation and counts as 0.
    """
    found = {}
    for seed, rows in table.dropna(subset="relative").groupby("seed"):
        if rows[over].nunique() >= 3:
            ranks = rows[[over, "relative"]].astype(float).rank()
            found[seed] = ranks[over].corr(ranks["relative"]) if ranks["relative"].nunique() > 1 else 0.0
    return pd.Series(found, dtype=float)


def at_equal_loss(table: pd.DataFrame, loss: float) -> pd.Series:
    """r at a given training loss, for each initialisation, between the learning rates that enclose it.

    From the lowest rate upwards, the first two neighbours whose training losses lie on both sides of `loss` are
    taken, and log r is drawn as a straight line over the log of the loss, because r grows like a power of the rate.
    Initialisations without such neighbours are left out.
    """
    found = {}
    for seed, rows in table.dropna(subset="relative").groupby("seed"):
        rows = rows.sort_values("learning_rate")
        losses = rows["train_loss"].to_numpy(dtype=float)
        heights = rows["relative"].to_numpy(dtype=float).clip(min=SMALLEST)
        for i in range(len(rows) - 1):
            if min(losses[i : i + 2]) <= loss <= max(losses[i : i + 2]):
                order = np.argsort(losses[i : i + 2])
                ends = np.log(losses[i : i + 2])[order], np.log(heights[i : i + 2])[order]
                found[seed] = float(np.exp(np.interp(np.log(loss), *ends)))
                break
    return pd.Series(found, dtype=float)


def connected(table: pd.DataFrame) -> pd.Series:
    """Whether each row's copies are connected; a row without r is not."""
    heights = table[["relative", "error_barrier"]].astype(float)
    return (heights["relative"] < CONNECTED) & (heights["error_barrier"] < CONNECTED_ERROR)


def connected_decades(table: pd.DataFrame, largest_error: float) -> pd.Series:
    """How many decades of learning rates each initialisation stays connected over.

    The longest run of neighbouring rates of the table at which the initialisation is connected and its training
    error is below `largest_error`, as log10 of the ratio of its ends; 0 for a single rate or none.
    """
    found = {}
    good = connected(table) & (table["train_error"].astype(float) < largest_error)
    for seed, rows in table.assign(good=good).sort_values("learning_rate").groupby("seed"):
        best, start = 0.0, None
        for rate, is_good in zip(rows["learning_rate"], rows["good"], strict=True):
            start = (rate if start is None else start) if is_good else None
            best = max(best, np.log10(rate / start)) if is_good else best
        found[seed] = best
    return pd.Series(found, dtype=float)


def summary(table: pd.DataFrame, by: str | Sequence[str]) -> pd.DataFrame:
    """A line a setting: r with the half-width of its 95 % interval, its two parts, the fit, and what was lost."""
    lines = {}
    for name, rows in table.groupby(by, sort=False):
        left = rows["relative"].dropna().astype(float).to_numpy()
        mean, low, _ = mean_interval(left) if len(left) > 1 else (left.mean() if len(left) else np.nan,) * 3
        lines[name] = {
            "r": mean, "+-": mean - low if len(left) > 1 else np.nan,
            "B": rows["barrier"].astype(float).mean(), "B_indep": rows["reference"].astype(float).mean(),
            "train error %": 100 * rows["train_error"].astype(float).mean(),
            "test error %": 100 * rows["test_error"].astype(float).mean(),
            "inits": len(left), "diverged nets": int(rows["diverged"].sum()),
        }  # fmt: skip
    found = pd.DataFrame.from_dict(lines, orient="index").round(3)
    found.index.names = [by] if isinstance(by, str) else list(by)
    return found


def lost(tables: Sequence[pd.DataFrame]) -> str:
    """One sentence on what divergence took away."""
    rows = _each_once(tables)
    nets, gone = int(rows["diverged"].sum()), int(rows["relative"].isna().sum())
    settings = rows.loc[rows["diverged"] > 0, "key"].nunique()
    if not nets:
        return f"No network diverged in {rows['key'].nunique()} settings."
    return (
        f"{nets} networks diverged, in {settings} of {rows['key'].nunique()} settings; "
        f"{gone} initialisations have no r there and are left out."
    )


def gates(tables: Sequence[pd.DataFrame]) -> dict[str, bool]:
    """The controls of all settings in these tables: same_order_is_zero, reference_exists and enough_left."""
    rows = _each_once(tables)
    zero = rows[["same_distance", "same_barrier"]].dropna().astype(float)
    settings = rows.groupby("key")
    reference = rows.assign(reference=rows["reference"].astype(float)).groupby("key")["reference"].mean()
    return {
        "same_order_is_zero": bool(len(zero) and (zero == 0).all(axis=None)),
        "reference_exists": bool((reference >= REFERENCE).all()),
        "enough_left": bool(settings["relative"].agg(lambda r: r.isna().mean() < 0.25).all()),
    }


def fitted(tables: Sequence[pd.DataFrame]) -> bool:
    """Whether the networks of each setting misclassify at most 2 % of their training images, on average."""
    rows = _each_once(tables)
    return bool((rows["train_error"].astype(float).groupby(rows["key"]).mean() <= FITTED).all())


def stays_below(effects: pd.Series, bound: float) -> bool:
    """Whether the 95 % interval of the mean lies below a bound."""
    return len(effects) > 1 and bool(mean_interval(effects.to_numpy(dtype=float))[2] < bound)


def _each_once(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All rows of some tables, a run that stands in several of them once."""
    return pd.concat(tables, ignore_index=True).drop_duplicates(["key", "seed"])
