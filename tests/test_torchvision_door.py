"""torchvision opens on CPU builds of torch, and only through its one door."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOOR = "ntf_utils/data/torchvision_door.py"
TRY_IT = """
import torch
from ntf_utils.data.torchvision_door import datasets, transforms
image = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
assert transforms.functional.hflip(image)[0].tolist() == [[1, 0], [3, 2]]
assert issubclass(datasets.CIFAR10, torch.utils.data.Dataset)
import torchvision  # now that the door has been opened, also by name
"""


def test_the_door_opens_in_a_fresh_process():
    done = subprocess.run([sys.executable, "-c", TRY_IT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def imported_modules(source: str) -> set[str]:
    """Top-level names of all modules that a source file imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_nothing_else_imports_torchvision():
    folders = ("ntf_utils", "benchmarks", "notebooks", "tests", "book")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    importers = [path for path in sources if "torchvision" in imported_modules(path.read_text("utf-8"))]
    assert [path.relative_to(ROOT).as_posix() for path in importers] == [DOOR]
