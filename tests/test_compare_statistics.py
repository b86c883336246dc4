"""Paired statistics against formulas, hand-computed values and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nnunet_dino.compare.statistics import MIN_NONZERO, bootstrap_mean_interval, holm, paired_differences, signed_rank


def permuted_p(differences: np.ndarray) -> float:
    """Two-sided p by scipy's permutation of all signs of the non-zero differences."""
    return float(stats.wilcoxon(differences[differences != 0], method=stats.PermutationMethod()).pvalue)


def test_six_gains_give_the_smallest_p_six_cases_can_give():
    result = signed_rank(np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06]))
    assert result.p == pytest.approx(2 / 2**6)
    assert (result.num_nonzero, result.method, result.reason) == (6, "exact", None)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=6, max_size=11))
def test_small_samples_with_ties_and_zeros_match_all_permutations(tenths):
    differences = np.array(tenths) / 10
    result = signed_rank(differences)
    if np.count_nonzero(tenths) < MIN_NONZERO:
        assert result.p is None
    else:
        assert result.p == pytest.approx(permuted_p(np.array(tenths)))
        assert result.num_nonzero == np.count_nonzero(tenths)


def test_large_samples_follow_the_normal_approximation_with_tie_correction():
    rng = np.random.default_rng(3)
    whole = rng.integers(-9, 13, size=80)
    whole = whole[whole != 0]
    n, ranks = len(whole), stats.rankdata(np.abs(whole))
    ties = np.unique(np.abs(whole), return_counts=True)[1]
    variance = n * (n + 1) * (2 * n + 1) / 24 - (ties**3 - ties).sum() / 48
    z = (ranks[whole > 0].sum() - n * (n + 1) / 4) / np.sqrt(variance)
    result = signed_rank(whole / 100)
    assert result.method == "normal approximation"
    assert result.p == pytest.approx(2 * stats.norm.sf(abs(z)))


def test_differences_that_tie_as_fractions_tie_in_floating_point():
    differences = np.array([0.3 - 0.2, 0.2 - 0.1, 0.7 - 0.6, 0.6 - 0.7, 0.25, 0.3, 0.35])
    assert signed_rank(differences).p == pytest.approx(permuted_p(np.round(differences, 9)))


@pytest.mark.parametrize(
    ("differences", "reason"),
    [
        ([0.0] * 9, "all differences are zero"),
        ([1e-17, -1e-17, 0.0], "all differences are zero"),
        ([], "no pairs"),
        ([0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0], "2 non-zero differences, 6 needed"),
        ([0.3], "1 non-zero difference, 6 needed"),
    ],
)
def test_too_little_to_test_says_why(differences, reason):
    result = signed_rank(np.array(differences))
    assert (result.p, result.reason) == (None, reason)


def test_bootstrap_of_zeros_and_ones_follows_the_binomial_distribution():
    values = np.repeat([1.0, 0.0], [12, 18])[:, None]
    low, high = bootstrap_mean_interval(values)
    assert low[0] == pytest.approx(stats.binom.ppf(0.025, 30, 0.4) / 30)
    assert high[0] == pytest.approx(stats.binom.ppf(0.975, 30, 0.4) / 30)


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(1).normal(0.02, 0.05, size=(23, 2))
    low, high = bootstrap_mean_interval(values)
    for column in range(2):
        theirs = stats.bootstrap((values[:, column],), np.mean, method="percentile", n_resamples=10_000, rng=5)
        assert low[column] == pytest.approx(theirs.confidence_interval.low, abs=1e-3)
        assert high[column] == pytest.approx(theirs.confidence_interval.high, abs=1e-3)


def test_bootstrap_is_repeatable_and_leaves_undefined_values_out():
    values = np.random.default_rng(2).normal(size=(15, 3))
    values[4:, 1] = np.nan
    values[1:, 2] = np.nan
    low, high = bootstrap_mean_interval(values)
    np.testing.assert_array_equal((low, high), bootstrap_mean_interval(values))
    assert values[:4, 1].min() <= low[1] < high[1] <= values[:4, 1].max()
    assert np.isnan(low[2]) and np.isnan(high[2])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_does_not_count_what_was_not_tested():
    assert holm([None, 0.02, None, 0.5]) == [None, 0.04, None, 0.5]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_paired_differences_count_and_skip_undefined_pairs():
    baseline = np.array([[0.5, 0.1], [0.5, np.nan], [0.5, 0.3], [0.5, 0.4], [0.5, np.nan]])
    other = np.array([[0.7, 0.1], [0.4, 0.9], [0.5, np.nan], [0.9, 0.6], [0.6, np.nan]])
    first, second = paired_differences(baseline, other)
    assert (first.num_pairs, first.num_better, first.num_worse, first.num_equal) == (5, 3, 1, 1)
    assert first.mean == pytest.approx((0.2 - 0.1 + 0 + 0.4 + 0.1) / 5)
    assert (second.num_pairs, second.num_better, second.num_worse, second.num_equal) == (2, 1, 0, 1)
    assert second.mean == pytest.approx(0.1)
    assert first.low <= first.mean <= first.high
