"""Whether one of two sets of scores of the same inputs ranks them better: DeLong's test, and drawing patients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from nnunet_dino.probes.metrics import Estimate, drawings, estimate, weighted_auroc


@dataclass(frozen=True)
class PairedDifference:
    """Two areas under the ROC curve on the same inputs.

    Attributes:
        first: Area of the first scores.
        second: Area of the second scores.
        difference: Second minus first, with its interval from drawing patients with replacement.
        p_delong: Two-sided; takes inputs for independent of each other. NaN where both rank alike or a class has one input.
        p_bootstrap: Two-sided, from the same drawings as the interval; right where patients have several inputs.
    """

    first: float
    second: float
    difference: Estimate
    p_delong: float
    p_bootstrap: float


def paired_difference(
    targets: np.ndarray, first: np.ndarray, second: np.ndarray, patients: np.ndarray, num_rounds: int, seed: int
) -> PairedDifference:
    """Compares the areas under the ROC curve of two sets of scores.

    Args:
        targets: 0 or 1, ``n``, both of them there; or of several labels, ``n c``, whose areas are averaged.
        first: Scores, as ``targets``.
        second: Scores of the same inputs.
        patients: Whose the inputs are, ``n``.
        num_rounds: Drawings.
        seed: Of the drawings.
    """
    weights = list(drawings(patients, num_rounds, seed))
    is_one = targets.ndim == 1

    def area(scores: np.ndarray) -> np.ndarray:
        pairs = [(targets, scores)] if is_one else list(zip(targets.T, scores.T, strict=True))
        return np.mean([np.concatenate([weighted_auroc(t, s, some) for some in weights]) for t, s in pairs], axis=0)

    areas = [area(first), area(second)]
    differences = areas[1] - areas[0]
    drawn = differences[1:][np.isfinite(differences[1:])]
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return PairedDifference(
        first=float(areas[0][0]),
        second=float(areas[1][0]),
        difference=estimate(differences),
        p_delong=delong_p(targets, first, second) if is_one else float("nan"),
        p_bootstrap=float(min(1.0, 2 * (tail + 1) / (len(drawn) + 1))),
    )


def delong_p(targets: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Returns the two-sided p of DeLong's test for two correlated areas; NaN where it is undefined.

    Args:
        targets: 0 or 1, ``n``.
        first: Scores, ``n``.
        second: Scores, ``n``.

    Source: DeLong et al., Biometrics 44 (1988), equations 4 to 6; by ranks as in Sun and Xu, IEEE Signal Processing Letters 21
    (2014), algorithm 2.
    """
    is_positive = targets == 1
    num_positive, num_negative = int(is_positive.sum()), int((~is_positive).sum())
    if min(num_positive, num_negative) < 2:
        return float("nan")
    of_positive, of_negative = [], []
    for scores in (first, second):
        ranks = rankdata(scores)  # ties get their mean rank
        positive, negative = scores[is_positive], scores[~is_positive]
        of_positive.append((ranks[is_positive] - rankdata(positive)) / num_negative)
        of_negative.append(1 - (ranks[~is_positive] - rankdata(negative)) / num_positive)
    difference = np.mean(of_positive[1]) - np.mean(of_positive[0])
    variance = (
        np.var(of_positive[1] - of_positive[0], ddof=1) / num_positive
        + np.var(of_negative[1] - of_negative[0], ddof=1) / num_negative
    )
    if variance < 1e-15:
        return float("nan")
    return float(2 * norm.sf(abs(difference) / math.sqrt(variance)))
