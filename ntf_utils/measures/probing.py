"""What frozen features are worth: nearest neighbours and linear probes on features that were computed once.

Nearest neighbours come in the two conventions of the papers, which are not comparable:

- "euclidean": the k nearest by Euclidean distance on raw features, one vote each (Sarnthein et al., 2023);
- "cosine": the k nearest by cosine similarity s, votes weighted by exp(s / 0.07) (Wu et al., 2018; DINO, solo-learn).

Linear probes come in two: `converged_probe` standardises the features and fits a logistic regression to its optimum,
so that the scale of features and the length of training cannot matter; `adamw_probe` is the protocol of Sarnthein et
al. on raw features for a fixed number of updates, in which they do. Neither sees a test item before it is done: the
converged probe's penalty is chosen on held-out training items.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.refusal import Refusal

Metric = Literal["euclidean", "cosine"]
TEMPERATURE = 0.07
AT_ONCE = {"cpu": 2**18, "cuda": 2**28}  # distances computed at a time: on a CPU as many as stay in its cache
PENALTIES = (3e-3, 3e-2, 0.3, 3.0)  # of the converged probe, times half the squared norm of the weights
HELD_OUT = 5  # every fifth training item chooses among them


def check_features(features: Tensor, labels: Tensor | None = None, what: str = "features") -> None:
    """Raises Refusal unless features are [n, d], finite, and there are n labels."""
    if features.dim() != 2:
        raise Refusal(f"{what} must be [items, dimensions] (got {list(features.shape)})")
    bad = int((~features.isfinite()).any(dim=1).sum())
    if bad:
        raise Refusal(f"{what} hold NaN or infinity in {bad:,} of {len(features):,} items: nothing can be probed")
    if labels is not None and labels.shape != features.shape[:1]:
        raise Refusal(f"{what}: {len(features):,} items need as many labels (got {list(labels.shape)})")


# nearest neighbours


def neighbours(
    bank: Tensor,
    queries: Tensor,
    k: int = 20,
    metric: Metric = "euclidean",
    bank_groups: Tensor | None = None,
    query_groups: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k nearest items of a bank for each query, nearest first; chunked over the queries.

    Args:
        bank: [n, d]. queries: [q, d], on the same device.
        bank_groups, query_groups: [n] and [q] whole numbers; a query never meets items of its own group. With each
            item's own number this is leave-one-out, with the number of the image leave-one-view-out.

    Returns:
        Squared distances (or similarities for "cosine") and rows in the bank, both [q, k].

    Raises:
        Refusal: a bank that is smaller than k, also once the own group is left out; NaN in the features.
    """
    check_features(bank, what="the bank's features")
    check_features(queries, what="the queries' features")
    if not 1 <= k <= len(bank):
        raise Refusal(f"{k} neighbours need a bank of at least {max(k, 1)} items (got {len(bank)})")
    if metric == "cosine":
        bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    elif metric != "euclidean":
        raise Refusal(f"the metric is euclidean or cosine (got {metric!r})")
    squares = bank.square().sum(dim=1)
    found = []
    for start, some in _chunks(queries, len(bank)):
        closeness = some @ bank.T
        if metric == "euclidean":
            # -|q - b|^2 without |q|^2, which is the same for all items
            closeness = closeness.mul_(2).sub_(squares)
        if query_groups is not None:
            own = query_groups[start : start + len(some), None] == bank_groups
            closeness.masked_fill_(own, -torch.inf)
        best, rows = closeness.topk(k, dim=1)
        if query_groups is not None and not bool(best.isfinite().all()):
            raise Refusal(f"{k} neighbours need at least {k} items outside a query's own group")
        if metric == "euclidean":
            best = (some.square().sum(dim=1, keepdim=True) - best).clamp_min(0)
        found.append((best, rows))
    return torch.cat([best for best, _ in found]), torch.cat([rows for _, rows in found])


