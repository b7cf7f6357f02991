"""From rows of runs to what is judged: one number a seed, and the chapter's gates.

A table is one of `sweep(answer_questions, ...)`: a row an arm and seed. Percentages and points throughout.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ntf_utils.claims import mean_interval
from ntf_utils.refusal import Refusal

READS = 30.0  # percent of rooms whose text the teacher must find
NAMES = 2.0  # times chance at which the teacher must name types of rooms; what C3 asks of scene vectors
BLIND = 3.0  # points within which a network that sees no room, or another one, must stay of what it should be
LEARNS = 5.0  # points by which a network that sees the room must beat one that does not
REPORTS = ("iid", "comp")


def of_arm(table: pd.DataFrame, arm: str, column: str) -> pd.Series:
    """A column of one arm, by seed.

    Raises:
        Refusal: the arm is missing, or stands in the table twice for a seed.
    """
    rows = table[table["arm"] == arm]
    if rows.empty or rows["seed"].duplicated().any():
        raise Refusal(f"arm {arm} is {'not in the table' if rows.empty else 'in it more than once for a seed'}")
    return rows.set_index("seed")[column].astype(float)


def difference(table: pd.DataFrame, arm: str, other: str, column: str = "em1_comp") -> pd.Series:
    """One arm minus another, for each seed that has both."""
    return (of_arm(table, arm, column) - of_arm(table, other, column)).dropna()


def gates(table: pd.DataFrame, teachers: pd.DataFrame) -> dict[str, bool]:
    """The chapter's gates, see claims.yaml."""
    return {
        "teacher_reads": bool((100 * teachers["recall1"] >= READS).all()),
        "teacher_names_types": bool((teachers["zero_shot"] >= NAMES * teachers["zero_shot_chance"]).all()),
        "oracle_knows": bool((_all(table, "oracle") == 100).all()),
        "blind_knows_nothing": bool((above_table(table).mean() <= BLIND).all()),
        "swapped_room_fails": bool((above_blind(table).mean() <= BLIND).all()),
        "scratch_learns": _surely_above(difference_to_blind(table, "S"), LEARNS),
    }


def above_table(table: pd.DataFrame) -> pd.DataFrame:
    """What the question-only network scores above a table of question texts: a row a seed, a column a report."""
    rows = table[table["arm"] == "blind"].set_index("seed")
    return pd.DataFrame({report: rows[f"em1_{report}"] - rows[f"majority_{report}"] for report in REPORTS}, dtype=float)


def above_blind(table: pd.DataFrame, arms: Sequence[str] = ("S", "TI")) -> pd.DataFrame:
    """What arms score on the wrong room, above the question-only network: a row a seed, a column an arm and report."""
    return pd.DataFrame({
        f"{arm} {report}": of_arm(table, arm, f"swapped_{report}") - of_arm(table, "blind", f"em1_{report}")
        for arm in arms for report in REPORTS
    })  # fmt: skip


def difference_to_blind(table: pd.DataFrame, arm: str, report: str = "iid") -> pd.Series:
    return difference(table, arm, "blind", f"em1_{report}")


def _all(table: pd.DataFrame, measure: str) -> pd.Series:
    return pd.concat([table[f"{measure}_{report}"] for report in REPORTS]).astype(float)


def _surely_above(effects: pd.Series, least: float) -> bool:
    """Whether the 95 % interval of the mean lies above a bound."""
    if len(effects) < 2:
        return False
    _, low, _ = mean_interval(effects.to_numpy(dtype=float))
    return bool(low > least)


def interpretability(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The clauses of claim C3, in points, by seed."""
    permuted = of_arm(table, "TI", "purity") - of_arm(table, "TI", "purity_95")
    return {
        "purity": 100 * difference(table, "TI", "D", "purity"),
        "permuted": 100 * permuted,
        "zero_shot": 100 * (of_arm(table, "TI", "zero_shot") - NAMES * of_arm(table, "TI", "zero_shot_chance")),
    }


def per_template(templates: pd.DataFrame, arm: str = "TI", over: str = "S") -> pd.DataFrame:
    """Points that an arm gains on each kind of question: mean over seeds and the half-width of its interval.

    Args:
        templates: the "templates" curve with `seed` and `arm`.
    """
    wide = templates.pivot_table(index=["split", "template", "seed"], columns="arm", values="em1")
    gained = (wide[arm] - wide[over]).rename("gain").reset_index()
    lines = []
    for (split, template), rows in gained.groupby(["split", "template"]):
        values = rows["gain"].to_numpy(dtype=float)
        half = np.nan
        if len(values) > 1:
            _, low, high = mean_interval(values)
            half = (high - low) / 2
        lines.append({"split": split, "template": template, "gain": float(values.mean()), "±": float(half)})
    return pd.DataFrame(lines)
