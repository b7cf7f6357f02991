"""Iterative magnitude pruning with rewinding (Frankle et al., 2020): masks, and training under them.

A mask is 1 where a weight may live and 0 where it has been pruned. Masks are kept here by name, beside the network,
because torch.nn.utils.prune holds two copies of every weight and puts its mask into each forward pass.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.refusal import Refusal
from ntf_utils.training.checkpoint import Checkpoints

Scope = Literal["all", "weights"]
Masks = dict[str, Tensor]


def prunable(net: nn.Module, scope: Scope, never: Collection[str] = ()) -> Masks:
    """Masks of ones for what may be pruned.

    Args:
        scope: "all" takes every parameter, biases and batch norm too, as the code of Sarnthein et al. (2023) does;
            "weights" only the weights of convolutions and linear layers, as facebookresearch/open_lth does.
        never: names of parameters that stay whole.
    """
    layers = (nn.Conv1d, nn.Conv2d, nn.Linear)
    weights = {f"{name}.weight" for name, layer in net.named_modules() if isinstance(layer, layers)}
    return {
        name: torch.ones_like(value, dtype=torch.bool) for name, value in net.named_parameters()
        if name not in never and (scope == "all" or name in weights)
    }  # fmt: skip


def pruned(state: Mapping[str, Tensor], masks: Masks, share: float) -> Masks:
    """The masks with the smallest weights gone: `share` of those that are left, over all layers together.

    Args:
        state: the trained parameters.
        masks: what was left before.
        share: in (0, 1); rounded down to whole weights, and weights of equal size fall in the order of the layers.

    Raises:
        Refusal: a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise Refusal(f"the share to prune must lie between 0 and 1 (got {share})")
    sizes = torch.cat([state[name].detach().abs()[mask] for name, mask in masks.items()])
    gone = sizes.argsort(stable=True)[: int(share * len(sizes))]
    left = torch.ones(len(sizes), dtype=torch.bool, device=sizes.device)
    left[gone] = False
    pieces = left.split([int(mask.sum()) for mask in masks.values()])
    return {name: mask.masked_scatter(mask, piece) for (name, mask), piece in zip(masks.items(), pieces, strict=True)}


def sparsity(masks: Masks) -> float:
    """Share of the prunable weights that are gone."""
    left = sum(int(mask.sum()) for mask in masks.values())
    return 1 - left / sum(mask.numel() for mask in masks.values())


@torch.no_grad()
def apply_masks(net: nn.Module, masks: Masks) -> None:
    """Sets pruned weights to 0, in place."""
    own = dict(net.named_parameters())
    for name, mask in masks.items():
        own[name].mul_(mask)


def train_masked(
    net: nn.Module,
    masks: Masks,
    batch_at: Callable[[int], tuple[Tensor, Tensor]],
    updates: range,
    learning_rate_at: Callable[[int], float],
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
) -> None:
    """SGD on labelled batches, in place; pruned weights are and stay 0. Goes on where it was cut short.

    Args:
        net: in training mode. masks: from `pruned`.
        batch_at: images and labels of an update. learning_rate_at: its rate.
        updates: numbers of the updates to make, as those two count them.
        momentum, weight_decay: as torch.optim.SGD has them.
    """
    apply_masks(net, masks)
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0, momentum=momentum, weight_decay=weight_decay)
    checkpoints = Checkpoints({"net": net, "optimiser": optimiser})
    for step in updates[checkpoints.resume() :]:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate_at(step)
        images, labels = batch_at(step)
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(net(images), labels).backward()
        optimiser.step()
        apply_masks(net, masks)  # the optimiser's momentum may still push a pruned weight
        checkpoints.after(step + 1 - updates.start)
    checkpoints.end(len(updates))
