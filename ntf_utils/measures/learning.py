"""When something is learned: readings of learning curves."""

import pandas as pd


def first_step_above(curve: pd.DataFrame, column: str, level: float) -> pd.Series:
    """The first look of each seed at which the column reaches the level; the last look if it never does.

    Args:
        curve: long table with `seed`, `step` and the column.

    Returns:
        Step by seed. A seed that never gets there has the step of its last look: a lower bound.
    """
    reached = curve[curve[column] >= level].groupby("seed")["step"].min()
    return reached.reindex(curve["seed"].unique()).fillna(curve.groupby("seed")["step"].max()).astype(int)
