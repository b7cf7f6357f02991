"""A reference language model that counts: interpolated trigrams, for a second opinion on how fluent a text is."""

import torch
from torch import Tensor


class Trigrams:
    """Trigram probabilities, smoothed towards bigrams and these towards words (Dirichlet prior, MacKay & Peto 1995).

    Args:
        texts: [n, length] token numbers to count.
        vocabulary: size; the counts take vocabulary³ numbers, so it is for small ones.
        prior: how many observations the shorter context counts for.
    """

    def __init__(self, texts: Tensor, vocabulary: int, prior: float = 5.0) -> None:
        self.prior, self.size = prior, vocabulary
        first, second, third = texts[:, :-2].flatten(), texts[:, 1:-1].flatten(), texts[:, 2:].flatten()
        self.one = torch.bincount(texts.flatten(), minlength=vocabulary).float()
        self.two = torch.bincount(second * vocabulary + third, minlength=vocabulary**2).float().view(vocabulary, -1)
        place = (first * vocabulary + second) * vocabulary + third
        self.three = torch.bincount(place, minlength=vocabulary**3).to(torch.float32).view(vocabulary, vocabulary, -1)

    def log_probability(self, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """[...] nats of the third token after the two before it."""
        one = (self.one + 1) / (self.one.sum() + self.size)
        two = (self.two[second, third] + self.prior * one[third]) / (self.two.sum(dim=1)[second] + self.prior)
        after = self.three.sum(dim=2)[first, second]
        return ((self.three[first, second, third] + self.prior * two) / (after + self.prior)).log()

    def perplexity(self, tokens: Tensor, scored: Tensor) -> Tensor:
        """[n] exp of the mean cross-entropy of the scored tokens.

        Args:
            tokens: [n, length].
            scored: [n, length] which of them count; the first two have no context and never do.
        """
        losses = -self.log_probability(tokens[:, :-2], tokens[:, 1:-1], tokens[:, 2:])
        scored = scored[:, 2:].float()
        return ((losses * scored).sum(dim=1) / scored.sum(dim=1)).exp()
