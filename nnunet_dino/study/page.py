"""The page of a study: what there is by now."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nnunet_dino import reports
from nnunet_dino._nnunet_folders import existing_folder
from nnunet_dino.compare import formatting
from nnunet_dino.compare.metric_tables import metric_method
from nnunet_dino.reports import Block, Heading, Report
from nnunet_dino.study import splits
from nnunet_dino.study.jobs import Jobs, Subset
from nnunet_dino.study.options import ALL
from nnunet_dino.study.plots import critical_difference_plot, learning_curve_plot
from nnunet_dino.study.ranks import Ranks, ranks_of
from nnunet_dino.study.results import TaskResults, fold_means, read_task, task_scores
from nnunet_dino.study.tables import (
    class_table,
    cost_table,
    difference_table,
    fold_csv,
    learning_table,
    mean_table,
    metric_table,
    short_names,
    state_table,
    test_set_table,
)

FOLDER = "report"
PACKAGES = ("nnunet-dino", "nnunetv2", "snakemake", "scipy", "numpy", "pandas")


def write_study_report(jobs: Jobs, folder: Path) -> Path:
    """Writes the page of a study with CSV and LaTeX of every table; earlier files of these names are replaced.

    Returns:
        The page.

    Raises:
        UserError: The folder cannot be written to, or a result is damaged.
    """
    tasks = [read_task(jobs, folder, dataset, subset) for subset in jobs.subsets for dataset in jobs.datasets]
    blocks: list[Block] = []
    method: list[str] = list(METHOD)
    sentences: list[str] = []
    for subset in jobs.subsets:
        chosen = [task for task in tasks if task.subset == subset]
        planned = dict.fromkeys(training.model for training in jobs.trainings.values())
        models = [model for model in planned if any(model in task.entries for task in chosen)]
        if not models:
            continue
        blocks += [Heading(_title(subset))] if len(jobs.subsets) > 1 else []
        blocks += _blocks(chosen, models, subset, folder)
        sentences += [f"{_title(subset)}: {sentence}" for sentence in _ranked(_ranks(chosen, models))]
    blocks += _learning(jobs, tasks)
    blocks += [cost_table(tasks), state_table(jobs, folder)]
    measured = next((task.measured for task in tasks if task.measured), None)
    method += metric_method(measured) if measured else []
    done = sum((one.output(folder) / "validation" / "summary.json").is_file() for one in jobs.trainings.values())
    report = Report(
        title="Study",
        sentences=[f"{done} of {len(jobs.trainings)} trainings are validated.", *sentences],
        warnings=[*_warnings(tasks), *_fold_sizes(jobs)],
        blocks=blocks,
        method=method,
        origin=reports.origin(shlex.join(["nnunet-dino", *sys.argv[1:]]), PACKAGES),
    )
    files = {"folds.csv": fold_csv(tasks).encode()}
    for number, table in enumerate(report.tables):
        name = f"tables/{number:02d}-{'-'.join(table.title.lower().replace(':', '').replace(',', '').split())}"
        files |= {f"{name}.csv": reports.table_csv(table).encode(), f"{name}.tex": reports.table_latex(table).encode()}
    reports.write_report(report, folder / FOLDER, files, overwrite=True)
    return folder / FOLDER / "report.html"


def _blocks(tasks: Sequence[TaskResults], models: Sequence[str], subset: Subset, folder: Path) -> list[Block]:
    ranks = _ranks(tasks, models)
    prefix = "" if subset.cases == ALL else f"{_title(subset)}: "
    blocks: list[Block] = [mean_table(tasks, models, ranks, prefix, _links(tasks, folder))]
    blocks += [critical_difference_plot(ranks)] if ranks.critical is not None and subset.cases == ALL else []
    blocks += [table for table in (difference_table(tasks, prefix),) if table.rows]
    blocks.append(class_table(tasks, models, prefix))
    blocks += metric_table(tasks, models, prefix)
    return blocks + [table for table in (test_set_table(tasks, models, prefix, folder / "score"),) if table.rows]


def _ranks(tasks: Sequence[TaskResults], models: Sequence[str]) -> Ranks:
    return ranks_of(task_scores(tasks, models).rename(columns=short_names(models)))


def _links(tasks: Sequence[TaskResults], folder: Path) -> dict[str, str]:
    """Returns the pages of the comparisons that there are by now, as seen from the page."""
    names = {task.dataset: f"compare/{task.subset.group(task.dataset)}/report.html" for task in tasks}
    return {dataset: f"../{name}" for dataset, name in names.items() if (folder / name).is_file()}


def _title(subset: Subset) -> str:
    return "All training cases" if subset.cases == ALL else f"{subset.cases} training cases, choice {subset.seed}"


def _ranked(ranks: Ranks) -> list[str]:
    if ranks.critical is None:
        return []
    best = ranks.mean.index[0]
    apart = [name for name, place in ranks.mean.items() if place - ranks.mean.iloc[0] > ranks.critical]
    friedman = "" if ranks.friedman_p is None else f" Friedman p = {formatting.p_value(ranks.friedman_p)}."
    words = (
        f"is better than {', '.join(map(str, apart))}" if apart else "no result differs from it beyond the critical difference"
    )
    return [f"{best} has the best mean rank over {ranks.num_tasks} tasks; {words}.{friedman}"]


def _learning(jobs: Jobs, tasks: Sequence[TaskResults]) -> list[Block]:
    """Returns curve and table of every data set that was trained with several numbers of cases."""
    if len(jobs.study.cases) < 2:
        return []
    blocks: list[Block] = []
    rows = []
    for dataset in jobs.datasets:
        found: dict[str, dict[int, list[float]]] = {}
        for task in (task for task in tasks if task.dataset == dataset):
            for model, entry in task.entries.items():
                number = splits.num_training_cases(dataset) if task.subset.cases == ALL else int(task.subset.cases)
                found.setdefault(model, {}).setdefault(number, []).extend(fold_means(entry)["mean"])
        curves = {}
        for model, by_number in found.items():
            numbers = sorted(by_number)
            means = [float(pd.Series(by_number[number]).mean()) for number in numbers]
            deviations = [float(pd.Series(by_number[number]).std()) for number in numbers]
            curves[model] = (numbers, means, deviations)
            rows += [
                (dataset, model, *parts, len(by_number[parts[0]])) for parts in zip(numbers, means, deviations, strict=True)
            ]
        if any(len(numbers) > 1 for numbers, _, _ in curves.values()):
            blocks.append(learning_curve_plot(dataset, curves))
    return [*blocks, learning_table(rows)] if rows else []


def _warnings(tasks: Sequence[TaskResults]) -> list[str]:
    found = [f"{task.dataset}, {_title(task.subset)}: {task.note}" for task in tasks if task.note]
    for task in tasks:
        found += [f"{task.dataset}: {text}" for text in (task.comparison.warnings if task.comparison else ())]
    return list(dict.fromkeys(found))


def _fold_sizes(jobs: Jobs) -> list[str]:
    preprocessed = existing_folder("nnUNet_preprocessed")
    folders = [preprocessed / dataset for dataset in jobs.datasets] if preprocessed else []
    return [text for folder in folders if (folder / "dataset.json").is_file() for text in splits.departures(folder)]


METHOD = (
    "Dice: per case and label as nnU-Net computes it. A case's mean is over its defined labels. Tables show the mean over "
    "folds of the mean over the cases of a fold, ± the standard deviation over folds (n - 1). nnU-Net's mean: over labels of "
    "the mean over cases, then over folds.",
    "Difference: result minus baseline on the same case, over all cases that all results of the task have, with a 95 % "
    "bootstrap interval and Wilcoxon's signed-rank test. Holm: over the tasks, for each result on its own. Cases of a fold "
    "share a trained network, so that test and interval speak about other cases for these networks.",
    "Ranks: within each task by mean Dice, over the tasks in which every result is known; Friedman's test and Nemenyi's "
    "critical difference at 5 % (Demšar 2006).",
    "Hours: the sum of the epoch times in the logs, validation not counted, on the device that is named.",
)
