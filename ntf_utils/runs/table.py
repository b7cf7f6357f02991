"""Records as one flat table for other programs: a line a row, with the run's config and provenance beside it."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from ntf_utils.refusal import Refusal
from ntf_utils.runs.record import Record


def flat_table(records: Iterable[Record]) -> pd.DataFrame:
    """A line a record row: experiment, version, key, data, `config.*`, the row's columns, `provenance.*`.

    Lists in a config become text: a cell holds one value.
    """
    return pd.DataFrame([line for record in records for line in _lines(record)])


def _lines(record: Record) -> Iterable[dict]:
    run = {"experiment": record.experiment, "version": record.version, "key": record.key, "data": record.data}
    config = {f"config.{name}": _cell(value) for name, value in record.config.items()}
    about = {f"provenance.{name}": value for name, value in record.provenance.model_dump().items()}
    for row in record.rows:
        yield run | config | row | about


def _cell(value: object) -> object:
    return str(value) if isinstance(value, (list, dict)) else value


def write_table(records: Iterable[Record], path: Path) -> int:
    """Write the table as CSV or Parquet, by the file's name; the number of its lines.

    Raises:
        Refusal: another ending, no record, no pyarrow for Parquet, or the file cannot be written.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise Refusal(f"a table is written to a .csv or a .parquet file, not to {path.name}")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise Refusal("Parquet needs pyarrow: pip install -r requirements-parquet.txt, or export to .csv")
    table = flat_table(records)
    if table.empty:
        raise Refusal("no record to export")
    try:
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
    except OSError as error:
        raise Refusal(f"cannot write {path}: {error.strerror or error}") from None
    return len(table)
