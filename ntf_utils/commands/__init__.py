"""The command line: look at the recorded runs, replay some, reproduce a chapter.

Exit status: 0 all well; 1 something differs or a notebook failed; 2 the request was refused;
3 the budget is spent and there is more to do.
"""

import sys
from collections.abc import Sequence

import typer

from ntf_utils.commands import runs
from ntf_utils.commands.replay import replay
from ntf_utils.commands.reproduce import reproduce
from ntf_utils.refusal import Refusal

app = typer.Typer(
    help="Claim by Claim: recorded runs, replays and reproductions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(runs.app, name="runs")
app.command()(replay)
app.command()(reproduce)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a Refusal is one line on stderr and exit status 2."""
    try:
        app(_join_pairs(sys.argv[1:] if arguments is None else arguments), prog_name="python -m ntf_utils")
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        sys.exit(2)


def _join_pairs(arguments: Sequence[str]) -> list[str]:
    """`-p NAME VALUE`, as papermill takes it, to `-p NAME=VALUE`: typer has no repeated pairs."""
    joined = list(arguments)
    for position in reversed(range(len(joined) - 2)):
        if joined[position] == "-p" and "=" not in joined[position + 1]:
            joined[position + 1 : position + 3] = [f"{joined[position + 1]}={joined[position + 2]}"]
    return joined
