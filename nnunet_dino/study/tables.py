"""The tables of a study, as text in cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from nnunet_dino.compare import formatting
from nnunet_dino.compare.facts import EPOCH_TIME
from nnunet_dino.compare.metric_tables import MEAN, heading
from nnunet_dino.compare.metrics import find_metric
from nnunet_dino.compare.records import Entry
from nnunet_dino.compare.report import METRICS, SUMMARY
from nnunet_dino.compare.statistics import Difference, holm
from nnunet_dino.reports import Table
from nnunet_dino.study.jobs import Jobs
from nnunet_dino.study.ranks import Ranks
from nnunet_dino.study.results import TaskResults, fold_means, task_scores
from nnunet_dino.study.states import status_of


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Names models by their trainer and by the other parts that are not the same for all."""
    parts = {model: model.split("__") for model in models}
    varies = [True, *(len({row[place] for row in parts.values()}) > 1 for place in (1, 2))]
    return {model: " · ".join(part for part, use in zip(row, varies, strict=True) if use) for model, row in parts.items()}


def mean_table(
    tasks: Sequence[TaskResults], models: Sequence[str], ranks: Ranks, prefix: str, links: Mapping[str, str]
) -> Table:
    """Tasks × results: mean over folds of the mean over cases; mean and rank over tasks below."""
    rows = [[task.dataset, *(_over_folds(task, model, "mean") for model in models)] for task in tasks]
    for title, column in (("Mean over tasks", "mean"), ("Mean over tasks, nnU-Net's", "nnunet")):
        means = task_scores(tasks, models, column).dropna().mean()
        rows.append([title, *(formatting.dice(means[model]) for model in models)])
    if ranks.num_tasks:
        rows.append(["Mean rank ↓", *(f"{ranks.mean[name]:.2f}" for name in short_names(models).values())])
    caption = (
        "Mean Dice ↑ over folds of the mean over cases, ± standard deviation over folds; (k) folds where some are missing."
    )
    if ranks.num_tasks < len(tasks):
        caption += f" {formatting.UNKNOWN}: not trained yet. Mean and rank over tasks: of the {ranks.num_tasks} that are whole."
    headers = ["Task", *short_names(models).values()]
    return Table(f"{prefix}Mean Dice of every task", headers, rows, caption, in_terminal=True, links=links)


def _over_folds(task: TaskResults, model: str, column: str) -> str:
    if model not in task.entries:
        return formatting.UNKNOWN
    values = fold_means(task.entries[model])[column]
    most = max(len(entry.folds) for entry in task.entries.values())
    text = formatting.mean_and_sd(values.mean(), values.std())
    return text if len(values) == most else f"{text} ({len(values)})"


def class_table(tasks: Sequence[TaskResults], models: Sequence[str], prefix: str) -> Table:
    """Tasks and labels × results, and both means of the foreground."""
    rows = []
    for task in tasks:
        names = next(iter(task.entries.values())).label_names if task.entries else {}
        of_labels = {**names, "mean": "foreground, mean of cases", "nnunet": "foreground, mean of labels"} if names else {}
        for key, name in of_labels.items():
            rows.append([task.dataset, name, *(_over_folds(task, model, key) for model in models)])
    headers = ["Task", "Label", *short_names(models).values()]
    caption = "Mean Dice ↑ over folds of the mean over cases, ± standard deviation over folds."
    return Table(f"{prefix}Dice of every label", headers, rows, caption, 2)


def difference_table(tasks: Sequence[TaskResults], prefix: str) -> Table:
    """Every result against the baseline in every task; p values adjusted over the tasks, for each result on its own."""
    found: dict[str, list[tuple[str, str, Difference]]] = {}
    for task in tasks:
        for pair in task.comparison.pairs if task.comparison else ():
            found.setdefault(pair.entry.identifier, []).append((task.dataset, pair.baseline.name, pair.mean))
    rows = []
    names = short_names(list(found)) if found else {}
    for model, family in found.items():
        adjusted = holm([difference.test.p for _, _, difference in family])
        for (dataset, baseline, difference), p in zip(family, adjusted, strict=True):
            cells = [names[model], dataset, baseline, formatting.change(difference), formatting.test(difference)]
            cells += [formatting.p_value(p), formatting.tally(difference), formatting.verdict(replace(difference, p_holm=p))]
            rows.append(cells)
    headers = ["Result", "Task", "against", "Difference in Dice [95 %]", "Wilcoxon p", "p (Holm over tasks)"]
    headers += ["better / worse / equal", "In words"]
    return Table(f"{prefix}Difference to the baseline", headers, rows, "Over the cases that all results share.", 3)


def metric_table(tasks: Sequence[TaskResults], models: Sequence[str], prefix: str) -> list[Table]:
    """Tasks × results for each metric beside nnU-Net's Dice: mean over the cases that all results share."""
    known = next((task.measured for task in tasks if task.measured), None)
    tables = []
    for position, found in enumerate(known.metrics if known else ()):
        rows = []
        for task in tasks:
            if not (task.measured and task.comparison):
                continue
            entries = [entry.identifier for entry in task.comparison.entries]
            of = dict(zip(entries, task.measured.metrics[position].tables, strict=True))
            cells = [
                formatting.mean_and_sd(of[model][MEAN].mean(), of[model][MEAN].std()) if model in of else formatting.UNKNOWN
                for model in models
            ]
            rows.append([task.dataset, *cells])
        title, caption = heading(found.metric), "Mean over cases of the mean over labels, ± standard deviation over cases."
        tables.append(Table(f"{prefix}{title}", ["Task", *short_names(models).values()], rows, caption))
    return tables


