"""What the user gets for bad input: one clear sentence, never a stack of frames."""

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import ValidationError


class Refusal(ValueError):
    """One clear sentence for the user: what is wrong, where, and the way out."""

    def _render_traceback_(self) -> list[str]:
        """IPython's hook for tracebacks: a notebook, and so papermill, shows the sentence alone."""
        return [f"Refusal: {self}"]


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'seeds'?` where a known name is close to `name`, else the list of known names."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known) or 'none'}"


def explain(error: ValidationError, known: Iterable[str] = ()) -> str:
    """Pydantic's errors in one line: `degree must be greater than or equal to 2 (got 1)`.

    Args:
        error: what pydantic raised.
        known: the valid names at the top level, to suggest one for an unknown name.
    """
    return "; ".join(_explain_one(problem, known) for problem in error.errors())


def _explain_one(problem: dict, known: Iterable[str]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"]
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] == "extra_forbidden":
        hint = f": {nearest(where, known)}" if known and len(problem["loc"]) == 1 else ""
        return f"unknown field {where!r}{hint}"
    if problem["type"] in ("value_error", "assertion_error"):
        sentence = message.split(", ", 1)[1]  # pydantic puts "Value error, " before a validator's own words
        return f"{where}: {sentence}" if where else sentence
    if message.startswith("Input should "):
        message = "must " + message.removeprefix("Input should ")
    return f"{where} {message} (got {problem['input']!r})"
