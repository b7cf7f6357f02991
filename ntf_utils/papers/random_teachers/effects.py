"""From rows of runs to what is judged: one number a seed, in points of test accuracy, and the chapter's gates."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ntf_utils.claims import mean_interval
from ntf_utils.papers.random_teachers.distillation import PROBES, Probe
from ntf_utils.refusal import Refusal

NAMES = {
    "converged": "converged linear probe",
    "adamw": "the paper's linear probe",
    "knn": "k-NN, Euclidean",
    "cosine": "k-NN, cosine",
}
MARGIN = 5  # points by which features must beat chance, and within which shuffled labels must stay at it
LEAST_BARRIER = 2  # points between the children of theta_S, below which there is nothing to halve


def scores(table: pd.DataFrame, probe: Probe = "converged", who: str = "student") -> pd.Series:
    """Test accuracy of each seed in percent.

    Args:
        table: one run a seed, all of one setting. who: "student", "teacher", or with "restart_" before the probe's
            name those of a second round.

    Raises:
        Refusal: a seed stands in the table twice, so it holds more than one setting.
    """
    if table["seed"].duplicated().any():
        raise Refusal("one setting at a time: a seed stands in the table twice")
    return 100 * table.set_index("seed")[f"{probe}_{who}"].astype(float)


def gain(table: pd.DataFrame, probe: Probe = "converged") -> pd.Series:
    """Points by which each student beats its teacher."""
    return scores(table, probe) - scores(table, probe, "teacher")


def restart_gain(table: pd.DataFrame, probe: Probe = "converged") -> pd.Series:
    """Points by which the student of a second round beats its teacher, the student of the first; where there is one."""
    rows = table.set_index("seed")
    return 100 * (rows[f"restart_{probe}_student"] - rows[f"restart_{probe}_teacher"]).astype(float).dropna()


def difference(table: pd.DataFrame, other: pd.DataFrame, probe: Probe = "converged") -> pd.Series:
    """Points by which the students of one setting beat those of another, for each seed that has both."""
    return (scores(table, probe) - scores(other, probe)).dropna()


def slope(table: pd.DataFrame, over: str = "n_train", probe: Probe = "converged") -> pd.Series:
    """Slope of the student's accuracy on log10 of a config column, for each seed that has several; points a decade."""
    return pd.Series({
        seed: np.polyfit(np.log10(rows[over].astype(float)), 100 * rows[f"{probe}_student"].astype(float), 1)[0]
        for seed, rows in table.groupby("seed") if rows[over].nunique() > 1
    })  # fmt: skip


def gain_on(probes: pd.DataFrame, dataset: str, probe: Probe = "converged") -> pd.Series:
    """Points by which each student beats its teacher on one of the probed data sets.

    Args:
        probes: the "probes" curve, with `seed`.
    """
    chosen = probes[(probes["on"] == dataset) & (probes["probe"] == probe)]
    wide = chosen.pivot(index="seed", columns="who", values="accuracy").astype(float)
    return 100 * (wide["student"] - wide["teacher"])


def kept_gain(
    away: pd.DataFrame, home: pd.DataFrame, dataset: str, probe: Probe = "converged", share: float = 0.8
) -> pd.Series:
    """Gain on a data set after distillation elsewhere, minus a share of that after distillation on it."""
    return (gain_on(away, dataset, probe) - share * gain_on(home, dataset, probe)).dropna()


def rise(line: pd.DataFrame) -> pd.Series:
    """log2 of the highest loss between teacher and student over the loss at the student; by seed.

    Args:
        line: the "line" curve, with `seed`.
    """
    found = {}
    for seed, rows in line.groupby("seed"):
        between = rows[(rows["t"] > -1e-9) & (rows["t"] < 1 + 1e-9)]
        found[seed] = np.log2(between["kl"].max() / loss_at(rows, 1))
    return pd.Series(found)


def asymmetry(line: pd.DataFrame, step: float = 0.1) -> pd.Series:
    """log2 of the loss that far from the teacher on the side away from the student over that towards it; by seed."""
    return pd.Series({
        seed: np.log2(loss_at(rows, -step) / loss_at(rows, step)) for seed, rows in line.groupby("seed")
    })  # fmt: skip


def loss_at(line: pd.DataFrame, t: float) -> float:
    """The loss at a position that is among the line's points.

    Raises:
        Refusal: it is not.
    """
    near = line[(line["t"].astype(float) - t).abs() < 1e-6]
    if len(near) != 1:
        raise Refusal(f"the line has no point at {t:g}")
    return float(near["kl"].iloc[0])


def own_rates(table: pd.DataFrame) -> dict[str, float | None]:
    """For each checkpoint, the rate at which its children fit their training images best and none diverges.

    Chosen on the training loss alone, mean over seeds; None where children diverge at every rate.
    """
    found: dict[str, float | None] = {}
    for which in ("student", "start"):
        whole = table.groupby("rate")[f"{which}_diverged"].sum() == 0
        losses = table.astype({f"{which}_train_loss": float}).groupby("rate")[f"{which}_train_loss"].mean()
        found[which] = float(losses[whole].idxmin()) if whole.any() else None
    return found


