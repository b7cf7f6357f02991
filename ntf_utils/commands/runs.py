"""`runs list`, `runs show` and `runs verify`: the recorded runs, read only."""

from collections import defaultdict
from typing import Annotated

import typer

from ntf_utils.runs import Record, Store

app = typer.Typer(help="The recorded runs.", no_args_is_help=True)


@app.command("list")
def list_runs(
    experiment: Annotated[str | None, typer.Argument(help="Only this experiment, a line a run.")] = None,
) -> None:
    """List experiments with their runs and what they cost, or the runs of one experiment."""
    records = list(Store().records(experiment))
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
        print(f"no runs recorded in {Store().root}")


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
