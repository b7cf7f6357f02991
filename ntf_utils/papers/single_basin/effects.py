"""From rows of `train_ensembles` to what is judged: one number a seed, and the chapter's gates.

A table holds one tier: a row an ensemble and seed. A row with a diverged member has no numbers and takes no part.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ntf_utils.claims import mean_interval
from ntf_utils.papers.single_basin.ensembles import arm_name
from ntf_utils.refusal import Refusal
from ntf_utils.runs import curves

ONE_BASIN = 0.1  # joint barrier over the deep ensemble's, below which members count as one basin
REFERENCE = 0.1  # nats of joint barrier that the deep ensemble must have for that ratio to mean anything
ALIKE = 0.1  # relative difference of members' mean NLL above which ensembles are not compared
CONFINED = ("branch", "constrained")


def of(table: pd.DataFrame, strategy: str, column: str) -> pd.Series:
    """A column of one strategy's chosen ensemble, by seed; seeds lost to divergence are left out.

    Raises:
        Refusal: no such ensemble in the table.
    """
    rows = table[(table["strategy"] == strategy) & table["chosen"]]
    if rows.empty:
        raise Refusal(f"the table has no ensemble {strategy!r}")
    return rows.set_index("seed")[column].dropna().astype(float)


def better(table: pd.DataFrame, column: str = "calibrated") -> pd.Series:
    """The lower value of branch and constrained, seed by seed: the better one, where less is better."""
    return pd.concat([of(table, name, column) for name in CONFINED], axis=1).dropna().min(axis=1)


def above_deep(table: pd.DataFrame, strategy: str, column: str = "calibrated") -> pd.Series:
    """A strategy's value minus the deep ensemble's, by seed. "better" is that of `better`."""
    value = better(table, column) if strategy == "better" else of(table, strategy, column)
    return (value - of(table, "deep", column)).dropna()


def closed(table: pd.DataFrame, strategy: str, reference: str = "branch") -> pd.Series:
    """NLL of a reference minus a strategy's, by seed: what it makes up for. Students start where branch parts."""
    return (above_deep(table, reference) - above_deep(table, strategy)).dropna()


def closure(table: pd.DataFrame, strategy: str, reference: str = "branch") -> pd.Series:
    """`closed` over the reference's gap to deep, by seed: 0 for nothing, 1 for all of it. Means little near no gap."""
    share = closed(table, strategy, reference) / above_deep(table, reference)
    return share.replace([np.inf, -np.inf], np.nan).dropna()


def relative(table: pd.DataFrame, strategy: str, column: str = "joint") -> pd.Series:
    """A strategy's joint barrier (or another height) over the deep ensemble's, by seed."""
    return (of(table, strategy, column) / of(table, "deep", column)).replace([np.inf, -np.inf], np.nan).dropna()


def least_connected(table: pd.DataFrame) -> pd.Series:
    """The larger relative joint barrier of branch and constrained, by seed."""
    return pd.concat([relative(table, name) for name in CONFINED], axis=1).dropna().max(axis=1)


def diversity_ratio(table: pd.DataFrame, strategy: str = "branch") -> pd.Series:
    """Diversity of deep over that of another strategy, by seed."""
    share = of(table, "deep", "diversity") / of(table, strategy, "diversity")
    return share.replace([np.inf, -np.inf], np.nan).dropna()


def sweep_of(table: pd.DataFrame, strategy: str) -> pd.DataFrame:
    """The ensembles of one strategy over its settings, in their order, and the ensemble that weight 0 would give.

    Returns:
        The rows with a column `setting`: the spawn time, or the weight of the connectivity term.
    """
    over = "at_spawn" if strategy == "branch" else "at_weight"
    rows = table[table["strategy"] == strategy].assign(setting=lambda rows: rows[over].astype(float))
    if strategy == "constrained":
        free = table[(table["strategy"] == "branch") & (table["at_spawn"].astype(float) == 0)]
    else:
        free = table[table["strategy"] == "deep"] if strategy == "drawn" else table.iloc[:0]
    return pd.concat([free.assign(setting=0.0), rows]).sort_values(["setting", "seed"])


def price(table: pd.DataFrame, strategy: str, column: str = "calibrated") -> pd.Series:
    """Spearman's correlation of joint barrier and NLL (or another column) over a strategy's settings, by seed.

    Seeds with fewer than three settings left have none; one whose values never move has 0.
    """
    found = {}
    for seed, rows in sweep_of(table, strategy).dropna(subset=["joint", column]).groupby("seed"):
        if rows["setting"].nunique() >= 3:
            ranks = rows[["joint", column]].astype(float).rank()
            moves = ranks["joint"].nunique() > 1 and ranks[column].nunique() > 1
            found[seed] = ranks["joint"].corr(ranks[column]) if moves else 0.0
    return pd.Series(found, dtype=float)


def by_tier(tables: Mapping[str, pd.DataFrame], measures: Mapping[str, object]) -> dict[str, pd.Series]:
    """Clause name -> effects: each measure, a function of a table, on each table, named `<measure>_<tier>`; a measure
    with an empty name is named by the tier alone. Seeds that lack one of two ensembles compared are left out."""
    return {
        f"{name}_{tier}" if name else tier: measure(table).dropna()
        for tier, table in tables.items() for name, measure in measures.items()
    }  # fmt: skip


