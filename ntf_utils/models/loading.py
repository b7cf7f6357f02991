"""Weights into a network, with the count of tensors that arrived: a load that loads nothing must not pass unseen.

`released=True` reads names as `init_model_from_weights` of the published code of Parelli et al. (2023) does
(AlexDelitzas/3D-VQA, models/model_utils.py): it keeps only names that contain "module.trunk.0", those of a
DepthContrast checkpoint, and joins what follows with a dot and a space. No network of that code has such names, so it
loads nothing, from its own pre-training as from DepthContrast, and prints "Not found" without an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ntf_utils.refusal import Refusal

TRUNK = "module.trunk.0."  # what DepthContrast puts before the names of its point encoder


@dataclass(frozen=True)
class Loaded:
    """What a load did.

    Attributes:
        tensors: how many of the network's tensors (parameters and buffers) were given new values.
        of: how many it has.
        missing: names of those that the weights did not hold.
    """

    tensors: int
    of: int
    missing: tuple[str, ...]


def load_weights(
    network: nn.Module, weights: Mapping[str, Tensor], prefix: str = "", released: bool = False
) -> Loaded:
    """Copies tensors into a network by name.

    Args:
        network: changed in place.
        weights: names -> tensors: a state of ours, or of DepthContrast, whose `TRUNK` is dropped.
        prefix: keeps only names that begin with it, and drops it: "encoder." for a part of a net.
        released: match names as the published code does; then nothing is refused.

    Raises:
        Refusal: no tensor fits by name, or one has another shape.
    """
    found = released_names(weights) if released else _names(weights, prefix)
    own = network.state_dict()
    own = {name: own[name] for name in own if not name.endswith("num_batches_tracked")}
    fitting = {name: found[name] for name in own if name in found}
    for name, value in fitting.items():
        if value.shape != own[name].shape:
            shapes = tuple(value.shape), tuple(own[name].shape)
            raise Refusal(f"the weights' {name} is {shapes[0]}, the network's {shapes[1]}")
    if not fitting and not released:
        example = next(iter(weights), "none")
        raise Refusal(f"none of {len(own)} tensors is in the weights, whose first name is {example!r}")
    with torch.no_grad():
        for name, value in fitting.items():
            own[name].copy_(value)  # the state's tensors share the network's memory
    return Loaded(len(fitting), len(own), tuple(name for name in own if name not in fitting))


def released_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names under which the published code looks for its weights: "module.trunk.0.a.b" becomes " a. b"."""
    return {
        "".join(f". {part}" for part in name.split(".")[3:])[1:]: value
        for name, value in weights.items() if "module.trunk.0" in name
    }  # fmt: skip


def _names(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    kept = {name.removeprefix(TRUNK): value for name, value in weights.items()}
    return {name.removeprefix(prefix): value for name, value in kept.items() if name.startswith(prefix)}