def test_set_table(tasks: Sequence[TaskResults], models: Sequence[str], prefix: str, scores: Path) -> Table:
    """Test sets × results: mean over the cases that no training saw, from the comparisons below ``scores``."""
    rows, links = [], {}
    for task in tasks:
        folder = scores / task.subset.group(task.dataset)
        if not (folder / SUMMARY).is_file():
            continue
        links[task.dataset] = f"../{scores.name}/{folder.name}/report.html"
        for measure, cells in _scores_of_a_test_set(folder).items():
            rows.append([task.dataset, measure, *(cells.get(model, formatting.UNKNOWN) for model in models)])
    caption = "Mean over the cases of the test set, ± standard deviation over cases; the folds of a result predict together."
    headers = ["Task", "Measure", *short_names(models).values()]
    return Table(f"{prefix}Test sets", headers, rows, caption, num_text_columns=2, links=links)


def _scores_of_a_test_set(folder: Path) -> dict[str, dict[str, str]]:
    """Returns mean and deviation by measure and result, from the files of a comparison."""
    summary = pd.read_csv(folder / SUMMARY, dtype={"label": str})
    found = {"Dice ↑": summary[summary.label == MEAN].set_index("result")[["dice_mean", "dice_sd"]]}
    if (folder / METRICS).is_file():
        values = pd.read_csv(folder / METRICS, dtype={"label": str})
        for name, part in values[values.label == MEAN].groupby("metric", sort=False):
            found[heading(find_metric(str(name)))] = part.groupby("result").value.agg(["mean", "std"])
    return {
        measure: {str(row[0]): formatting.mean_and_sd(*row[1:]) for row in table.itertuples()}
        for measure, table in found.items()
    }


def learning_table(rows: Sequence[tuple[str, str, int, float, float, int]]) -> Table:
    """Mean Dice for each number of training cases."""
    names = short_names(list(dict.fromkeys(row[1] for row in rows)))
    cells = [
        [dataset, names[model], str(number), formatting.mean_and_sd(mean, deviation), str(num)]
        for dataset, model, number, mean, deviation, num in rows
    ]
    headers = ["Task", "Result", "Training cases", "Mean Dice ↑ ± SD", "Trainings"]
    return Table("Learning curves", headers, cells, "Mean and standard deviation over folds and choices of cases.", 2)


def cost_table(tasks: Sequence[TaskResults]) -> Table:
    """Parameters, device and hours of every result."""
    rows = []
    for task in tasks:
        for model, entry in task.entries.items():
            facts = entry.facts
            cells = [task.dataset, model.replace("__", " · "), task.subset.name, facts.device or formatting.UNKNOWN]
            rows.append(
                [*cells, formatting.count(facts.num_params_total), formatting.count(facts.num_params_trained), _hours(entry)]
            )
    headers = ["Task", "Result", "Cases", "Device", "Parameters", "trained", "Hours"]
    caption = (
        f"Hours: sum of the epoch times in the logs of all folds. {formatting.UNKNOWN}: not known; nnU-Net does not write it."
    )
    return Table("Cost", headers, rows, caption, 4)


def _hours(entry: Entry) -> str:
    logs = [log for fold in entry.folds for log in (entry.source / f"fold_{fold}").glob("training_log_*.txt")]
    seconds = sum(float(text) for log in logs for text in EPOCH_TIME.findall(log.read_text(encoding="utf-8", errors="replace")))
    return f"{seconds / 3600:.3g}" if seconds else formatting.UNKNOWN


def state_table(jobs: Jobs, folder: Path) -> Table:
    """How many jobs of each kind are done, running, failed and waiting."""
    counts = status_of(jobs, folder).counts()
    states = ("done", "running", "failed", "waiting")
    rows = [[kind, *(str(count[state]) for state in states)] for kind, count in counts.items()]
    return Table(
        "State", ["Job", *states], rows, "`nnunet-dino study status` names failed jobs and their logs.", in_terminal=True
    )


def fold_csv(tasks: Sequence[TaskResults]) -> str:
    """One row per task, subset, result, fold and label, and for both means; for other programs."""
    parts = []
    for task in tasks:
        for model, entry in task.entries.items():
            long = fold_means(entry).rename_axis("fold").reset_index().melt("fold", var_name="label", value_name="dice_mean")
            long.insert(0, "task", task.dataset)
            long.insert(1, "cases", task.subset.name)
            long.insert(2, "result", model)
            parts.append(long)
    columns = ["task", "cases", "result", "fold", "label", "dice_mean"]
    return (pd.concat(parts) if parts else pd.DataFrame(columns=columns)).to_csv(index=False, lineterminator="\n")
