"""Scores of one split, or of a cross-validation, in a report: every input when it was test, a row per repeat and per fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_dino.probes.evaluation import Evaluation, evaluate, evaluate_folds, mean_auroc
from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.options import EvaluationOptions, FoldOptions
from nnunet_dino.probes.result_tables import number
from nnunet_dino.reports import Table


@dataclass(frozen=True)
class Repeat:
    """All folds of one cross-validation.

    Attributes:
        evaluation: Of every input when it was test.
        thresholds: ``folds c``.
        fold_aurocs: Of the test inputs of every fold by themselves; NaN where they are of one class.
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


@dataclass(frozen=True)
class Judged:
    """What a report is made of after one split, or after a cross-validation.

    Attributes:
        labelled: With the split; after a cross-validation, all inputs as test.
        scores: ``n c``; after a cross-validation, of every input when it was test in the first repeat.
        evaluations: Of these scores, by part.
        fold_of: Of every input, the fold in which it was test, from 1; empty after one split, as is all that follows.
        sentence: The result of all repeats.
        tables: Repeats, and folds of the first one.
        numbers: The repeats for machines.
        aside: To be added to what the scores are of.
    """

    labelled: Labelled
    scores: np.ndarray
    evaluations: dict[str, Evaluation]
    fold_of: Sequence[int] = ()
    sentence: str = ""
    tables: Sequence[Table] = ()
    numbers: Sequence[dict[str, Any]] = ()
    aside: str = ""


def judged(
    labelled: Labelled,
    splits: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    cross: FoldOptions,
    evaluation: EvaluationOptions,
    how_split: str,
    of_folds: Mapping[str, Sequence[str]],
) -> Judged:
    """Evaluates scores of one split, or of all folds of all repeats.

    Args:
        labelled: The labels.
        splits: The one, or one per fold and repeat.
        scores: Likewise, each ``n c``; of the part that a fold was trained on they do not matter.
        cross: How many folds and repeats.
        evaluation: How scores are evaluated.
        how_split: How the split or the folds came about.
        of_folds: Further columns of the table of folds, one text per fold.
    """
    if not cross.folds:
        labelled = labelled.with_split(splits[0], how_split)
        return Judged(labelled, scores[0], evaluate(labelled, scores[0], evaluation))
    labelled = labelled.with_split(np.full(len(labelled.ids), "test"), how_split)
    starts = range(0, len(splits), cross.folds)
    groups = [(splits[start : start + cross.folds], scores[start : start + cross.folds]) for start in starts]
    repeats = [_summarise(labelled, *group, evaluation) for group in groups]
    first, fold_of = repeats[0], np.zeros(len(labelled.ids), int)
    for fold, split in enumerate(splits[: cross.folds]):
        fold_of[split == "test"] = fold
    return Judged(
        labelled=labelled,
        scores=first.evaluation.scores,
        fold_of=(fold_of + 1).tolist(),
        evaluations={"test": first.evaluation},
        sentence=_fold_sentence(repeats, cross, len(labelled.ids)),
        tables=[_repeat_table(repeats), _fold_table(labelled, first, splits[: cross.folds], of_folds)],
        numbers=[{**one.summary, "fold_aurocs": one.fold_aurocs.tolist()} for one in repeats],
        aside=", scores of all folds pooled" + (", first repeat" if cross.repeats > 1 else ""),
    )


def _summarise(
    labelled: Labelled, splits: Sequence[np.ndarray], scores: Sequence[np.ndarray], evaluation: EvaluationOptions
) -> Repeat:
    """Evaluates the folds of one cross-validation together and each by itself."""
    pooled, thresholds = evaluate_folds(labelled, splits, scores, evaluation)
    areas = [
        mean_auroc(labelled.targets[split == "test"], values[split == "test"])
        for split, values in zip(splits, scores, strict=True)
    ]
    return Repeat(pooled, thresholds, np.array(areas))


def _fold_sentence(repeats: Sequence[Repeat], cross: FoldOptions, num_inputs: int) -> str:
    """Returns the result of all repeats in a sentence."""
    accuracies = [one.summary["accuracy"] for one in repeats]
    pooled = [one.summary["auroc_pooled"] for one in repeats]
    areas = np.concatenate([one.fold_aurocs for one in repeats])
    known = areas[np.isfinite(areas)]
    how = f"{cross.folds}-fold cross-validation" + (f", {cross.repeats} repeats" if cross.repeats > 1 else "")
    return (
        f"Accuracy {_spread(accuracies, 'repeats')}; AUROC {_spread(known, 'folds')}, mean over folds, and "
        f"{_spread(pooled, 'repeats')} pooled over folds ({how}; {num_inputs} inputs)."
    )


def _spread(values: Sequence[float] | np.ndarray, unit: str) -> str:
    """Returns ``0.812 ± 0.034 (SD over 10 folds)``."""
    if not len(values):
        return "–"
    return f"{np.mean(values):.3f}" + (
        f" ± {np.std(values, ddof=1):.3f} (SD over {len(values)} {unit})" if len(values) > 1 else ""
    )


def _repeat_table(repeats: Sequence[Repeat]) -> Table:
    """Lists the repeats."""
    rows = [[str(place), *map(number, one.summary.values())] for place, one in enumerate(repeats, 1)]
    headers = ["Repeat", "Accuracy", "AUROC, mean over folds", "SD over folds", "AUROC, pooled"]
    caption = (
        "Every input is scored by the probe that had it as test. Pooled: all these scores in one ranking, although they come "
        "from different probes; the mean over folds ranks the inputs of every fold by themselves."
    )
    return Table("Repeats", headers, rows, caption)


def _fold_table(labelled: Labelled, repeat: Repeat, splits: Sequence[np.ndarray], more: Mapping[str, Sequence[str]]) -> Table:
    """Lists the folds of the first repeat; the number of positive inputs and the threshold, where there is one label."""
    is_single, rows = len(labelled.names) == 1, []
    for fold, split in enumerate(splits):
        test = labelled.targets[split == "test"]
        val = len(set(labelled.patients[split == "val"]))
        of_label = [str(int(test[:, 0].sum())), number(repeat.thresholds[fold, 0])] if is_single else []
        others = [texts[fold] for texts in more.values()]
        rows.append([str(fold + 1), str(len(test)), *of_label, str(val), number(repeat.fold_aurocs[fold]), *others])
    headers = ["Fold", "Test inputs", *(["Positive", "Threshold"] if is_single else []), "Patients in val", "AUROC", *more]
    return Table("Folds of the first repeat", headers, rows, "– is undefined: one class only in the test part of the fold.")
