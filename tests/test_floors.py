"""The floors of the house: an import points down, and papers do not know each other."""

import ast
from pathlib import Path

import pytest

import ntf_utils

PACKAGE = Path(ntf_utils.__file__).parent

# The parts of ntf_utils, by floor. Within one floor a part may import those in the same string
# that stand before it, and nothing else of that floor.
FLOORS = [
    ["refusal runs claims"],
    ["models", "data"],
    ["measures training"],
    ["papers"],
    ["show"],
    ["press", "commands __main__"],
]
RANK = {
    part: (floor, column, place)
    for floor, columns in enumerate(FLOORS)
    for column, parts in enumerate(columns)
    for place, part in enumerate(parts.split())
}
FOREIGN = {0: {"torch", "matplotlib", "papermill"}, 3: {"matplotlib"}}  # what a floor must do without


def imported(source: str, module: str) -> set[str]:
    """Absolute dotted names that a module's source imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{stem}.{alias.name}" for alias in node.names}
    return names


def faults(source: str, module: str) -> list[str]:
    """What the imports of `module` (dotted, e.g. ntf_utils.papers.pitfalls) do wrong, as sentences."""
    _, part, *inner = module.split(".")
    if part not in RANK:
        return [f"{part} has no floor: give it one in FLOORS"]
    found = []
    for name in sorted(imported(source, module)):
        root, *path = name.split(".")
        if root in FOREIGN.get(RANK[part][0], ()):
            found.append(f"{module} imports {root}")
        if root != "ntf_utils" or not path or path[0] not in RANK:
            continue
        if path[0] != part and not _below(RANK[path[0]], RANK[part]):
            found.append(f"{module} imports {name}, which is not below it")
        if part == "show" and path[0] == "training":
            found.append(f"{module} imports {name}, but show knows nothing of training")
        if path[0] == part == "papers" and inner and path[1:2] != inner[:1]:
            found.append(f"{module} imports {name}, another paper")
    return found


def _below(lower: tuple[int, int, int], upper: tuple[int, int, int]) -> bool:
    return lower[0] < upper[0] or (lower[:2] == upper[:2] and lower[2] < upper[2])


def modules() -> list[tuple[str, Path]]:
    """(dotted name, path) of every module of the package but its root."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts != ("ntf_utils", "__init__"):
            # an __init__ keeps its name here, so that a relative import counts its dots right
            found.append((".".join(parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_down(module, path):
    assert faults(path.read_text(encoding="utf-8"), module) == []


def test_the_package_root_imports_no_part():
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    assert not any(name.startswith("ntf_utils") for name in imported(source, "ntf_utils.__init__"))


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("ntf_utils.models.transformer", "from ntf_utils.training import loop", "not below"),
        ("ntf_utils.models.transformer", "import ntf_utils.papers.pitfalls", "not below"),
        ("ntf_utils.models.transformer", "from ntf_utils import data", "not below"),
        ("ntf_utils.data.graphs", "def f():\n    from ..models import transformer", "not below"),
        ("ntf_utils.runs.store", "from ntf_utils.claims import Court", "not below"),
        ("ntf_utils.runs.sweep", "import torch.nn as nn", "imports torch"),
        ("ntf_utils.measures.barrier", "from ntf_utils.training.loop import train", "not below"),
        ("ntf_utils.papers.pitfalls", "from ntf_utils.papers.cfg import x", "another paper"),
        ("ntf_utils.papers.pitfalls", "from . import cfg", "another paper"),
        ("ntf_utils.papers.pitfalls.__init__", "from ..cfg import x", "another paper"),
        ("ntf_utils.papers.pitfalls", "from ntf_utils.show import style", "not below"),
        ("ntf_utils.show.boxes", "from ntf_utils.training import loop", "nothing of training"),
        ("ntf_utils.helpers", "", "no floor"),
    ],
)
def test_the_checker_catches(module, source, fault):
    found = faults(source, module)
    assert len(found) == 1 and fault in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ntf_utils.papers.pitfalls.train", "from .model import x\nfrom ntf_utils.papers.pitfalls import y"),
        ("ntf_utils.papers.pitfalls.__init__", "from .model import x"),
        ("ntf_utils.training.loop", "import torch\nfrom ntf_utils.measures.barrier import barrier"),
        ("ntf_utils.claims", "from ntf_utils import ROOT\nfrom ntf_utils.runs import Store"),
    ],
)
def test_the_checker_lets_pass(module, source):
    assert faults(source, module) == []
