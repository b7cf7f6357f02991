"""`python -m ntf_utils.press notebooks` and `python -m ntf_utils.press book`."""

import sys
from typing import Annotated

import typer
from typer import Option

from ntf_utils.press.book import build_book
from ntf_utils.press.pairs import refresh
from ntf_utils.refusal import Refusal

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.command()
def notebooks(
    paper: Annotated[str | None, Option(help="a folder of notebooks/; default: all")] = None,
    check: Annotated[bool, Option("--check", help="write nothing; fail where a notebook differs")] = False,
) -> None:
    """Execute each .py at its laptop values, from the recorded runs, into the .ipynb beside it."""
    refresh(paper, check)


@app.command()
def book() -> None:
    """Build the book from the recorded runs into _build/html, strictly."""
    build_book()


if __name__ == "__main__":
    try:
        app()
    except Refusal as refusal:
        sys.exit(str(refusal))
