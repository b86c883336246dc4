"""Average precision and Dice of token scores, with bootstrap intervals by patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nnunet_dino.probes.metrics import Estimate, estimate, mean_of_known

ROUNDS_AT_ONCE = 50


@dataclass(frozen=True)
class ClassScore:
    """How well one class is found among the tokens of the test patients.

    Attributes:
        name: Of the class.
        num_positive: Tokens that have it.
        num_patients: Patients that have it.
        average_precision: NaN where it is absent.
        dice: Of the tokens found, of all patients together; NaN where it is absent.
        absent: Where it is absent: ``""``, ``"training"`` or ``"test"``.
    """

    name: str
    num_positive: int
    num_patients: int
    average_precision: Estimate
    dice: Estimate
    absent: str


@dataclass(frozen=True)
class DenseScore:
    """How well one way of asking did, with one number of training cases.

    Attributes:
        method: ``"linear"`` or ``"k-NN"``.
        num_cases: Training cases.
        classes: One entry per class.
        average_precision: Mean over the classes that are absent neither in the training nor in the test cases.
        dice: The same.
        setting: What was chosen on the training cases, such as the ridge.
        rounds: The mean average precision, then that of every bootstrap round; the same drawings in all scores of a probe.
    """

    method: str
    num_cases: int
    classes: tuple[ClassScore, ...]
    average_precision: Estimate
    dice: Estimate
    setting: float
    rounds: np.ndarray = field(repr=False, compare=False)


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Returns the area under the precision-recall curve as a sum over its steps; NaN without positives.

    Args:
        scores: ``n``.
        truth: ``n``, boolean.
    """
    return float(_Curve(scores, truth, np.zeros(len(truth), int), 1).area(np.ones((1, 1)))[0])


def best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """Returns the score from which upwards tokens have to be found for the largest Dice; infinite without positives."""
    if not truth.any():
        return float("inf")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    dice = 2 * hits / (np.arange(1, len(order) + 1) + hits[-1])
    is_last = np.append(np.diff(scores[order]) != 0, True)  # of equal scores all are found or none
    best = int(np.argmax(np.where(is_last, dice, -1)))
    following = scores[order[best + 1]] if best + 1 < len(order) else scores[order[best]] - 1
    return float((scores[order[best]] + following) / 2)


class _Curve:
    """One precision-recall curve, ready to be weighted by patient.

    Sorted once: for each positive, how many tokens of every patient have at least its score.
    """

    def __init__(self, scores: np.ndarray, truth: np.ndarray, patients: np.ndarray, num_patients: int) -> None:
        positive = scores[truth]
        steps, self.step = np.unique(positive, return_inverse=True)
        self.hits, self.found = np.zeros((num_patients, len(steps))), np.zeros((num_patients, len(steps)))
        self.patient = patients[truth]
        for patient in range(num_patients):
            mine = patients == patient
            for counts, of in ((self.hits, scores[mine & truth]), (self.found, scores[mine])):
                counts[patient] = len(of) - np.searchsorted(np.sort(of), steps, side="left")

    def area(self, weights: np.ndarray) -> np.ndarray:
        """Returns the average precision for every row of weights, ``rounds patients``: ``rounds``."""
        hits, found = weights @ self.hits, weights @ self.found
        precision = np.divide(hits, found, out=np.zeros_like(hits), where=found > 0)
        counts = np.zeros((self.hits.shape[0], self.hits.shape[1]))
        np.add.at(counts, (self.patient, self.step), 1)
        positives = weights @ counts
        total = positives.sum(1)
        return np.divide((precision * positives).sum(1), total, out=np.full(len(weights), np.nan), where=total > 0)


def dense_score(
    method: str,
    num_cases: int,
    names: Sequence[str],
    truth: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    thresholds: np.ndarray,
    is_learned: np.ndarray,
    setting: float,
    drawings: np.ndarray,
) -> DenseScore:
    """Judges the scores of all test patients.

    Args:
        method: How they came about.
        num_cases: Training cases.
        names: Of the ``k`` classes.
        truth: Per patient ``n k``, boolean.
        scores: Per patient ``n k``.
        thresholds: Per class; tokens from it upwards are found.
        is_learned: Per class, whether the training cases have it.
        setting: What was chosen on the training cases.
        drawings: How often every patient counts: once, then in each round of the bootstrap, ``1+rounds patients``.
    """
    whose = np.repeat(np.arange(len(truth)), [len(part) for part in truth])
    all_truth, all_scores = np.concatenate(truth), np.concatenate(scores)
    areas, dices, classes = [], [], []
    for number, name in enumerate(names):
        having = np.array([int(part[:, number].sum()) for part in truth])
        absent = "test" if not having.any() else "" if is_learned[number] else "training"
        area, dice = Estimate(*[np.nan] * 3), Estimate(*[np.nan] * 3)
        if not absent:
            curve = _Curve(all_scores[:, number], all_truth[:, number], whose, len(truth))
            found = all_scores[:, number] >= thresholds[number]
            counts = [
                np.bincount(whose, some, len(truth)) for some in (found & all_truth[:, number], found, all_truth[:, number])
            ]
            areas.append(_over(drawings, curve.area))
            dices.append(_over(drawings, lambda weights, counts=counts: _dice(weights, *counts)))
            area, dice = (estimate(rounds) for rounds in (areas[-1], dices[-1]))
        classes.append(ClassScore(name, int(having.sum()), int((having > 0).sum()), area, dice, absent))
    mean_area, mean_dice = (mean_of_known(np.reshape(rounds, (-1, len(drawings)))) for rounds in (areas, dices))
    return DenseScore(method, num_cases, tuple(classes), estimate(mean_area), estimate(mean_dice), setting, mean_area)


def _over(drawings: np.ndarray, measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Returns a measure of every row of drawings, some rows at a time."""
    starts = range(0, len(drawings), ROUNDS_AT_ONCE)
    return np.concatenate([measure(drawings[start : start + ROUNDS_AT_ONCE]) for start in starts])


def _dice(weights: np.ndarray, hits: np.ndarray, found: np.ndarray, having: np.ndarray) -> np.ndarray:
    total = weights @ (found + having)
    return np.divide(2 * (weights @ hits), total, out=np.full(len(weights), np.nan), where=weights @ having > 0)