def _chunks(queries: Tensor, items: int) -> list[tuple[int, Tensor]]:
    size = max(1, AT_ONCE[queries.device.type] // items)
    return [(start, queries[start : start + size]) for start in range(0, len(queries), size)]


def knn_predict(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    k: int = 20,
    metric: Metric = "euclidean",
    bank_groups: Tensor | None = None,
    query_groups: Tensor | None = None,
) -> Tensor:
    """[q] labels voted by the k nearest items; of equal votes the smallest label wins, as in scikit-learn.

    Args:
        labels: [n] of the bank, from 0. The rest as for `neighbours`.
    """
    check_features(bank, labels, "the bank's features")
    closeness, rows = neighbours(bank, queries, k, metric, bank_groups, query_groups)
    weights = (closeness / TEMPERATURE).exp() if metric == "cosine" else torch.ones_like(closeness)
    votes = torch.zeros(len(queries), int(labels.max()) + 1, dtype=weights.dtype, device=queries.device)
    return votes.scatter_add_(1, labels[rows], weights).argmax(dim=1)


def knn_accuracy(
    bank: Tensor, labels: Tensor, queries: Tensor, query_labels: Tensor, k: int = 20, metric: Metric = "euclidean"
) -> float:
    """Share of the queries that the vote labels rightly."""
    check_features(queries, query_labels, "the queries' features")
    return _share(knn_predict(bank, labels, queries, k, metric), query_labels)


# linear probes


@dataclass(frozen=True)
class LinearProbe:
    """Logits = (features - mean) / std @ weight + bias.

    Attributes:
        weight: [d, classes]. bias: [classes]. mean, std: [d], what features are standardised with.
        penalty: what the converged probe chose; None for the other.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    penalty: float | None = None

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Share of the items that are labelled rightly."""
        check_features(features, labels)
        return _share((((features - self.mean) / self.std) @ self.weight + self.bias).argmax(dim=1), labels)


def converged_probe(
    features: Tensor, labels: Tensor, classes: int, penalties: Sequence[float] = PENALTIES, updates: int = 200
) -> LinearProbe:
    """Logistic regression on standardised features, fitted with L-BFGS.

    Minimises mean cross-entropy + penalty / 2 * |weight|^2, which is scikit-learn's with C = 1 / (penalty n). With
    several penalties, each is fitted without every fifth item, and the one that labels those best is fitted to all.

    Args:
        features: [n, d] of training items only. labels: [n]. updates: L-BFGS iterations at most.

    Raises:
        Refusal: NaN in the features, or labels that do not fit.
    """
    check_features(features, labels)
    mean, std = features.mean(dim=0), features.std(dim=0)
    std = torch.where(std > 1e-6 * std.max(), std, torch.inf)  # a feature that never changes says nothing
    scaled = (features - mean) / std
    chosen = penalties[0] if len(penalties) == 1 else _choose(scaled, labels, classes, penalties, updates)
    weight, bias = _fit(scaled, labels, classes, chosen, updates)
    return LinearProbe(weight, bias, mean, std, chosen)


def _choose(scaled: Tensor, labels: Tensor, classes: int, penalties: Sequence[float], updates: int) -> float:
    """The penalty that serves items best which its fit has not seen; the largest of equally good ones."""
    held_out = torch.arange(len(scaled), device=scaled.device) % HELD_OUT == 0
    best, chosen, start = -1.0, penalties[0], None
    for penalty in sorted(penalties, reverse=True):
        start = _fit(scaled[~held_out], labels[~held_out], classes, penalty, updates, start)
        share = _share((scaled[held_out] @ start[0] + start[1]).argmax(dim=1), labels[held_out])
        if share > best:
            best, chosen = share, penalty
    return chosen


def _fit(
    scaled: Tensor,
    labels: Tensor,
    classes: int,
    penalty: float,
    updates: int,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Weight [d, classes] and bias [classes]; `start` is where the search begins, by default at 0."""
    weight = torch.zeros(scaled.shape[1], classes, device=scaled.device) if start is None else start[0].clone()
    bias = torch.zeros(classes, device=scaled.device) if start is None else start[1].clone()
    optimiser = torch.optim.LBFGS(
        [weight.requires_grad_(), bias.requires_grad_()], max_iter=updates, history_size=10,
        tolerance_grad=1e-5, tolerance_change=1e-7, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(scaled @ weight + bias, labels) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    return weight.detach(), bias.detach()


def adamw_probe(
    features: Tensor, labels: Tensor, classes: int, updates: int = 1950, batch: int = 256, seed: int = 0
) -> LinearProbe:
    """A linear layer trained on raw features with AdamW at torch's defaults, in batches of a fixed order.

    Sarnthein et al. (2023, [repo: probing.py]) train 10 epochs of 195 or 196 batches on CIFAR-10's 50,000 images,
    the order fixed once for all epochs; `updates` keeps that length on fewer images.

    Args:
        features: [n, d] of training items only. labels: [n]. seed: of the layer's start and the order.

    Raises:
        Refusal: NaN in the features, or labels that do not fit.
    """
    check_features(features, labels)
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(features.shape[1])  # what nn.Linear starts from
    weight = torch.empty(features.shape[1], classes).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(classes).uniform_(-bound, bound, generator=generator)
    weight, bias = (nn.Parameter(value.to(features.device)) for value in (weight, bias))
    order = torch.randperm(len(features), generator=generator).to(features.device)
    batches = order.split(min(batch, len(order)))
    optimiser = torch.optim.AdamW([weight, bias], fused=True)
    features = features[order]  # gathered once, since the order never changes
    labels = labels[order]
    starts = [size * len(batches[0]) for size in range(len(batches))]
    with torch.enable_grad():
        for update in range(updates):
            start = starts[update % len(starts)]
            some = slice(start, start + len(batches[0]))
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(features[some] @ weight + bias, labels[some]).backward()
            optimiser.step()
    nothing = torch.zeros(features.shape[1], device=features.device)
    return LinearProbe(weight.detach(), bias.detach(), nothing, torch.ones_like(nothing))


def _share(said: Tensor, labels: Tensor) -> float:
    return (said == labels).double().mean().item()
