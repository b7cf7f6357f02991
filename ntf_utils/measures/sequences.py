"""Accuracy of written token sequences."""

from torch import Tensor


def exact_match(written: Tensor, target: Tensor) -> float:
    """Share of sequences with every token right; both [batch, length].

    For greedy decoding one teacher-forced pass gives the same number: up to its first mistake the decoder has read
    just what teacher forcing shows it, so either both are right everywhere or both err at the same first token.
    """
    return (written == target).all(dim=1).float().mean().item()


def token_accuracy(written: Tensor, target: Tensor) -> list[float]:
    """Share of right tokens at each position; both [batch, length]."""
    return (written == target).float().mean(dim=0).tolist()
