"""Cross-validation in a report: every bag when it was test, a row per repeat and per fold, the result in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_dino.probes.cross_validation import BagScores
from nnunet_dino.probes.evaluation import Evaluation, evaluate_folds, mean_auroc
from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.options import EvaluationOptions, FoldOptions
from nnunet_dino.probes.result_tables import number
from nnunet_dino.reports import Table


@dataclass(frozen=True)
class Repeat:
    """All folds of one cross-validation.

    Attributes:
        evaluation: Of every bag when it was test.
        thresholds: ``folds c``.
        fold_aurocs: Of the test bags of every fold by themselves; NaN where they are of one class.
    """

    evaluation: Evaluation
    thresholds: np.ndarray
    fold_aurocs: np.ndarray

    @property
    def summary(self) -> dict[str, float]:
        """The repeat in four numbers."""
        known = self.fold_aurocs[np.isfinite(self.fold_aurocs)]
        return {
            "accuracy": self.evaluation.metrics.overall["accuracy"].value,
            "auroc_mean_over_folds": float(known.mean()) if len(known) else float("nan"),
            "auroc_sd_over_folds": float(known.std(ddof=1)) if len(known) > 1 else float("nan"),
            "auroc_pooled": self.evaluation.metrics.overall["auroc"].value,
        }


def label_scores(labelled: Labelled, trained: BagScores) -> np.ndarray:
    """Returns scores of the labels: of two classes those of the second."""
    return trained.scores if labelled.is_exclusive else trained.scores[:, 1:]


def when_test(labelled: Labelled, trained: Sequence[BagScores]) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """Returns scores and attention of every bag from the network that had it as test, and the number of the fold, from 1."""
    fold_of = np.zeros(len(labelled.ids), int)
    for fold, one in enumerate(trained):
        fold_of[one.split == "test"] = fold
    scores = np.array([label_scores(labelled, trained[fold])[bag] for bag, fold in enumerate(fold_of)])
    attention = [trained[fold].attention[bag] for bag, fold in enumerate(fold_of)]
    return scores, attention, (fold_of + 1).tolist()


def summarise(labelled: Labelled, trained: Sequence[BagScores], evaluation: EvaluationOptions) -> Repeat:
    """Evaluates the folds of one cross-validation together and each by itself."""
    splits, scores = [one.split for one in trained], [label_scores(labelled, one) for one in trained]
    pooled, thresholds = evaluate_folds(labelled, splits, scores, evaluation)
    areas = [
        mean_auroc(labelled.targets[split == "test"], values[split == "test"])
        for split, values in zip(splits, scores, strict=True)
    ]
    return Repeat(pooled, thresholds, np.array(areas))


def fold_sentence(repeats: Sequence[Repeat], cross: FoldOptions, num_bags: int) -> str:
    """Returns the result of all repeats in a sentence."""
    accuracies = [one.summary["accuracy"] for one in repeats]
    pooled = [one.summary["auroc_pooled"] for one in repeats]
    areas = np.concatenate([one.fold_aurocs for one in repeats])
    known = areas[np.isfinite(areas)]
    how = f"{cross.folds}-fold cross-validation" + (f", {cross.repeats} repeats" if cross.repeats > 1 else "")
    return (
        f"Accuracy {_spread(accuracies, 'repeats')}; AUROC {_spread(known, 'folds')}, mean over folds, and "
        f"{_spread(pooled, 'repeats')} pooled over folds ({how}; {num_bags} bags)."
    )


def _spread(values: Sequence[float] | np.ndarray, unit: str) -> str:
    """Returns ``0.812 ± 0.034 (SD over 10 folds)``."""
    if not len(values):
        return "–"
    return f"{np.mean(values):.3f}" + (
        f" ± {np.std(values, ddof=1):.3f} (SD over {len(values)} {unit})" if len(values) > 1 else ""
    )


def repeat_table(repeats: Sequence[Repeat]) -> Table:
    """Lists the repeats."""
    rows = [[str(place), *map(number, one.summary.values())] for place, one in enumerate(repeats, 1)]
    headers = ["Repeat", "Accuracy", "AUROC, mean over folds", "SD over folds", "AUROC, pooled"]
    caption = (
        "Every bag is scored by the network that had it as test. Pooled: all these scores in one ranking, although they come "
        "from different networks; the mean over folds ranks the bags of every fold by themselves."
    )
    return Table("Repeats", headers, rows, caption)


def fold_table(labelled: Labelled, repeat: Repeat, trained: Sequence[BagScores]) -> Table:
    """Lists the folds of the first repeat."""
    rows = []
    for fold, one in enumerate(trained):
        test = labelled.targets[one.split == "test"]
        threshold = number(repeat.thresholds[fold, 0])
        positive = [] if labelled.is_exclusive else [str(int(test[:, 0].sum())), threshold]
        rows.append([str(fold + 1), str(len(test)), *positive, number(repeat.fold_aurocs[fold]), str(one.num_epochs)])
    headers = ["Fold", "Test bags", *([] if labelled.is_exclusive else ["Positive", "Threshold"]), "AUROC", "Epochs"]
    return Table("Folds of the first repeat", headers, rows, "– is undefined: one class only in the test part of the fold.")
