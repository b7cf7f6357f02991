"""The guidance explorer's states from a recorded run of `write_explorer`."""

from typing import Any

import pandas as pd

from ntf_utils.refusal import Refusal
from ntf_utils.runs import Store, curves

PAIR = ["concept", "probe", "site"]


def recorded_states(table: pd.DataFrame, store: Store | None = None) -> dict[str, Any]:
    """The explorer's states, in the form that `ntf_utils.show.guidance_explorer` describes.

    Args:
        table: of `sweep(write_explorer, ...)`, one run.

    Raises:
        Refusal: the table is not of one run.
    """
    if table["key"].nunique() != 1:
        raise Refusal("the guidance explorer needs the table of one run of write_explorer")
    parts = {name: curves(table, name, store=store) for name in
             ("texts", "prompts", "concepts", "tradeoff", "null", "layers")}  # fmt: skip
    scored = parts["concepts"]["concept"].tolist()
    return {
        "concepts": parts["concepts"][["concept", "title"]].rename(columns={"concept": "name"}).to_dict("records"),
        "prompts": parts["prompts"].sort_values("prompt")["text"].tolist(),
        "guides": [_guide(row, scored, **parts) for row in table.to_dict("records")],
    }


def _guide(
    row: dict[str, Any], scored: list[str], texts: pd.DataFrame, tradeoff: pd.DataFrame, null: pd.DataFrame,
    layers: pd.DataFrame, **others: pd.DataFrame,
) -> dict[str, Any]:  # fmt: skip
    own = {name: _of(lines, row) for name, lines in (("texts", texts), ("curve", tradeoff), ("layers", layers))}
    curve = own["curve"].sort_values("strength")
    band = null[(null["site"] == row["site"]) & (null["concept"] == row["concept"])].sort_values("strength")
    return {
        **{name: row[name] for name in (*PAIR, "accuracy", "pnes", "null_pnes")},
        "layers": [int(layer) for layer in str(row["chosen"]).split()],
        "strengths": curve["strength"].astype(float).tolist(),
        "scores": {name: _numbers(curve[name]) for name in scored},
        "perplexity": _numbers(curve["perplexity"]),
        "parsed": _numbers(curve["parse_rate"]),
        "null": {edge: _numbers(band[edge]) for edge in ("low", "high")},
        "by_layer": _numbers(own["layers"].sort_values("layer")["accuracy"]),
        "texts": [
            [_text(line) for line in lines.sort_values("prompt").to_dict("records")]
            for _, lines in own["texts"].groupby("strength")
        ],
    }  # fmt: skip


def _of(lines: pd.DataFrame, row: dict[str, Any]) -> pd.DataFrame:
    return lines[(lines[PAIR] == [row[name] for name in PAIR]).all(axis=1)]


def _text(line: dict[str, Any]) -> dict[str, Any]:
    tint, scores = (list(map(int, str(line[name]).split())) for name in ("tint", "scores"))
    return {"tokens": line["tokens"].split(), "tint": tint, "scores": scores}


def _numbers(values: pd.Series) -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in values]
