"""The only door to torchvision: `from ntf_utils.data.torchvision_door import datasets, transforms`.

A CPU build of torch beside the registry's torchvision wheel fails at `import torchvision`: the compiled part
of the wheel does not load, and torchvision then describes the operators nms and qnms, which nobody declared
("operator torchvision::nms does not exist"; torch 2.13.0, torchvision 0.28.0). Declaring their schemas first
cures it, also for libraries that import torchvision themselves, such as transformers. The operators stay
missing; nothing in this book detects boxes.
"""

import importlib

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _open() -> torch.library.Library | None:
    """Imports torchvision, with the missing schemas declared where its own compiled part did not load."""
    try:
        importlib.import_module("torchvision")
        return None
    except RuntimeError as problem:
        if "torchvision::nms" not in str(problem):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        library.define(schema)
    importlib.import_module("torchvision")
    return library


_library = _open()  # the declarations live as long as this object

from torchvision import datasets, models, transforms  # noqa: E402  (after the declarations)

__all__ = ["datasets", "models", "transforms"]
