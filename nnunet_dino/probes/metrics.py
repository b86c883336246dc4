"""What scores are worth: AUROC, thresholds, accuracy, precision and recall, with bootstrap intervals by patient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_curve

from nnunet_dino.probes.options import HALF, YOUDEN, EvaluationOptions

NUM_CORNER_THRESHOLDS = 100
ROUNDS_AT_ONCE = 100
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LabelMetrics:
    """One label, or one class against the others.

    Attributes:
        name: Of the label.
        num_positive: Inputs that have it.
        auroc: NaN if all inputs have it, or none.
        threshold: Scores from here upwards count as found; NaN if folds differ in it, and for exclusive classes, where the
            highest score counts.
        accuracy: Fraction of inputs for which "found" is right.
        precision: Of those found, the fraction that have it; 0 if none is found.
        recall: Of those that have it, the fraction found; NaN if none has it. Also called sensitivity.
        average_precision: Area under the precision-recall curve by steps; NaN if none has it. By chance it is the prevalence.
        specificity: Of those that do not have it, the fraction not found; NaN if all have it.
        balanced_accuracy: Mean of recall and specificity; NaN if all inputs have it, or none.
        f1: Harmonic mean of precision and recall; 0 if nothing is found rightly.
        brier: Mean squared difference of score and truth; 0 is best.
        confusion: Inputs found that have it, found that do not, missed, and rightly not found.
    """

    name: str
    num_positive: int
    auroc: Estimate
    threshold: float
    accuracy: Estimate
    precision: Estimate
    recall: Estimate
    average_precision: Estimate
    specificity: Estimate
    balanced_accuracy: Estimate
    f1: Estimate
    brier: Estimate
    confusion: tuple[int, int, int, int]


@dataclass(frozen=True)
class Metrics:
    """How good scores are on one part.

    Attributes:
        num: Inputs.
        num_patients: Patients.
        labels: One entry per label or class.
        overall: By name: ``auroc`` (mean over labels that have both classes), ``accuracy`` (mean over labels; of exclusive
            classes the fraction that is right), ``subset_accuracy`` (all labels right), ``precision``, ``recall`` (means over
            labels), ``micro_precision``, ``micro_recall`` (all decisions together), ``weighted_precision``,
            ``weighted_recall`` (means weighted by how many have the label), ``average_precision``, ``specificity``,
            ``balanced_accuracy``, ``f1``, ``brier`` (means over labels; ``balanced_accuracy`` of exclusive classes is the
            mean of their recalls, as in scikit-learn).
        single_class: Labels that all inputs have or none; they have no AUROC and are left out of its mean.
    """

    num: int
    num_patients: int
    labels: list[LabelMetrics]
    overall: dict[str, Estimate]
    single_class: list[str]


def compute_metrics(
    names: tuple[str, ...],
    targets: np.ndarray,
    scores: np.ndarray,
    patients: np.ndarray,
    thresholds: np.ndarray | None,
    seed: int = 0,
    num_rounds: int = EvaluationOptions.num_rounds,
) -> Metrics:
    """Computes all metrics of one part.

    Args:
        names: Of the ``c`` labels.
        targets: ``n c``, 0 or 1.
        scores: ``n c``, 0..1.
        patients: Whose the inputs are; intervals come from drawing patients with replacement.
        thresholds: Per label, ``c``, or per input and label, ``n c``; None for exclusive classes, of which the one with the
            highest score is found.
        seed: Of the drawing.
        num_rounds: Drawings.
    """
    highest = np.arange(len(names)) == scores.argmax(1)[:, None]
    found = highest if thresholds is None else scores >= thresholds
    drawn = drawings(patients, num_rounds, seed)
    measured = [_measures(targets, scores, found, weights, thresholds is None) for weights in drawn]
    per_label, overall = (_joined(parts) for parts in zip(*measured, strict=True))
    labels = [
        LabelMetrics(
            name=name,
            num_positive=int(targets[:, c].sum()),
            threshold=_common_threshold(thresholds, c),
            confusion=_confusion(targets[:, c] == 1, found[:, c]),
            **{key: estimate(values[c]) for key, values in per_label.items()},
        )
        for c, name in enumerate(names)
    ]
    return Metrics(
        num=len(targets),
        num_patients=len(np.unique(patients)),
        labels=labels,
        overall={key: estimate(values) for key, values in overall.items()},
        single_class=[name for c, name in enumerate(names) if len(np.unique(targets[:, c])) < 2],
    )


def _confusion(is_true: np.ndarray, found: np.ndarray) -> tuple[int, int, int, int]:
    hits, alarms, missed = (int(cells.sum()) for cells in (found & is_true, found & ~is_true, ~found & is_true))
    return hits, alarms, missed, len(found) - hits - alarms - missed


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.concatenate([part[key] for part in parts], axis=-1) for key in parts[0]}


def _common_threshold(thresholds: np.ndarray | None, label: int) -> float:
    if thresholds is None:
        return float("nan")
    known = np.unique(np.atleast_2d(thresholds)[:, label])
    return float(known[0]) if len(known) == 1 else float("nan")


def drawings(patients: np.ndarray, num_rounds: int, seed: int) -> Iterator[np.ndarray]:
    """Yields how often every input counts: once, then when patients are drawn with replacement, some rounds at a time."""
    yield np.ones((1, len(patients)))
    people, whose = np.unique(patients, return_inverse=True)
    generator = np.random.default_rng(seed)
    for start in range(0, num_rounds, ROUNDS_AT_ONCE):
        rounds = min(ROUNDS_AT_ONCE, num_rounds - start)
        yield generator.multinomial(len(people), np.full(len(people), 1 / len(people)), rounds)[:, whose]


def _measures(
    targets: np.ndarray, scores: np.ndarray, found: np.ndarray, weights: np.ndarray, is_exclusive: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns measures per label, each ``c rounds``, and overall, each ``rounds``."""
    is_true = targets == 1
    weights = weights.astype(np.float64)
    total = weights.sum(1)
    hits, alarms, missed = (
        weights @ cells.astype(np.float64) for cells in (found & is_true, found & ~is_true, ~found & is_true)
    )
    columns = range(targets.shape[1])
    areas = np.stack([weighted_auroc(targets[:, c], scores[:, c], weights) for c in columns])
    having, lacking = hits + missed, total[:, None] - hits - missed
    specificity, recall = _ratio(lacking - alarms, lacking, np.nan), _ratio(hits, having, np.nan)
    per_label = {
        "auroc": areas,
        "accuracy": (1 - (alarms + missed) / total[:, None]).T,
        "precision": _ratio(hits, hits + alarms).T,
        "recall": recall.T,
        "average_precision": np.stack([weighted_average_precision(targets[:, c], scores[:, c], weights) for c in columns]),
        "specificity": specificity.T,
        "balanced_accuracy": ((recall + specificity) / 2).T,
        "f1": _ratio(2 * hits, 2 * hits + alarms + missed).T,
        "brier": (weights @ (scores - targets) ** 2 / total[:, None]).T,
    }
    all_right = weights @ (found == is_true).all(1).astype(np.float64) / total
    share = _ratio(having, having.sum(1, keepdims=True)).T
    overall = {
        "auroc": mean_of_known(areas),
        "accuracy": all_right if is_exclusive else per_label["accuracy"].mean(0),
        "subset_accuracy": all_right,
        "precision": per_label["precision"].mean(0),
        "micro_precision": _ratio(hits.sum(1), (hits + alarms).sum(1)),
        "micro_recall": _ratio(hits.sum(1), having.sum(1), np.nan),
        "weighted_precision": (per_label["precision"] * share).sum(0),
        "weighted_recall": np.nansum(per_label["recall"] * share, axis=0),
        **{name: mean_of_known(per_label[name]) for name in ("recall", "average_precision", "specificity", "f1", "brier")},
        "balanced_accuracy": mean_of_known(recall.T if is_exclusive else per_label["balanced_accuracy"]),
    }
    return per_label, overall


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Returns the mean over labels, ``c rounds``, of what is defined; NaN where nothing is."""
    known = np.isfinite(values)
    return np.where(known.any(0), np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)


def _ratio(part: np.ndarray, whole: np.ndarray, of_nothing: float = 0.0) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(part, of_nothing), where=whole > 0)


def estimate(values: np.ndarray) -> Estimate:
    """Makes an estimate of the value of the whole part, followed by those of the rounds."""
    value, rounds = float(values[0]), values[1:]
    known = rounds[np.isfinite(rounds)]
    if not np.isfinite(value) or not len(known):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(known, QUANTILES)
    return Estimate(value, float(low), float(high))


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


def weighted_average_precision(targets: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the sum of precision times step of recall for every row of weights; equal scores are one step.

    Args:
        targets: 0 or 1, ``n``.
        scores: ``n``.
        weights: How often every input counts, ``rounds n``.

    Returns:
        ``rounds``; NaN where no positive input has weight.
    """
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    sorted_weights = weights[:, order].astype(np.float64)
    positive = np.add.reduceat(sorted_weights * (targets[order] == 1), starts, axis=1)
    precision = _ratio(np.cumsum(positive, axis=1), np.cumsum(np.add.reduceat(sorted_weights, starts, axis=1), axis=1))
    having = positive.sum(1)
    return np.divide((precision * positive).sum(1), having, out=np.full(len(weights), np.nan), where=having > 0)


def auroc(targets: np.ndarray, scores: np.ndarray) -> float:
    """Returns the area under the ROC curve; NaN if there is one class only."""
    return float(weighted_auroc(targets, scores, np.ones((1, len(scores))))[0])


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
