"""`runs`: the recorded runs. List, show, verify, export, import those of others, prune what nobody uses."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ntf_utils.commands.archive import merge
from ntf_utils.commands.use import keys_in_use
from ntf_utils.refusal import Refusal, nearest
from ntf_utils.runs import Record, Store
from ntf_utils.runs.table import write_table

app = typer.Typer(help="The recorded runs.", no_args_is_help=True)

Wanted = Annotated[str | None, typer.Argument(help="Only this experiment.")]
Where = Annotated[
    list[str] | None, typer.Option("--where", metavar="NAME=VALUE", help="Only where the config or provenance says so.")
]


@app.command("list")
def list_runs(
    experiment: Annotated[str | None, typer.Argument(help="Only this experiment, a line a run.")] = None,
    where: Where = None,
) -> None:
    """List experiments with their runs and what they cost, or the runs of one experiment."""
    records = list(chosen(experiment, where))
    if experiment:
        for record in records:
            varied = ", ".join(f"{name}={value}" for name, value in record.config.items())
            print(f"{record.key}  v{record.version}  {record.provenance.seconds:>8.1f} s  {varied}")
    else:
        groups = defaultdict(list)
        for record in records:
            groups[record.experiment, record.version].append(record)
        for (name, version), group in groups.items():
            seconds = sum(record.provenance.seconds for record in group)
            last = max(record.provenance.finished for record in group)
            print(f"{name:<32} v{version}  {len(group):>4} runs  {seconds:>8.0f} s  last {last:%Y-%m-%d}")
    if not records:
        print(f"no such run recorded in {Store().root}" if where else f"no runs recorded in {Store().root}")


def chosen(experiment: str | None, where: list[str] | None) -> Iterator[Record]:
    """The records of an experiment for which every `name=value` holds.

    Raises:
        Refusal: not of that form, or a name that no record has.
    """
    conditions = [condition.partition("=")[::2] for condition in where or []]
    for (name, value), text in zip(conditions, where or [], strict=True):
        if not name or not value:
            raise Refusal(f"--where takes NAME=VALUE, not {text!r}")
    known: set[str] = set()
    for record in Store().records(experiment):
        facts = _facts(record)
        known |= facts.keys()
        if all(facts.get(name) == value for name, value in conditions):
            yield record
    for name, _ in conditions:
        if known and name not in known:
            raise Refusal(f"no record has a {name!r}: {nearest(name, known)}")


def _facts(record: Record) -> dict[str, str]:
    """What can be asked for, as text; `finished` by its day."""
    about = record.provenance.model_dump(mode="json") | {"finished": f"{record.provenance.finished:%Y-%m-%d}"}
    facts = about | {"version": record.version} | record.config
    return {name: str(value) for name, value in facts.items()}


@app.command()
def show(key: Annotated[str, typer.Argument(help="A record's key, or its first digits.")]) -> None:
    """Print one record."""
    record: Record = Store().find(key)
    print(record.text(), end="")


@app.command()
def verify() -> None:
    """Check schema, checksum and key of every record; exit status 1 where one cannot be trusted."""
    store = Store()
    problems = store.verify()
    for problem in problems:
        print(problem)
    print(f"{len(problems)} files cannot be trusted" if problems else f"all records in {store.root} are whole")
    raise typer.Exit(bool(problems))


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="A .csv or .parquet file to write.")],
    experiment: Wanted = None,
    where: Where = None,
) -> None:
    """Write a table: a line a record row, with config (config.*) and provenance (provenance.*)."""
    lines = write_table(chosen(experiment, where), path)
    print(f"{path}: {lines} lines")


@app.command("import")
def import_runs(archive: Annotated[Path, typer.Argument(help="A folder, .tar, .tar.gz or .zip with records.")]) -> None:
    """Merge records made elsewhere. What does not verify is refused by name; exit status 1 then."""
    added, known, refused = merge(archive, Store())
    for sentence in refused:
        print(f"refused  {sentence}")
    print(f"{added} records added, {known} already here, {len(refused)} refused")
    raise typer.Exit(bool(refused))


@app.command()
def prune(delete: Annotated[bool, typer.Option("--delete", help="Really delete; else only say what.")] = False) -> None:
    """Delete records that neither a notebook nor a verdict uses, and what killed runs have left behind.

    Every notebook is executed from the records to learn what it uses, so that takes as long as `make book`.
    """
    store = Store()
    used = keys_in_use(store)
    unused = [record for record in store.records() if record.key not in used]
    for record in unused:
        if delete:
            store.remove(record)
        print(f"{'deleted' if delete else 'unused '}  {record.experiment} {record.key}")
    left_over = store.left_over()
    for path in left_over:
        if delete:
            path.unlink(missing_ok=True)
        print(f"{'deleted' if delete else 'left over'}  {path.relative_to(store.root)}")
    what = f"{len(unused)} unused records and {len(left_over)} files of dead runs"
    hint = "" if delete or not (unused or left_over) else "; --delete removes them"
    print(f"{what}{' deleted' if delete else hint}")
