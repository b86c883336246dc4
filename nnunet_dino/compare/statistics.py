"""Paired statistics of per-case scores: Wilcoxon's signed-rank test, bootstrap intervals, Holm's adjustment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

EQUAL_BELOW = 1e-9
"""Differences smaller than this are rounding of the same counts and are taken as equal."""

MIN_NONZERO = 6
"""With five non-zero differences the smallest two-sided p is 2/2^5 = 0.0625: no outcome could reach 0.05."""

MAX_EXACT = 50
MAX_ENUMERATED = 13


@dataclass(frozen=True)
class SignedRank:
    """Outcome of a Wilcoxon signed-rank test.

    Attributes:
        p: Two-sided p value, or None if the test says nothing about these differences.
        num_nonzero: Differences the test used; zeros are dropped (Wilcoxon's own handling).
        method: ``"exact"``, ``"exact (ties enumerated)"`` or ``"normal approximation"``; None without a p value.
        reason: Why there is no p value; None with one.
    """

    p: float | None
    num_nonzero: int
    method: str | None = None
    reason: str | None = None


def signed_rank(differences: np.ndarray) -> SignedRank:
    """Tests whether paired differences are symmetric about zero (Wilcoxon signed-rank, two-sided).

    Exact distribution without ties up to 50 differences, all sign patterns with ties up to 13, else the normal
    approximation with tie correction.

    Args:
        differences: One finite number per pair, shape ``n``.

    Source:
        F. Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1(6), 1945; computed by
        ``scipy.stats.wilcoxon`` where it is exact or approximate, by enumeration in between.
    """
    # rounding keeps |d| that are equal as fractions of voxel counts tied in floating point as well
    nonzero = np.round(differences[np.abs(differences) > EQUAL_BELOW], 12)
    num = len(nonzero)
    if num == 0:
        return SignedRank(None, 0, reason="all differences are zero" if len(differences) else "no pairs")
    if num < MIN_NONZERO:
        return SignedRank(None, num, reason=f"{num} non-zero difference{'s' if num > 1 else ''}, {MIN_NONZERO} needed")
    has_ties = len(np.unique(np.abs(nonzero))) < num
    if has_ties and num <= MAX_ENUMERATED:
        return SignedRank(_enumerated_p(nonzero), num, method="exact (ties enumerated)")
    exact = not has_ties and num <= MAX_EXACT
    p = stats.wilcoxon(nonzero, correction=False, method="exact" if exact else "asymptotic").pvalue
    return SignedRank(min(float(p), 1.0), num, method="exact" if exact else "normal approximation")


def _enumerated_p(nonzero: np.ndarray) -> float:
    """Counts the assignments of signs whose rank sum is as far from its mean as the one seen."""
    ranks = stats.rankdata(np.abs(nonzero))
    signs = (np.arange(2 ** len(ranks))[:, None] >> np.arange(len(ranks))) & 1
    distances = np.abs(signs @ ranks - ranks.sum() / 2)
    seen = abs(ranks[nonzero > 0].sum() - ranks.sum() / 2)
    return float(np.mean(distances >= seen - 1e-9))


def bootstrap_mean_interval(
    values: np.ndarray, *, num_resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the mean of each column; cases (rows) are resampled, all columns together.

    Args:
        values: Shape ``n k``: ``n`` cases, ``k`` quantities. NaN entries are left out of the means of their column.
        num_resamples: Resamples of ``n`` cases with replacement.
        level: Coverage aimed at, in (0, 1).
        seed: Seed of the resampling, so that the same results give the same interval.

    Returns:
        Lower and upper ends, shape ``k`` each; NaN for columns with fewer than two finite values.

    Source:
        B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (the percentile interval).
    """
    num, width = values.shape
    low, high = np.full(width, np.nan), np.full(width, np.nan)
    finite = np.isfinite(values)
    usable = finite.sum(axis=0) >= 2
    if not usable.any():
        return low, high
    filled, present = np.where(finite, values, 0.0)[:, usable], finite[:, usable].astype(float)
    rng = np.random.default_rng(seed)
    means = np.empty((num_resamples, filled.shape[1]))
    rows = max(1, 4_000_000 // num)
    for start in range(0, num_resamples, rows):
        size = min(rows, num_resamples - start)
        counts = rng.multinomial(num, np.full(num, 1 / num), size=size).astype(float)
        with np.errstate(invalid="ignore"):
            means[start : start + size] = (counts @ filled) / (counts @ present)
    tail = 100 * (1 - level) / 2
    low[usable], high[usable] = np.nanpercentile(means, [tail, 100 - tail], axis=0)
    return low, high


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment; entries without a p value stay None and do not count.

    Source:
        S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class Difference:
    """A paired difference of two results in one quantity: the other result minus the baseline.

    Attributes:
        mean: Mean difference over the pairs; NaN without pairs.
        low: Lower end of the 95 % bootstrap interval; NaN with fewer than two pairs.
        high: Upper end of it.
        num_pairs: Cases in which both scores are defined.
        num_better: Cases in which the other result is better than the baseline.
        num_worse: Cases in which it is worse.
        num_equal: Cases in which both are equal.
        test: Wilcoxon's signed-rank test.
        p_holm: Holm-adjusted p, where several comparisons were made.
        lower_is_better: Direction of the quantity.
    """

    mean: float
    low: float
    high: float
    num_pairs: int
    num_better: int
    num_worse: int
    num_equal: int
    test: SignedRank
    p_holm: float | None = None
    lower_is_better: bool = False


def paired_differences(
    baseline: np.ndarray, other: np.ndarray, *, lower_is_better: bool = False, num_resamples: int = 10_000
) -> list[Difference]:
    """Compares scores of the same cases, both ``n k``: ``n`` cases, ``k`` quantities; NaN where undefined."""
    delta = other - baseline
    low, high = bootstrap_mean_interval(delta, num_resamples=num_resamples)
    return [
        _difference(column[np.isfinite(column)], least, most, lower_is_better)
        for column, least, most in zip(delta.T, low, high, strict=True)
    ]


def _difference(delta: np.ndarray, low: float, high: float, lower_is_better: bool) -> Difference:
    gain = -delta if lower_is_better else delta
    return Difference(
        mean=float(delta.mean()) if len(delta) else float("nan"),
        low=float(low),
        high=float(high),
        num_pairs=len(delta),
        num_better=int((gain > EQUAL_BELOW).sum()),
        num_worse=int((gain < -EQUAL_BELOW).sum()),
        num_equal=int((np.abs(delta) <= EQUAL_BELOW).sum()),
        test=signed_rank(delta),
        lower_is_better=lower_is_better,
    )
