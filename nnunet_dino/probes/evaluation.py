"""Scores of a probe, evaluated on the parts of a split or over folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_dino._errors import UserError
from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.metrics import Metrics, auroc, compute_metrics, threshold_by
from nnunet_dino.probes.options import HALF, EvaluationOptions


@dataclass(frozen=True)
class Evaluation:
    """One part of a split with its scores.

    Attributes:
        part: ``val`` or ``test``.
        targets: ``n c``.
        scores: ``n c``.
        metrics: What they are worth.
        untuned: Labels whose threshold is 0.5 because the part to tune on has one class of them only.
    """

    part: str
    targets: np.ndarray
    scores: np.ndarray
    metrics: Metrics
    untuned: list[str]


def check_parts(labelled: Labelled, options: EvaluationOptions) -> list[str]:
    """Finds out before any training whether scores could be evaluated; returns labels with one class only in training.

    Raises:
        UserError: Most classes have one patient only, all labels have one class only in the training or in the test part, or
            the rule for thresholds needs a part that is not there.
    """
    num_patients = [len(set(labelled.patients[column > 0])) for column in labelled.targets.T]
    if labelled.is_exclusive and 2 * num_patients.count(1) > len(labelled.names):
        raise UserError(
            f"--target: required classes that several patients have · got {len(labelled.names)} classes, "
            f"{num_patients.count(1)} of them with one patient, for example {labelled.names[num_patients.index(1)]!r} · name a "
            "column of classes, or put values together"
        )
    single: list[str] = []
    for part in ("test", "train"):
        here = labelled.targets[labelled.split == part]
        single = [name for c, name in enumerate(labelled.names) if len(np.unique(here[:, c])) < 2] if len(here) else []
        if len(single) == len(labelled.names):
            raise UserError(
                f"{part}: required both classes of at least one label · got one class only of {', '.join(single[:20])}"
            )
    if options.rule != HALF and not labelled.is_exclusive and not (labelled.split == options.tuned_on).any():
        raise UserError(f"--threshold {options.rule}: required a {options.tuned_on} part · got none · use --threshold 0.5")
    return single


def evaluate(labelled: Labelled, scores: np.ndarray, options: EvaluationOptions) -> dict[str, Evaluation]:
    """Evaluates scores ``n c`` of all inputs on ``val``, if there is one, and on ``test``."""
    thresholds, untuned = _thresholds(labelled, scores, labelled.split, options)
    parts = [part for part in ("val", "test") if (labelled.split == part).any()]
    of_inputs = np.tile(thresholds, (len(scores), 1))
    return {part: _evaluation(part, labelled, scores, of_inputs, untuned, options) for part in parts}


def evaluate_folds(
    labelled: Labelled, splits: Sequence[np.ndarray], scores: Sequence[np.ndarray], options: EvaluationOptions
) -> tuple[Evaluation, np.ndarray]:
    """Evaluates scores of networks that each had another part of the inputs as test: all these parts together.

    Args:
        labelled: The labels; all inputs are ``test``.
        splits: One per fold; every input is test in one of them.
        scores: One ``n c`` per fold, of its ``test`` and its tuning part.
        options: A threshold is chosen for every fold by itself.

    Returns:
        The evaluation of every input when it was test, and the thresholds, ``folds c``.
    """
    pooled, of_inputs, of_folds, untuned = np.zeros(labelled.targets.shape), np.zeros(labelled.targets.shape), [], []
    for fold, (split, values) in enumerate(zip(splits, scores, strict=True)):
        thresholds, missing = _thresholds(labelled, values, split, options)
        pooled[split == "test"], of_inputs[split == "test"] = values[split == "test"], thresholds
        of_folds.append(thresholds)
        untuned += [f"{name} in fold {fold + 1}" for name in missing]
    return _evaluation("test", labelled, pooled, of_inputs, untuned, options), np.array(of_folds)


def mean_auroc(targets: np.ndarray, scores: np.ndarray) -> float:
    """Returns the mean AUROC over the labels that have both classes, ``n c``; NaN if there is none."""
    areas = np.array([auroc(targets[:, c], scores[:, c]) for c in range(targets.shape[1])])
    known = areas[np.isfinite(areas)]
    return float(known.mean()) if len(known) else float("nan")


def _thresholds(
    labelled: Labelled, scores: np.ndarray, split: np.ndarray, options: EvaluationOptions
) -> tuple[np.ndarray, list[str]]:
    """Returns a threshold per label, NaN for exclusive classes, and the labels that could not be tuned."""
    if labelled.is_exclusive:
        return np.full(len(labelled.names), np.nan), []
    targets, scores = labelled.targets[split == options.tuned_on], scores[split == options.tuned_on]
    chosen = [threshold_by(options.rule, targets[:, c], scores[:, c]) for c in range(len(labelled.names))]
    single = [name for c, name in enumerate(labelled.names) if len(np.unique(targets[:, c])) < 2]
    return np.array(chosen), [] if options.rule == HALF else single


def _evaluation(
    part: str,
    labelled: Labelled,
    scores: np.ndarray,
    thresholds: np.ndarray,
    untuned: list[str],
    options: EvaluationOptions,
) -> Evaluation:
    here = labelled.split == part
    of_inputs = None if labelled.is_exclusive else thresholds[here]
    targets, patients, rounds = labelled.targets[here], labelled.patients[here], options.num_rounds
    metrics = compute_metrics(labelled.names, targets, scores[here], patients, of_inputs, options.seed, rounds)
    return Evaluation(part, targets, scores[here], metrics, untuned)
