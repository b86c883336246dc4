"""Logistic regression to convergence, by L-BFGS."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from nnunet_dino._errors import UserError

MAX_STEPS = 10_000


def fit_logistic(features: np.ndarray, targets: np.ndarray, is_exclusive: bool, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """Fits one regression over exclusive classes, or one per label.

    The sum of the cross-entropies of all inputs plus ``l2 / 2`` times the squared weights, the bias not counted, is minimal.

    Args:
        features: ``n e``.
        targets: ``n c``, 0 or 1.
        is_exclusive: Whether every input has exactly one class.
        l2: Strength of the penalty.

    Returns:
        Weight ``c e`` and bias ``c``. Of a label with one class only, the weight is 0 and the bias its odds within ±20.

    Raises:
        UserError: It does not converge.
    """
    width = features.shape[1]
    if not is_exclusive:
        pairs = [_binary(features, targets[:, c], l2) for c in range(targets.shape[1])]
        return np.concatenate([weight for weight, _ in pairs]), np.concatenate([bias for _, bias in pairs])
    weight, bias = np.zeros((targets.shape[1], width)), np.full(targets.shape[1], -20.0)  # of classes without an input
    classes = targets.argmax(1)
    there = np.unique(classes)
    found, biases = _fit(features, classes, l2)
    weight[there], bias[there] = (
        (found, biases) if len(there) > 2 else ([-found[0] / 2, found[0] / 2], [-biases[0] / 2, biases[0] / 2])
    )
    return weight, bias


def _binary(features: np.ndarray, target: np.ndarray, l2: float) -> tuple[np.ndarray, np.ndarray]:
    if len(np.unique(target)) < 2:
        return np.zeros((1, features.shape[1])), np.array([20.0 if target[0] else -20.0])
    return _fit(features, target, l2)


def _fit(features: np.ndarray, classes: np.ndarray, l2: float) -> tuple[np.ndarray, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model = LogisticRegression(C=1 / l2, max_iter=MAX_STEPS).fit(features.astype(np.float64), classes)
        except ConvergenceWarning as error:
            raise UserError(
                f"--l2: required a penalty with which {MAX_STEPS:,} steps are enough · got {l2:g} · give a larger one, or "
                "--standardise"
            ) from error
    return model.coef_, model.intercept_