def gates(tables: Sequence[pd.DataFrame]) -> dict[str, bool]:
    """All gates of the chapter, which must hold in each of the tables."""
    found: dict[str, bool] = {}
    for table in tables:
        for name, passed in _gates(table).items():
            found[name] = found.get(name, True) and passed
    return found


def _gates(table: pd.DataFrame) -> dict[str, bool]:
    lost = table[table["chosen"]].groupby("strategy")["nll"].agg(lambda values: values.isna().mean())
    passed = {"enough_left": bool((lost < 0.25).all())}
    if not all(len(of(table, name, "nll")) for name in ("deep", "clones", *CONFINED)):
        return passed | dict.fromkeys(
            ("reference_exists", "clones_are_one", "members_alike", "one_basin", "gap_exists"), False
        )
    clones = [of(table, "clones", column) for column in ("joint", "disagreement")]
    members = {name: of(table, name, "member_calibrated").mean() for name in ("deep", *CONFINED)}
    return passed | {
        "reference_exists": bool((of(table, "deep", "joint") >= REFERENCE).all()),
        "clones_are_one": all(bool((values == 0).all()) for values in clones),
        "members_alike": bool(max(members.values()) / min(members.values()) < 1 + ALIKE),
        "one_basin": bool(max(relative(table, name).mean() for name in CONFINED) < ONE_BASIN),
        "gap_exists": stays_above(above_deep(table, "branch"), 0.0),
    }


def stays_above(effects: pd.Series, bound: float) -> bool:
    """Whether the 95 % interval of the mean lies above a bound."""
    return len(effects) > 1 and bool(mean_interval(effects.to_numpy(dtype=float))[1] > bound)


BOTH_SIDES = (  # of the table: performance, then connectivity
    "NLL", "gap", "+-", "error %", "member NLL", "diversity", "pairs", "centroid", "joint", "seeds",
)  # fmt: skip
CALIBRATION = ("NLL", "raw NLL", "Brier", "ECE %", "scaled ECE %", "temperature", "seeds")


def summary(
    table: pd.DataFrame, strategies: Sequence[str] | None = None, columns: Sequence[str] = BOTH_SIDES
) -> pd.DataFrame:
    """A line an ensemble, means over seeds: performance and connectivity side by side, or other columns.

    `gap` is the NLL above the deep ensemble's, `+-` half its 95 % interval over seeds.
    """
    deep = of(table, "deep", "calibrated")
    lines = {}
    settings = ["strategy", "at_spawn", "at_weight"]
    for (strategy, spawn, weight), rows in table.groupby(settings, sort=False, dropna=False):
        if strategies is not None and strategy not in strategies:
            continue
        left = rows.dropna(subset="calibrated").set_index("seed")
        name = arm_name(strategy.replace("_", " "), spawn, weight)
        above = (left["calibrated"].astype(float) - deep).dropna()
        mean, low, _ = mean_interval(above.to_numpy()) if len(above) > 1 else (above.mean(), np.nan, np.nan)
        found = {
            title: scale * left[column].astype(float).mean() for title, (column, scale) in COLUMNS.items()
        } | {"gap": mean, "+-": mean - low, "seeds": len(left)}
        lines[name] = {title: found[title] for title in columns}
    return pd.DataFrame.from_dict(lines, orient="index").round(DECIMALS) + 0.0  # no negative zeros


COLUMNS = {  # of `summary` -> of the rows, and a factor
    "NLL": ("calibrated", 1), "raw NLL": ("nll", 1), "error %": ("error", 100), "Brier": ("brier", 1),
    "ECE %": ("ece", 100), "scaled ECE %": ("calibrated_ece", 100), "temperature": ("fitted_temperature", 1),
    "member NLL": ("member_calibrated", 1), "diversity": ("diversity", 1), "pairs": ("barrier", 1),
    "centroid": ("centroid", 1), "joint": ("joint", 1),
}  # fmt: skip
DECIMALS = dict.fromkeys(COLUMNS, 3) | {
    "gap": 4, "+-": 4, "error %": 1, "ECE %": 1, "scaled ECE %": 1, "temperature": 2, "diversity": 2, "seeds": 0,
}  # fmt: skip


def lines_between(table: pd.DataFrame, strategies: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The "lines" curve of the chosen ensemble of some strategies: ensemble -> its lines in all seeds."""
    lines = curves(table, "lines")
    found = {}
    for strategy in strategies:
        row = table[(table["strategy"] == strategy) & table["chosen"]].iloc[0]
        arm = arm_name(strategy, row["at_spawn"], row["at_weight"])
        found[arm] = lines[lines["arm"] == arm]
    return found


def lost(tables: Sequence[pd.DataFrame]) -> str:
    """One sentence on what divergence took away."""
    rows = pd.concat(tables, ignore_index=True)
    gone = int((rows["diverged"] > 0).sum())
    if not gone:
        return f"No member diverged in {len(rows)} ensembles."
    return f"{gone} of {len(rows)} ensembles have a member that diverged, and are left out."
