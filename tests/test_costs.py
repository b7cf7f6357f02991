"""The laptop profile keeps its promise: no chapter takes two cores more than thirty minutes."""

import importlib
import pkgutil

import pytest

from ntf_utils import papers
from ntf_utils.runs import Store, registry

CORES = 2
LIMIT = 30 * 60  # seconds, as book/rerunning says


def experiments_of(paper: str) -> set[str]:
    """The names of a paper's experiments."""
    package = importlib.import_module(f"{papers.__name__}.{paper}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    return {name for name, made in registry.items() if made.__module__.startswith(f"{package.__name__}.")}


@pytest.mark.parametrize("paper", [module.name for module in pkgutil.iter_modules(papers.__path__)])
def test_a_chapter_stays_within_its_time(paper):
    its_own = experiments_of(paper)
    made = [record.provenance for record in Store().records() if record.experiment in its_own]
    spent = [p.seconds for p in made if p.device == "cpu"]
    assert spent, "no run of this chapter is recorded"
    assert sum(spent) / CORES < LIMIT
