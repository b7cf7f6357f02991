"""Experiments: pure functions from a config to rows and curves, registered by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from ntf_utils.refusal import Refusal
from ntf_utils.runs.config import Config

Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class Outcome:
    """What an experiment returns.

    Args:
        rows: a row a member or seed, each the same columns of scalars (numpy and torch scalars are taken).
        curves: name -> columns of equal length, e.g. {"loss": {"step": [...], "nats": [...]}}.

    Floats are kept to 6 significant digits, so that a record is text a person can review.

    Raises:
        Refusal: no row, ragged rows or columns, or a value that is not a finite scalar.
    """

    rows: list[dict[str, Scalar]]
    curves: dict[str, dict[str, list[Scalar]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rows:
            raise Refusal("an outcome needs at least one row")
        for index, row in enumerate(self.rows):
            if row.keys() != self.rows[0].keys():
                raise Refusal(f"rows[{index}] has other columns than rows[0]: a table needs the same in all")
        for name, columns in self.curves.items():
            if len({len(values) for values in columns.values()}) > 1:
                raise Refusal(f"curve {name!r} has columns of unequal length")
        rows = [{c: _tidy(v, f"rows[{i}].{c}") for c, v in row.items()} for i, row in enumerate(self.rows)]
        curves = {
            name: {c: [_tidy(v, f"curves.{name}.{c}") for v in values] for c, values in columns.items()}
            for name, columns in self.curves.items()
        }
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "curves", curves)


def _tidy(value: Any, where: str) -> Scalar:
    """A plain Python scalar, floats rounded to 6 significant digits."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()  # numpy and torch scalars
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Refusal(f"{where} is {value}: a record holds finite numbers only")
        return float(f"{value:.6g}")
    raise Refusal(f"{where} is a {type(value).__name__}: a record holds numbers, text, booleans and None")


class Experiment:
    """A registered experiment: called like the function it was, and pickled by reference.

    Attributes:
        name: the function's name; names the records' folder, so it is unique in the book.
        version: raised whenever the function's results change; older records are then stale.
        tolerance: how far a replayed number may lie from the recorded one, relative and absolute
            (`math.isclose`); 0 means equal after rounding to 6 significant digits.
        resumable: a run keeps checkpoints, so it may be begun even where the time left does not suffice.
        at_hand: says of a config whether the work of other runs that this one builds on, a trained model, lies in the
            cache. Without it the run makes that work itself, so its recorded seconds do not hold the cost.
        config_type: the type of the function's one argument.
    """

    def __init__(
        self,
        function: Callable[[Any], Outcome],
        version: int,
        tolerance: float,
        resumable: bool,
        at_hand: Callable[[Any], bool] | None = None,
    ) -> None:
        self.function = function
        self.name = function.__name__
        self.version = version
        self.tolerance = tolerance
        self.resumable = resumable
        self.at_hand = at_hand or (lambda config: True)
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.config_type = _config_type(function)

    def __call__(self, config: Config) -> Outcome:
        return self.function(config)

    def __reduce__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<experiment {self.name} v{self.version}>"


def _config_type(function: Callable[[Any], Outcome]) -> type[Config]:
    """The annotation of the function's one argument."""
    name = function.__name__
    if function.__module__ == "__main__" or function.__qualname__ != name:
        raise Refusal(f"experiment {name} must stand at the top level of a module, where workers can import it")
    annotations = [hint for argument, hint in get_type_hints(function).items() if argument != "return"]
    if len(annotations) != 1 or not issubclass(annotations[0], Config):
        raise Refusal(f"experiment {name} must take one argument, annotated with its Config")
    return annotations[0]


registry: dict[str, Experiment] = {}


def experiment(
    version: int = 1,
    tolerance: float = 0.0,
    resumable: bool = False,
    at_hand: Callable[[Any], bool] | None = None,
) -> Callable[[Callable[[Any], Outcome]], Experiment]:
    """Make a module-level function `f(config: SomeConfig) -> Outcome` an Experiment.

    Raises:
        Refusal: another module has an experiment of the same name.
    """

    def register(function: Callable[[Any], Outcome]) -> Experiment:
        made = Experiment(function, version, tolerance, resumable, at_hand)
        known = registry.get(made.name)
        if known is not None and known.__module__ != made.__module__:
            raise Refusal(f"{known.__module__} and {made.__module__} both have an experiment {made.name}: rename one")
        registry[made.name] = made
        return made

    return register
