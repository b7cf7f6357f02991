"""From rows of runs to what is judged: one number a seed, in points of test accuracy, and the chapter's gates."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from ntf_utils.claims import mean_interval
from ntf_utils.refusal import Refusal

ENOUGH = 90  # percent of the labels that an arm has to say, or it has not memorised
MARGIN = 5  # points within which a shuffled bank must stay at chance
BEHIND = ("hidden", "ReLU", "logits")  # the projector's layers; all others are the encoder's
SHARE = 1 / 3  # of the head's loss that the embedding may lose


def by_seed(table: pd.DataFrame, column: str, scale: float = 100) -> pd.Series:
    """A column of each seed, in percent unless told otherwise.

    Raises:
        Refusal: a seed stands in the table twice, so it holds more than one setting.
    """
    if table["seed"].duplicated().any():
        raise Refusal("one setting at a time: a seed stands in the table twice")
    return scale * table.set_index("seed")[column].astype(float)


def change(table: pd.DataFrame) -> pd.Series:
    """Points by which the k-NN on the embedding is better after training than before."""
    return by_seed(table, "knn") - by_seed(table, "knn_start")


def difference(table: pd.DataFrame, other: pd.DataFrame, column: str = "knn") -> pd.Series:
    """Points by which one setting is above another, for each seed that has both."""
    return (by_seed(table, column) - by_seed(other, column)).dropna()


def invariance_change(table: pd.DataFrame) -> pd.Series:
    """Change of the invariance index by training; below 0: views of one image have come closer."""
    return by_seed(table, "invariance", 1) - by_seed(table, "invariance_start", 1)


def rank_correlation(table: pd.DataFrame, over: str, column: str) -> pd.Series:
    """Spearman's between two columns, for each seed that has all settings; 0 where all values are alike."""
    found = {}
    settings = table[over].nunique()
    for seed, rows in table.groupby("seed"):
        if len(rows) == settings > 1:
            values = rows[[over, column]].astype(float)
            alike = values.nunique().min() == 1
            found[seed] = 0.0 if alike else float(stats.spearmanr(values[over], values[column]).statistic)
    return pd.Series(found)


