"""How good, how honest and how diverse predicted probabilities are, of single networks and of their ensembles.

An ensemble says the mean of its members' probabilities, not of their logits. Before ensembles are ranked by their
negative log-likelihood each is temperature-scaled on images that it is neither trained nor tested on: without that,
the ranking says mostly who is overconfident (Ashukha, Lyzhov, Molchanov and Vetrov, 2020, arXiv 2002.06470).
"""

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from ntf_utils.refusal import Refusal

BINS = 15
COLDEST, HOTTEST = 0.05, 20.0  # temperatures between which the best one is looked for


def ensemble(logits: Tensor) -> Tensor:
    """[members, ..., classes] logits -> [..., classes] log of the members' mean probabilities.

    Raises:
        Refusal: fewer than two members.
    """
    if len(logits) < 2:
        raise Refusal(f"an ensemble has two members or more (got {len(logits)})")
    return logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))


def nll(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood in nats: [..., n, classes] and [n] -> [...]."""
    _check_size(log_probabilities, labels)
    at = labels.expand(log_probabilities.shape[:-1])[..., None]
    return -log_probabilities.gather(-1, at).mean(dim=(-1, -2))


def error(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Share of wrong labels: [..., n, classes] and [n] -> [...]."""
    _check_size(log_probabilities, labels)
    return (log_probabilities.argmax(dim=-1) != labels).float().mean(dim=-1)


def brier(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Squared distance of the probabilities to the one-hot label, summed over the classes (Brier, 1950): 0 to 2."""
    _check_size(log_probabilities, labels)
    truth = torch.nn.functional.one_hot(labels, log_probabilities.shape[-1])
    return (log_probabilities.exp() - truth).square().sum(dim=-1).mean(dim=-1)


def expected_calibration_error(log_probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over bins of equal width (Guo et al., 2017, equation 3).

    Args:
        log_probabilities: [n, classes]; the confidence is that of the label said. labels: [n].
        bins: (0, 1/bins], ... as in the reference implementation.

    Returns:
        Share in 0..1. Biased upwards where bins hold few images.
    """
    _check_size(log_probabilities, labels)
    confidence, said = log_probabilities.exp().max(dim=-1)
    edges = torch.linspace(0, 1, bins + 1, device=confidence.device)
    places = torch.bucketize(confidence, edges[1:-1])
    gaps = torch.zeros(bins, device=confidence.device, dtype=torch.float64)
    gaps.index_add_(0, places, (said == labels).double() - confidence.double())
    return float(gaps.abs().sum() / len(labels))


def tempered(log_probabilities: Tensor, temperature: float) -> Tensor:
    """Log-probabilities at another temperature: those of p^(1/T), made to sum to 1 again.

    Raises:
        Refusal: a temperature that is not above 0.
    """
    if not temperature > 0:
        raise Refusal(f"a temperature must be above 0 (got {temperature:g})")
    return (log_probabilities / temperature).log_softmax(dim=-1)


def best_temperature(log_probabilities: Tensor, labels: Tensor, rounds: int = 40) -> float:
    """The temperature of the lowest NLL on some held-out images, by golden-section search over its logarithm.

    The NLL has one minimum over 1/T, because it is convex there.

    Args:
        log_probabilities: [n, classes]. labels: [n].
        rounds: each narrows the bracket by 0.618.
    """
    _check_size(log_probabilities, labels)
    golden = (math.sqrt(5) - 1) / 2
    low, high = math.log(COLDEST), math.log(HOTTEST)

    def cost(log_temperature: float) -> float:
        return float(nll(tempered(log_probabilities, math.exp(log_temperature)), labels))

    a, b = high - golden * (high - low), low + golden * (high - low)
    at_a, at_b = cost(a), cost(b)
    for _ in range(rounds):
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - golden * (high - low)
            at_a = cost(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + golden * (high - low)
            at_b = cost(b)
    return math.exp((low + high) / 2)


def disagreement(logits: Tensor) -> float:
    """[members, n, classes] -> share of images on which two members say different labels, mean over all pairs.

    Raises:
        Refusal: fewer than two members.
    """
    if len(logits) < 2:
        raise Refusal(f"one member cannot disagree: give two or more (got {len(logits)})")
    said = logits.argmax(dim=-1)
    shares = [(said[a] != said[b]).double().mean() for a, b in combinations(range(len(said)), 2)]
    return float(torch.stack(shares).mean())


def agreement(logits: Tensor, others: Tensor) -> Tensor:
    """[members, others] share of images on which a member says what another network says: [.., n, classes] each."""
    if logits.shape[1:] != others.shape[1:]:
        raise Refusal(
            f"networks can only agree on the same images and classes (got {list(logits.shape[1:])} and "
            f"{list(others.shape[1:])})"
        )
    return (logits.argmax(dim=-1)[:, None] == others.argmax(dim=-1)[None]).float().mean(dim=-1)


def _check_size(log_probabilities: Tensor, labels: Sequence | Tensor) -> None:
    if log_probabilities.shape[-2] != len(labels):
        raise Refusal(f"{log_probabilities.shape[-2]} predictions need as many labels (got {len(labels)})")
