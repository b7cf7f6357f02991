"""Matching the units of one network to another's: two networks that differ by the order of their units are the same.

Weight matching of Ainsworth, Hayase and Srinivasa (2022, algorithm 1, "Git Re-Basin"): layer by layer, the order of
the hidden units that makes the weights of both networks most alike is a linear assignment problem; the layers take
turns until none changes. For `Perceptron`, whose matrices are [inputs, outputs].
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ntf_utils.refusal import Refusal

State = Mapping[str, Tensor]


def layers_of(state: State) -> list[str]:
    """Names of the dense layers of one Perceptron's state, from the input to the logits."""
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    between = sorted((n for n in names if n.startswith("hidden.")), key=lambda name: int(name.split(".")[1]))
    layers = ["first", *between, "head"]
    if sorted(layers) != sorted(names) or any(state[f"{layer}.weight"].dim() != 2 for layer in layers):
        raise Refusal("units are matched for one Perceptron at a time: layers first, hidden.0, hidden.1, ..., head")
    return layers


def match_weights(reference: State, other: State, seed: int = 0, rounds: int = 100) -> list[Tensor]:
    """The order of the other network's hidden units that brings its weights closest to the reference's.

    Args:
        reference, other: states of two networks, e.g. from `unstack`.
        seed: of the order in which the layers take turns.
        rounds: at most so many; each lowers the distance or is the last.

    Returns:
        For each hidden layer [width]: unit `order[i]` of the other network stands for unit i of the reference.
    """
    layers = layers_of(reference)
    if layers_of(other) != layers or any(reference[name].shape != other[name].shape for name in reference):
        raise Refusal("units can only be matched between networks of equal shape")
    orders = [torch.arange(reference[f"{layer}.weight"].shape[1]) for layer in layers[:-1]]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(rounds):
        changed = False
        for place in torch.randperm(len(orders), generator=generator).tolist():
            found = _assign(_alikeness(reference, permute(other, _without(orders, place)), layers, place))
            changed |= not torch.equal(found, orders[place])
            orders[place] = found
        if not changed:
            break
    return orders


def _without(orders: list[Tensor], place: int) -> list[Tensor]:
    """The same orders, with that layer's units as they were."""
    return [torch.arange(len(order)) if i == place else order for i, order in enumerate(orders)]


def _alikeness(reference: State, other: State, layers: list[str], place: int) -> Tensor:
    """[width, width] inner product of the weights into and out of each unit of the one and each of the other."""
    here, after = layers[place], f"{layers[place + 1]}.weight"
    into = reference[f"{here}.weight"].T @ other[f"{here}.weight"]
    bias = torch.outer(reference[f"{here}.bias"], other[f"{here}.bias"])
    return into + bias + reference[after] @ other[after].T


def _assign(alikeness: Tensor) -> Tensor:
    _, columns = linear_sum_assignment(alikeness.detach().cpu().double().numpy(), maximize=True)
    return torch.as_tensor(columns)


def permute(state: State, orders: Sequence[Tensor]) -> dict[str, Tensor]:
    """The same function with the hidden units of each layer in another order; `orders` as `match_weights` gives."""
    layers = layers_of(state)
    if len(orders) != len(layers) - 1:
        raise Refusal(f"{len(layers) - 1} hidden layers need as many orders (got {len(orders)})")
    moved = dict(state)
    for (layer, after), order in zip(pairwise(layers), orders, strict=True):
        order = order.to(state[f"{layer}.weight"].device)
        moved[f"{layer}.weight"] = moved[f"{layer}.weight"][:, order]
        moved[f"{layer}.bias"] = moved[f"{layer}.bias"][order]
        moved[f"{after}.weight"] = moved[f"{after}.weight"][order]
    return moved


def fixed_share(orders: Sequence[Tensor]) -> float:
    """Share of the hidden units that keep their place: 1 where matching finds nothing to move."""
    kept = torch.cat([order == torch.arange(len(order)) for order in orders])
    return kept.double().mean().item()