def at_own_rates(table: pd.DataFrame) -> pd.DataFrame:
    """Error barrier and test error of both checkpoints' children, each at its own rate, by seed; in percent."""
    parts = [
        100 * table[table["rate"] == rate].set_index("seed")[f"{which}_{name}"].astype(float)
        for which, rate in own_rates(table).items() for name in ("error_barrier", "test_error") if rate is not None
    ]  # fmt: skip
    return pd.concat(parts, axis=1) if parts else pd.DataFrame()


def half_barrier_at_equal_rates(table: pd.DataFrame) -> pd.Series:
    """Points by which the barrier of the student's children exceeds half of that of its start's children, by seed.

    Mean over the rates at which no child of either diverges, in any seed.
    """
    rows = table.assign(lost=table["student_diverged"] + table["start_diverged"])
    rows = rows[rows.groupby("rate")["lost"].transform("sum") == 0]
    barriers = rows[["student_error_barrier", "start_error_barrier"]].astype(float)
    over = 100 * (barriers["student_error_barrier"] - barriers["start_error_barrier"] / 2)
    return over.groupby(rows["seed"]).mean()


def half_barrier(table: pd.DataFrame) -> pd.Series:
    """The same with each checkpoint's children at their own rate."""
    found = at_own_rates(table)
    if not {"student_error_barrier", "start_error_barrier"} <= set(found):
        return pd.Series(dtype=float)
    return found["student_error_barrier"] - found["start_error_barrier"] / 2


def summary(table: pd.DataFrame, by: str | Sequence[str]) -> pd.DataFrame:
    """A line a setting: the gain under the converged probe with the half-width of its interval, in points, and
    "teacher → student" under every probe, in percent."""
    lines = {}
    for name, rows in table.groupby(by, sort=False):
        line: dict[str, float | str] = {"seeds": len(rows)}
        gained = gain(rows).to_numpy()
        half = gained.mean() - mean_interval(gained)[1] if len(gained) > 1 else np.nan
        line |= {"S-T": round(gained.mean(), 1), "+-": round(half, 1)}
        for probe in PROBES:
            line[probe] = f"{scores(rows, probe, 'teacher').mean():.1f} → {scores(rows, probe).mean():.1f}"
        lines[name] = line
    found = pd.DataFrame.from_dict(lines, orient="index")
    found.index.names = [by] if isinstance(by, str) else list(by)
    return found


def gates(tables: Sequence[pd.DataFrame], pixels: pd.DataFrame) -> dict[str, bool]:
    """The controls of the chapter's probes and pairs."""
    rows = pd.concat(tables, ignore_index=True).drop_duplicates("key")
    first = pixels.iloc[0]
    chance = 100 * float(first["chance"])
    return {
        "shuffled_at_chance": bool((100 * (pixels["shuffled"] - pixels["chance"]).abs() < MARGIN).all()),
        "teacher_above_chance": bool((100 * rows["converged_teacher"].astype(float) > chance + MARGIN).all()),
        "one_teacher": one_teacher(rows),
    }


def gain_exists(main: pd.DataFrame) -> bool:
    """Whether the student's gain over its teacher is told from none, under both linear probes: what the claims about
    this gain rest on."""
    gains = [gain(main, probe).to_numpy(dtype=float) for probe in ("converged", "adamw")]
    return all(len(found) > 1 and bool(mean_interval(found)[1] > 0) for found in gains)


def one_teacher(rows: pd.DataFrame) -> bool:
    """Whether all runs that share seed, encoder and probed data have a teacher with the same four scores."""
    on = rows["probe_on"].map(tuple)
    first = [names[0] if names else dataset for names, dataset in zip(on, rows["dataset"], strict=True)]
    shared = [rows[name] for name in ("seed", "encoder", "width", "precision", "n_probe", "n_test")]
    teachers = rows[[f"{probe}_teacher" for probe in PROBES]].astype(float)
    spread = teachers.groupby([pd.Series(first, index=rows.index, name="on"), *shared]).agg(np.ptp)
    return bool((spread <= 1e-9).all(axis=None))


def children_gates(table: pd.DataFrame, pixels: pd.DataFrame) -> dict[str, bool]:
    """The controls of the children: equal orders, a barrier to halve, and networks that have learned."""
    same = table[["student_same_distance", "start_same_distance"]].dropna().astype(float)
    found = at_own_rates(table)
    worst = 100 * (1 - float(pixels["converged"].iloc[0]))
    errors = [found[name].mean() for name in ("student_test_error", "start_test_error") if name in found]
    barrier = found["start_error_barrier"].mean() if "start_error_barrier" in found else 0
    return {
        "same_order_is_zero": bool(len(same) and (same == 0).all(axis=None)),
        "start_breaks": bool(barrier >= LEAST_BARRIER),
        "children_learned": len(errors) == 2 and all(error < worst for error in errors),
    }
