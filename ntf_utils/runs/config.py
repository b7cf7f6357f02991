"""Configs: the frozen, validated description of one run, and the check of a notebook's parameters."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ntf_utils.refusal import Refusal, explain, nearest

GENERATED = "generated"  # the fingerprint of data that need no file


class Config(BaseModel):
    """Base of every experiment's config. Frozen; unknown or impossible values are refused.

    Raises:
        Refusal: one sentence, e.g. "PathFinderConfig: degree must be greater than or equal to 2 (got 1)".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            name = type(self).__name__
            raise Refusal(f"{name}: {explain(error, type(self).model_fields)}") from None

    def data_fingerprint(self) -> str:
        """What the run's data is, as text; part of the record's key. Override where files are read."""
        return GENERATED

    def but(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        return type(self)(**{**self.as_dict(), **changes})

    def as_dict(self) -> dict[str, Any]:
        """Field name -> Python value (tuples stay tuples, nested configs stay configs)."""
        return {name: getattr(self, name) for name in type(self).model_fields}


Parameters = TypeVar("Parameters", bound=Config)

# What a parameters cell can hold, papermill's YAML types. Modules, classes and functions are not parameters.
_PARAMETER_TYPES = (str, int, float, bool, type(None), list, tuple, dict)
_IPYTHON_NAMES = {"In", "Out"}
RESERVED = {"slurm"}  # lines of a profile that are no notebook's parameters


def check_parameters(
    namespace: Mapping[str, Any], model: type[Parameters], also: Iterable[type[Config]] = ()
) -> Parameters:
    """Validate a notebook's parameters; call it in the cell right after the `parameters` cell.

    Papermill only warns of unknown names and never checks values; this stops before any training.

    A profile's `slurm:` lines, what a job of its sweeps needs, are no parameter: they are kept for the sweeps of this
    process (see `Slurm.current`).

    Args:
        namespace: `globals()` of the notebook, or a plain dict. Every public name that holds a plain
            value is taken for a parameter, so nothing else may be assigned before this call.
        model: the parameters that this notebook knows.
        also: the models of the chapter's other notebooks: their names are ignored, so that one profile
            file serves all notebooks of a chapter.

    Returns:
        The validated parameters.

    Raises:
        Refusal: an unknown name or an impossible value.
    """
    given = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and name not in _IPYTHON_NAMES and isinstance(value, _PARAMETER_TYPES)
    }
    if "slurm" in given:
        os.environ["NTF_SLURM_PROFILE"] = json.dumps(given.pop("slurm"))
    known = set(model.model_fields).union(*(other.model_fields for other in also))
    if not _cell_runs_again(namespace):
        for name in given.keys() - known:
            raise Refusal(f"unknown parameter {name!r}: {nearest(name, known)}")
    return model(**{name: value for name, value in given.items() if name in model.model_fields})


def _cell_runs_again(namespace: Mapping[str, Any]) -> bool:
    """Whether a reader runs the checking cell a second time: the names of later cells then stand in
    the namespace too, and only a fresh kernel can tell a mistyped parameter from them."""
    cells = namespace.get("In", [])
    return len(cells) > 1 and cells[-1] in cells[:-1]
