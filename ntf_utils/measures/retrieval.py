"""What a space of scene vectors knows: retrieval, purity of neighbourhoods, and cosines with their traps.

A cosine alone says little. A single constant vector, the mean of the targets, already lies close to all of them when
the targets lie close to one another, as the vectors of a CLIP model do: `constant_cosine` is that floor, and
`centred_cosine` is what is left above it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ntf_utils.measures.probing import check_features, neighbours
from ntf_utils.refusal import Refusal

NEIGHBOURS = 5
PERMUTATIONS = 1000


def similarity(queries: Tensor, items: Tensor) -> Tensor:
    """Cosines: [q, d] and [n, d] -> [q, n] in -1..1."""
    check_features(queries, what="the queries' features")
    check_features(items, what="the items' features")
    if queries.shape[1] != items.shape[1]:
        raise Refusal(f"queries of {queries.shape[1]} dimensions cannot meet items of {items.shape[1]}")
    return F.normalize(queries, dim=1) @ F.normalize(items, dim=1).T


def recall_at(closeness: Tensor, truth: Tensor, k: int = 1) -> float:
    """Share of queries whose own item is among the k closest: R@k.

    Equally close items are taken in a random order, and the expected share is returned: an encoder that gives every
    scene one vector gets chance, k / n, and not whatever the order of the items happens to give.

    Args:
        closeness: [q, n], more is closer. truth: [q] the item of each query. k: at most n.

    Raises:
        Refusal: k or truth that do not fit.
    """
    if not 1 <= k <= closeness.shape[1]:
        raise Refusal(f"R@{k} needs at least {max(k, 1)} items to choose from (got {closeness.shape[1]})")
    if truth.shape != closeness.shape[:1] or bool((truth < 0).any() | (truth >= closeness.shape[1]).any()):
        raise Refusal(f"each of {len(closeness):,} queries needs the number of its item, below {closeness.shape[1]:,}")
    own = closeness.gather(1, truth[:, None])
    closer = (closeness > own).sum(dim=1)
    equal = (closeness == own).sum(dim=1)
    return ((k - closer) / equal).clamp(0, 1).double().mean().item()


def zero_shot(features: Tensor, prompts: Tensor, labels: Tensor) -> float:
    """Share of items whose closest prompt is that of their label.

    Args:
        features: [n, d]. prompts: [classes, d], one vector a class. labels: [n].
    """
    check_features(features, labels)
    return recall_at(similarity(features, prompts), labels)


@dataclass(frozen=True)
class Purity:
    """Share of an item's neighbours that carry its label, beside the same share when labels are dealt at random.

    Attributes:
        value: mean over the items, 0..1. chance: mean over the permutations. chance_95: their 95th percentile.
    """

    value: float
    chance: float
    chance_95: float


def purity(
    features: Tensor, labels: Tensor, k: int = NEIGHBOURS, permutations: int = PERMUTATIONS, seed: int = 0
) -> Purity:
    """How much of an item's neighbourhood, its k closest others by cosine, carries its own label.

    The labels' permutations keep the neighbourhoods, so they also hold for features that are all alike.

    Args:
        features: [n, d]. labels: [n] whole numbers. seed: of the permutations.

    Raises:
        Refusal: fewer than k others; NaN in the features.
    """
    check_features(features, labels)
    own = torch.arange(len(features), device=features.device)
    _, rows = neighbours(features, features, k, "cosine", own, own)
    generator = torch.Generator().manual_seed(seed)
    dealt = torch.stack([torch.randperm(len(labels), generator=generator) for _ in range(permutations)])
    shuffled = labels.cpu()[dealt]  # [permutations, n]
    rows = rows.cpu()
    share = (shuffled[:, rows] == shuffled[:, :, None]).double().mean(dim=(1, 2))
    value = (labels.cpu()[rows] == labels.cpu()[:, None]).double().mean().item()
    return Purity(value, share.mean().item(), share.quantile(0.95).item())


def mean_cosine(predicted: Tensor, targets: Tensor) -> float:
    """Mean cosine of each prediction with its own target: what a cosine loss drives up. Both [n, d]."""
    check_features(predicted, what="the predictions")
    check_features(targets, what="the targets")
    return F.cosine_similarity(predicted, targets, dim=1).double().mean().item()


def constant_cosine(targets: Tensor, fitted_on: Tensor | None = None) -> float:
    """Mean cosine with the targets of the best single vector, which knows nothing of any scene.

    The mean of the normalised targets is that vector: no other has a larger mean cosine.

    Args:
        targets: [n, d]. fitted_on: [m, d] the targets that the vector is the mean of; by default the same ones.
    """
    check_features(targets, what="the targets")
    known = targets if fitted_on is None else fitted_on
    vector = F.normalize(known, dim=1).mean(dim=0, keepdim=True)
    return mean_cosine(vector.expand_as(targets), targets)


def centred_cosine(predicted: Tensor, targets: Tensor) -> float:
    """Mean cosine once the mean prediction and the mean target are taken away: 0 for a constant prediction.

    Both [n, d], of unit length first, so that no scene counts for more.
    """
    mean_cosine(predicted, targets)  # the checks
    sides = [F.normalize(side, dim=1) for side in (predicted, targets)]
    sides = [side - side.mean(dim=0) for side in sides]
    sizes = [side.norm(dim=1) for side in sides]
    told = torch.stack([size > 1e-5 for size in sizes]).all(dim=0)  # what is shorter is rounding
    cosine = F.cosine_similarity(*sides, dim=1)
    return torch.where(told, cosine, 0).double().mean().item()


def spread(features: Tensor) -> float:
    """Root mean square distance of the features to their mean, over their root mean square length; 0 if collapsed."""
    check_features(features)
    apart = (features - features.mean(dim=0)).square().sum(dim=1).mean()
    return (apart / features.square().sum(dim=1).mean().clamp_min(1e-30)).sqrt().item()


def flat_map(features: Tensor, seed: int = 0) -> Tensor:
    """A drawing of the features' directions in the plane by t-SNE (van der Maaten and Hinton, 2008).

    It only illustrates: which features are near one another holds, distances between groups do not.

    Args:
        features: [n, d], four of them or more.

    Returns:
        [n, 2], within -1..1; all at 0 where all features are alike.

    Raises:
        Refusal: fewer than four features; NaN in them.
    """
    check_features(features)
    if len(features) < 4:
        raise Refusal(f"a map needs four features or more (got {len(features)})")
    sides = F.normalize(features, dim=1).double().cpu().numpy()
    if spread(features) < 1e-5:
        return torch.zeros(len(features), 2)
    from sklearn.manifold import TSNE  # a second to import, and only the page that draws needs it

    perplexity = min(30.0, (len(features) - 1) / 3)
    drawn = torch.from_numpy(TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(sides)).float()
    drawn = drawn - drawn.mean(dim=0)
    return drawn / drawn.abs().max()
