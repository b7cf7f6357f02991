"""Probes of a concept in each layer's activations: they detect it, and their directions guide towards it.

The three probes of von Rütte et al. (2024), "A Language Model's Guide Through Latent Space", as the authors' code fits
them: every token of a labelled text is an example with the text's label, and every layer has a probe of its own.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ntf_utils.refusal import Refusal

Kind = Literal["logistic", "difference", "principal"]
KINDS = ("logistic", "difference", "principal")
FEWEST = 8  # labelled texts of either class; ours: below, an accuracy has steps of more than 5 points


@dataclass(frozen=True)
class Probe:
    """One probe a layer.

    Attributes:
        vectors: [layers, d] the directions, which guide.
        centre: [layers, d] subtracted first; 0 where the probe does not centre.
        slope, intercept: [layers] of the logistic reading of the projection.
        unit_rows: whether rows are brought to length 1 first.
    """

    vectors: Tensor
    centre: Tensor
    slope: Tensor
    intercept: Tensor
    unit_rows: bool

    def projection(self, rows: Tensor) -> Tensor:
        """[n, layers, d] activations -> [n, layers] along the directions, after what the probe does to its rows."""
        return torch.einsum("nld,ld->nl", _prepared(rows, self.centre, self.unit_rows), self.vectors)

    def predict(self, rows: Tensor) -> Tensor:
        """[n, layers, d] activations -> [n, layers] probability of label 1."""
        return torch.sigmoid(self.projection(rows) * self.slope + self.intercept)


def fit_probe(
    kind: Kind, rows: Tensor, labels: Tensor, groups: Tensor, sign_fixed: bool = True, seed: int = 0
) -> Probe:
    """Fits one probe a layer.

    - logistic: unit-length rows, no centring, L2-penalised (C = 1) logistic regression without intercept by liblinear;
    - difference in means: centred unit-length rows, w ∝ mean(y x) with y = ±1;
    - principal: raw rows, differences of random pairs with random signs, their first principal component (RepE).

    The last two read their projection by an unpenalised logistic regression in one dimension.

    Args:
        rows: [n, layers, d] activations of tokens, see `token_rows`.
        labels: [n] 0 or 1.
        groups: [n] number of the text that a row comes from; only counted.
        sign_fixed: turn a principal component round where label 1 lies on its negative side. False reproduces the
            published code, in which layers may push in opposite directions.
        seed: of the principal probe's pairs.

    Raises:
        Refusal: an unknown kind, or fewer than 8 texts of a label.
    """
    if kind not in KINDS:
        raise Refusal(f"the probe must be one of {', '.join(KINDS)} (got {kind!r})")
    for label in (0, 1):
        texts = len(set(groups[labels == label].tolist()))
        if texts < FEWEST:
            raise Refusal(f"a probe needs at least {FEWEST} texts labelled {label}; there are {texts}")
    rows = rows.float()
    layers, width = rows.shape[1:]
    if kind == "logistic":
        fits = [_logistic(_prepared(rows[:, layer], None, True), labels) for layer in range(layers)]
        vectors = torch.stack([torch.as_tensor(fit.coef_[0], dtype=torch.float32) for fit in fits])
        return Probe(vectors, torch.zeros(layers, width), torch.ones(layers), torch.zeros(layers), unit_rows=True)
    if kind == "difference":
        centre, tolerance, unit_rows = rows.mean(dim=0), 1e-3, True
        signs = (2.0 * labels - 1).float()
        means = torch.stack([
            (_prepared(rows[:, layer], centre[layer], True) * signs[:, None]).mean(dim=0) for layer in range(layers)
        ])  # fmt: skip
        vectors = means / means.norm(dim=1, keepdim=True).clamp_min(1e-8)
    else:
        centre, tolerance, unit_rows = torch.zeros(layers, width), 1e-2, False
        vectors = _principal(rows, seed)
    read = Probe(vectors, centre, torch.ones(layers), torch.zeros(layers), unit_rows)
    projections = read.projection(rows).numpy()
    fits = [_calibrated(projections[:, layer], labels, tolerance) for layer in range(layers)]
    slope = torch.tensor([fit.coef_[0, 0] for fit in fits], dtype=torch.float32)
    intercept = torch.tensor([fit.intercept_[0] for fit in fits], dtype=torch.float32)
    if kind == "principal" and sign_fixed:
        # the sign of the slope, which the loose tolerance leaves at 0 where a layer knows next to nothing
        apart = projections[labels == 1].mean(axis=0) - projections[labels == 0].mean(axis=0)
        turned = torch.where(torch.as_tensor(apart) < 0, -1.0, 1.0)
        vectors, slope = vectors * turned[:, None], slope * turned
    return Probe(vectors, centre, slope, intercept, unit_rows)


def token_rows(
    activations: Tensor, completion_mask: Tensor, labels: Tensor, tokens: int = 16
) -> tuple[Tensor, Tensor, Tensor]:
    """The first completion tokens of every text as examples, its last token left out.

    Args:
        activations: [n, length, layers, d].
        completion_mask: [n, length] the completion's tokens.
        labels: [n] 0 or 1.
        tokens: of a completion, at most; 16 in the authors' code.

    Returns:
        [rows, layers, d] activations, [rows] labels, [rows] numbers of the texts.
    """
    marked = completion_mask.bool()
    place = marked.long().cumsum(dim=1)
    kept = marked & (place <= tokens) & (place < marked.sum(dim=1, keepdim=True))
    text, column = kept.nonzero(as_tuple=True)
    return activations[text, column], labels[text], text


def accuracy(probe: Probe, rows: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """[layers] share of right labels: the mean over a text's tokens, then over texts.

    Args:
        rows, labels, groups: as `fit_probe`.
    """
    right = ((probe.predict(rows.float()) > 0.5) == labels.bool()[:, None]).float()
    texts, number = torch.unique(groups, return_inverse=True)
    sums = torch.zeros(len(texts), right.shape[1]).index_add_(0, number, right)
    return (sums / torch.bincount(number)[:, None]).mean(dim=0)


def random_directions(count: int, layers: int, d: int, seed: int) -> Tensor:
    """[count, layers, d] unit vectors drawn evenly from the sphere: guides that know nothing, the null."""
    drawn = torch.randn(count, layers, d, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=-1, keepdim=True)


def _prepared(rows: Tensor, centre: Tensor | None, unit_rows: bool) -> Tensor:
    if centre is not None:
        rows = rows - centre
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) if unit_rows else rows


def _logistic(rows: Tensor, labels: Tensor) -> LogisticRegression:
    fit = LogisticRegression(fit_intercept=False, solver="liblinear", C=1.0, max_iter=300, tol=1e-3)
    return fit.fit(rows.numpy(), labels.numpy())


def _calibrated(projection: np.ndarray, labels: Tensor, tolerance: float) -> LogisticRegression:
    return LogisticRegression(C=np.inf, max_iter=500, tol=tolerance).fit(projection[:, None], labels.numpy())


def _principal(rows: Tensor, seed: int) -> Tensor:
    """[layers, d] first principal components of differences between random pairs, of random sign."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows), generator=generator)
    first, second = order[: len(rows) // 2 * 2].reshape(-1, 2).T
    signs = torch.randint(2, (len(first), 1), generator=generator) * 2.0 - 1
    return torch.stack([
        torch.as_tensor(PCA(1, random_state=seed).fit((signs * (rows[first, layer] - rows[second, layer])).numpy())
                        .components_[0])
        for layer in range(rows.shape[1])
    ])  # fmt: skip
