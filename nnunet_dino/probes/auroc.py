"""The area under the ROC curve, for many weightings of the same scores at once."""

from __future__ import annotations

import numpy as np


def weighted_auroc(targets: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the area under the ROC curve for every row of weights; ties count half.

    Args:
        targets: 0 or 1, ``n``.
        scores: ``n``.
        weights: How often every input counts, ``rounds n``.

    Returns:
        ``rounds``; NaN where one class has no weight.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)  # the first of every group of equal scores
    is_positive = targets[order] == 1
    sorted_weights = weights[:, order].astype(np.float64)
    positive = np.add.reduceat(sorted_weights * is_positive, starts, axis=1)
    negative = np.add.reduceat(sorted_weights * ~is_positive, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    won = (positive * (below + negative / 2)).sum(1)
    pairs = positive.sum(1) * negative.sum(1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def auroc(targets: np.ndarray, scores: np.ndarray) -> float:
    """Returns the area under the ROC curve; NaN if there is one class only."""
    return float(weighted_auroc(targets, scores, np.ones((1, len(scores))))[0])
