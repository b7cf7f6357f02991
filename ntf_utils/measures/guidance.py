"""How well a guide works: what it does to a concept's score, against what it does to fluency.

The perplexity-normalised effect size (PNES) of von Rütte et al. (2024), "A Language Model's Guide Through Latent
Space", as the authors' code computes it. At strength α, with score s and perplexity P,

    PNE(α) = (s(α) - s(0)) / (P(α) / P(0))

is fitted by (tanh(a α) + c) exp(-b α²), where b comes from log(P(α) / P(0)) ≈ b α²; PNES is the difference between the
fitted curve's highest and lowest point on the tested range. So PNES has no sign and is never negative: a guide that
works the wrong way round scores too, and noise scores a little. The raw effect, its sign and a null of random
directions therefore stand beside it.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeWarning, curve_fit

from ntf_utils.refusal import Refusal

CUTOFF = 2000.0  # perplexities from here on are left out of the fit of b, as in the authors' code
GRID = 200  # points of the fitted curve that PNES looks at
FLUENT = 2.0  # a text counts as fluent while the perplexity is at most so many times the unguided one; ours


@dataclass(frozen=True)
class Guidance:
    """One trade-off curve and its fit.

    Attributes:
        pnes: highest minus lowest point of the fitted curve; None where the fit does not converge.
        a, b, c: of the fit; b by the perplexities, a and c by the effects.
        r_squared: of the fitted curve; None for a flat one.
        perplexity_r_squared: of log(P / P(0)) ≈ b α²; None where the perplexity does not move.
        raw_range: highest minus lowest score over all strengths, however broken the text.
        raw_effect: the same where the text is fluent (`FLUENT`), on the stretch around strength 0.
        signed_effect: score at the highest fluent strength minus that at the lowest.
        sign: of the slope of the score on that stretch: 1, -1, or 0 for a flat one.
        lowest, highest: ends of that stretch.
    """

    pnes: float | None
    a: float | None
    b: float
    c: float | None
    r_squared: float | None
    perplexity_r_squared: float | None
    raw_range: float
    raw_effect: float
    signed_effect: float
    sign: int
    lowest: float
    highest: float

    def curve(self, strengths: ArrayLike) -> np.ndarray:
        """The fitted PNE at some strengths; nan where nothing was fitted."""
        if self.a is None or self.c is None:
            return np.full(np.shape(strengths), np.nan)
        return _pne(np.asarray(strengths, dtype=float), self.a, self.c, self.b)


def fit_guidance(
    strengths: ArrayLike, scores: ArrayLike, perplexities: ArrayLike, cutoff: float = CUTOFF, fluent: float = FLUENT
) -> Guidance:
    """Fits one trade-off curve.

    Args:
        strengths: [n] in any unit; the one nearest 0 is the base.
        scores: [n] mean score of the concept.
        perplexities: [n] of the guided model on fixed good answers; inf is taken for broken text.
        cutoff: see `CUTOFF`.
        fluent: see `FLUENT`.

    Raises:
        Refusal: fewer than 3 strengths, lists that do not fit together, a score that is not finite, or an unguided
            perplexity at the cutoff or beyond.
    """
    x, s, p = (np.asarray(values, dtype=float) for values in (strengths, scores, perplexities))
    if not len(x) == len(s) == len(p) or len(x) < 3:
        raise Refusal("a trade-off curve needs a score and a perplexity at each of 3 strengths or more")
    order = np.argsort(x, kind="stable")
    x, s, p = x[order], s[order], p[order]
    base = int(np.argmin(np.abs(x)))
    if not np.isfinite(s).all():
        raise Refusal("a trade-off curve has a score that is not finite")
    if not (np.isfinite(p[base]) and p[base] < cutoff):
        raise Refusal(f"the unguided perplexity must be finite and below {cutoff:g} (got {p[base]:g})")
    ratio = p / p[base]
    effect = np.where(np.isfinite(ratio), (s - s[base]) / ratio, 0.0)

    kept = p < cutoff
    square, growth = x[kept] ** 2, np.log(ratio[kept])
    b = float(square @ growth / (square @ square)) if square.any() else 0.0  # least squares, in closed form
    a = c = pnes = r_squared = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # a flat curve has no covariance, which nobody asks for
            (a, c), _ = curve_fit(lambda x, a, c: _pne(x, a, c, b), x, effect, p0=[0, 0], maxfev=20000)
        a, c = float(a), float(c)
        fitted = _pne(np.linspace(x[0], x[-1], GRID), a, c, b)
        r_squared = _r_squared(effect, _pne(x, a, c, b))
        pnes = 0.0 if r_squared is None else float(fitted.max() - fitted.min())
    except RuntimeError:  # scipy's word for no convergence
        a = c = None
    low, high = _fluent_stretch(ratio, base, fluent)
    inside = slice(low, high + 1)
    rise = np.polyfit(x[inside], s[inside], 1)[0] * np.ptp(x[inside]) if high > low else 0.0
    return Guidance(
        pnes=pnes, a=a, b=b, c=c, r_squared=r_squared, perplexity_r_squared=_r_squared(growth, b * square),
        raw_range=float(np.ptp(s)), raw_effect=float(np.ptp(s[inside])), signed_effect=float(s[high] - s[low]),
        sign=int(np.sign(round(rise, 9))), lowest=float(x[low]), highest=float(x[high]),
    )  # fmt: skip


def null_band(scores: ArrayLike, levels: tuple[float, float] = (0.05, 0.95)) -> tuple[np.ndarray, np.ndarray]:
    """Where the curves of random directions lie.

    Args:
        scores: [directions, strengths], at least 8 directions.
        levels: quantiles of the lower and the upper edge, interpolated between the directions.

    Returns:
        [strengths] lower edge, [strengths] upper edge.

    Raises:
        Refusal: fewer than 8 directions.
    """
    curves = np.asarray(scores, dtype=float)
    if curves.ndim != 2 or len(curves) < 8:
        raise Refusal("a null needs the curves of at least 8 random directions")
    low, high = np.quantile(curves, levels, axis=0)
    return low, high


def cross_effects(curves: Mapping[str, pd.DataFrame], concepts: Sequence[str], fluent: float = FLUENT) -> pd.DataFrame:
    """What each concept's guide does to the scores of all concepts.

    Args:
        curves: concept of the guide -> a table of its strengths: `strength`, `perplexity` and a column a scored
            concept.
        concepts: the scored ones.
        fluent: see `FLUENT`.

    Returns:
        A row a guide, a column a scored concept: the signed effect over the fluent strengths, see `Guidance`.
    """
    rows = {
        guide: {
            concept: fit_guidance(table["strength"], table[concept], table["perplexity"], fluent=fluent).signed_effect
            for concept in concepts
        }
        for guide, table in curves.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(concepts))


def _pne(x: np.ndarray, a: float, c: float, b: float) -> np.ndarray:
    return (np.tanh(a * x) + c) / np.exp(np.clip(b * x**2, None, 700))  # exp(710) overflows


def _r_squared(values: np.ndarray, fitted: np.ndarray) -> float | None:
    total = np.sum((values - values.mean()) ** 2)
    return float(1 - np.sum((values - fitted) ** 2) / total) if total > 0 else None


def _fluent_stretch(ratio: np.ndarray, base: int, fluent: float) -> tuple[int, int]:
    """First and last place of the unbroken stretch around the base in which the perplexity stays low."""
    low = high = base
    while low > 0 and ratio[low - 1] <= fluent:
        low -= 1
    while high < len(ratio) - 1 and ratio[high + 1] <= fluent:
        high += 1
    return low, high
