"""At which score a label counts as found: rules with names."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_curve

from nnunet_dino._errors import UserError, nearest

HALF, YOUDEN, CORNER = "0.5", "youden", "corner"
RULES = (HALF, YOUDEN, CORNER)
NUM_CORNER_THRESHOLDS = 100


def check_rule(rule: str) -> None:
    """Refuses an unknown rule.

    Raises:
        UserError: It is unknown.
    """
    if rule not in RULES:
        raise UserError(f"--threshold: required one of {', '.join(RULES)} · got {rule!r}{nearest(rule, RULES)}")


def threshold_by(rule: str, targets: np.ndarray, scores: np.ndarray) -> float:
    """Returns the threshold of one label; scores from it upwards count as found.

    Args:
        rule: ``0.5``; ``youden``: largest true minus false positive rate over all scores; ``corner``: of 100 thresholds from 0
            to 1 the one whose point is nearest to the ROC curve's upper left corner, the last of several.
        targets: 0 or 1, ``n``.
        scores: ``n``.

    Returns:
        The threshold; 0.5 if there is one class only.

    Source: ``corner`` is what CT-CLIP's ``scripts/bootstrap_values.py`` does.
    """
    if rule == HALF or len(np.unique(targets)) < 2:
        return 0.5
    return _youden(targets, scores) if rule == YOUDEN else _corner(targets, scores)


def _youden(targets: np.ndarray, scores: np.ndarray) -> float:
    false_rate, true_rate, thresholds = roc_curve(targets, scores, drop_intermediate=False)
    return float(thresholds[1:][np.argmax((true_rate - false_rate)[1:])])  # the first point is "nothing is found"


def _corner(targets: np.ndarray, scores: np.ndarray) -> float:
    thresholds = np.linspace(0, 1, NUM_CORNER_THRESHOLDS)
    positive, negative = np.sort(scores[targets == 1]), np.sort(scores[targets == 0])
    true_rate = 1 - np.searchsorted(positive, thresholds) / len(positive)
    false_rate = 1 - np.searchsorted(negative, thresholds) / len(negative)
    distance = np.hypot(1 - true_rate, false_rate)
    return float(thresholds[np.flatnonzero(distance == distance.min())[-1]])