def with_count(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the number of an image's views as `count`: that of frozen ones, or infinity for ever new ones."""
    return table.assign(count=table["views"].astype(float).where(table["views"] > 0, np.inf))


def at_step(learning: pd.DataFrame, step: int) -> pd.DataFrame:
    """The rows of "learning" curves at one look.

    Raises:
        Refusal: nobody looked then.
    """
    found = learning[learning["step"] == step]
    if found.empty:
        raise Refusal(f"no network was looked at after {step} updates: {sorted(learning['step'].unique())}")
    return found


def layer_names(layers: pd.DataFrame) -> list[str]:
    """The layers in their order."""
    return list(dict.fromkeys(layers["layer"]))


def encoder_output(layers: pd.DataFrame) -> str:
    """The encoder's last layer, so the embedding."""
    return [name for name in layer_names(layers) if name not in BEHIND][-1]


def layer_change(layers: pd.DataFrame) -> pd.DataFrame:
    """[seeds, layers] points by which the k-NN with true labels is better after training than before."""
    wide = 100 * layers.pivot(index="seed", columns=["when", "layer"], values="true").astype(float)
    return (wide["end"] - wide["start"])[layer_names(layers)]


def random_labels(layers: pd.DataFrame, when: str = "end") -> pd.DataFrame:
    """[seeds, layers] k-NN of the random labels, in percent; the views of an image's own are left out."""
    rows = layers[layers["when"] == when]
    return 100 * rows.pivot(index="seed", columns="layer", values="random").astype(float)[layer_names(layers)]


def separation(layers: pd.DataFrame, chance: float) -> dict[str, pd.Series]:
    """What is judged of depth, by seed.

    Args:
        layers: "layers" curves of one arm. chance: of the random labels, in percent.
    """
    encoder = [name for name in layer_names(layers) if name not in BEHIND]
    gained, noise = layer_change(layers), random_labels(layers)
    return {
        "rise": gained[encoder[-1]] - gained[encoder[0]],
        "fall": gained[encoder[-1]] - gained["logits"],
        "clean": noise[encoder].max(axis=1) - chance,
        "memory": noise["logits"],
    }


def kept(table: pd.DataFrame) -> pd.Series:
    """Loss of the k-NN minus a third of the loss of the head, from no random labels to some, mean over the shares.

    Args:
        table: runs that differ in `noise`, 0 among them.
    """
    found = {}
    for seed, rows in table.groupby("seed"):
        clean = rows[rows["noise"] == 0]
        noisy = rows[rows["noise"] > 0]
        if len(clean) == 1 and len(noisy):
            lost = {column: 100 * (clean[column].iloc[0] - noisy[column].astype(float)) for column in ("knn", "head")}
            found[seed] = (lost["knn"] - SHARE * lost["head"]).mean()
    return pd.Series(found)


def memorised(table: pd.DataFrame, by: str | None = None) -> bool:
    """Whether the mean memorised share is enough, in every setting of a column."""
    rows = table.assign(memorised=100 * table["memorised"].astype(float))
    means = rows.groupby(by)["memorised"].mean() if by else rows[["memorised"]].mean()
    return bool((means >= ENOUGH).all())


def bits_to_store(table: pd.DataFrame) -> pd.Series:
    """Bits that labels drawn at random carry, log2 of the classes each."""
    return table["labels"].astype(float) * np.log2(table["classes"].astype(float))


def gates(
    augmented: pd.DataFrame | None = None, plain: pd.DataFrame | None = None, frozen: pd.DataFrame | None = None,
    noisy: pd.DataFrame | None = None, same_class: pd.DataFrame | None = None, tables: tuple[pd.DataFrame, ...] = (),
) -> dict[str, bool]:  # fmt: skip
    """The chapter's gates, those that the tables given can tell.

    Args:
        augmented, plain: the main arm and the one without augmentation. frozen: all arms with frozen views and shared
            labels. noisy: arms that differ in `noise`, 0 among them. same_class: other images as views.
        tables: every table whose starts and controls are checked.
    """
    found = {}
    if augmented is not None:
        found["augmented_memorised"] = memorised(augmented)
    if plain is not None:
        found["plain_memorised"] = memorised(plain)
    if frozen is not None:
        found["views_memorised"] = memorised(frozen, "views")
    if noisy is not None:
        found["noisy_memorised"] = memorised(noisy, "noise")
        gained = change(noisy[noisy["noise"] == 0]).to_numpy()
        found["true_labels_help"] = len(gained) > 1 and bool(mean_interval(gained)[1] > 0)
    if same_class is not None:
        found["same_class_memorised"] = memorised(same_class)
    if tables:
        rows = pd.concat(tables, ignore_index=True).drop_duplicates("key")
        starts = rows["knn_start"].astype(float).groupby([rows["seed"], rows["encoder"], rows["width"]]).agg(np.ptp)
        found["same_start"] = bool((starts <= 1e-9).all())
        off = 100 * (rows["knn_shuffled"].astype(float) - 1 / rows["classes"].astype(float)).abs()
        found["shuffled_at_chance"] = bool((off < MARGIN).all())
    return found


def summary(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A line an arm: what it memorised, then "before → after" of k-NN, the change with the half-width of its interval
    in points, and the invariance index; means over seeds. An arm that has not memorised says so."""
    lines = {}
    for name, table in tables.items():
        gained = change(table).to_numpy()
        half = gained.mean() - mean_interval(gained)[1] if len(gained) > 1 else np.nan
        start, end = (by_seed(table, column).mean() for column in ("knn_start", "knn"))
        before, after = (table[column].astype(float).mean() for column in ("invariance_start", "invariance"))
        lines[name] = {
            "seeds": len(table), "memorised %": round(by_seed(table, "memorised").mean(), 1),
            "k-NN %": f"{start:.1f} → {end:.1f}", "change": round(gained.mean(), 1), "+-": round(half, 1),
            "invariance": f"{before:.2f} → {after:.2f}",
            "": "" if memorised(table) else "not memorised",
        }  # fmt: skip
    return pd.DataFrame.from_dict(lines, orient="index")
