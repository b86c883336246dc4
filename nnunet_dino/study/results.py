"""What the trainings of a study have achieved by now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nnunet_dino._errors import UserError
from nnunet_dino.compare.comparison import compare_entries
from nnunet_dino.compare.dataset import ignore_label, pictures_of_dataset
from nnunet_dino.compare.metric_tables import Measured, measure
from nnunet_dino.compare.read_results import dataset_json_of, read_results
from nnunet_dino.compare.records import Comparison, Entry
from nnunet_dino.study.jobs import RESULTS, Jobs, Subset


@dataclass(frozen=True, eq=False)
class TaskResults:
    """Results of one data set with one choice of training cases.

    Attributes:
        dataset: Full name.
        subset: Which training cases.
        entries: Results by ``TRAINER__PLANS__CONFIGURATION``, each on all the cases it has.
        comparison: The same on the cases that all share; None with fewer than two results or no shared case.
        measured: Metrics beside Dice, if the study names some.
        note: Why there is no comparison.
    """

    dataset: str
    subset: Subset
    entries: dict[str, Entry]
    comparison: Comparison | None = None
    measured: Measured | None = None
    note: str = ""


def read_task(jobs: Jobs, folder: Path, dataset: str, subset: Subset) -> TaskResults:
    """Reads what is validated of a data set; what is not there yet is left out."""
    study, root = jobs.study, subset.root(RESULTS, folder) / dataset
    trainings = [one for one in jobs.trainings.values() if (one.dataset, one.subset) == (dataset, subset)]
    there = [one for one in trainings if (one.output(folder) / "validation" / "summary.json").is_file()]
    if not there:
        return TaskResults(dataset, subset, {}, note="nothing is validated yet")
    found = read_results(
        root,
        trainers=sorted({one.trainer for one in there}),
        plans=sorted({one.plans for one in there}),
        configurations=sorted({one.configuration for one in there}),
        folds=sorted({str(one.fold) for one in there}),
    )
    wanted = {one.model for one in there}
    entries = {entry.identifier: entry for entry in found if entry.identifier in wanted}
    try:
        comparison = compare_entries(
            list(entries.values()),
            title=dataset,
            pictures=pictures_of_dataset(dataset),
            baseline=baseline_of(study.baseline, entries),
            common=True,
        )
    except UserError as error:
        return TaskResults(dataset, subset, entries, note=str(error))
    measured = None
    if study.metrics:
        label = ignore_label(dataset_json_of(root / next(iter(entries))))
        measured = measure(comparison, study.metrics, label)
    return TaskResults(dataset, subset, entries, comparison, measured)


def baseline_of(name: str | None, entries: dict[str, Entry]) -> str | None:
    """Returns the baseline of the study if it has results here."""
    return name if any(name in (entry.trainer, entry.identifier) for entry in entries.values()) else None


def fold_means(entry: Entry) -> pd.DataFrame:
    """Returns the mean Dice over the cases of each fold (row): of each label, of their ``mean``, and ``nnunet`` over labels."""
    table = entry.dice.assign(mean=entry.case_means)
    folds = pd.Series({case: entry.fold_of.get(case, "") for case in entry.cases})
    means = table.groupby(folds).mean()
    return means.assign(nnunet=means[list(entry.dice.columns)].mean(axis=1, skipna=False))


def task_scores(tasks: Sequence[TaskResults], models: Sequence[str], column: str = "mean") -> pd.DataFrame:
    """Returns the mean over folds of a column of :func:`fold_means`: one row for each task, one column for each model.

    NaN where a model does not have all the folds that any has: other cases would be compared.
    """
    rows = {}
    for task in tasks:
        folds = {fold for entry in task.entries.values() for fold in entry.folds}
        whole = {model: entry for model, entry in task.entries.items() if set(entry.folds) == folds}
        rows[task.dataset] = {model: fold_means(whole[model])[column].mean() for model in models if model in whole}
    return pd.DataFrame(rows, index=list(models)).T.astype(float)
