"""The tables of a report, as text in cells."""

from __future__ import annotations

from nnunet_dino.compare import formatting
from nnunet_dino.compare.kinds import heading
from nnunet_dino.compare.records import Comparison, Entry
from nnunet_dino.compare.statistics import Difference
from nnunet_dino.reports import Table


def mean_table(comparison: Comparison) -> Table:
    """Mean Dice of every result, or its neurons' VOI sum, and its difference to the baseline."""
    several, baseline = len(comparison.pairs) > 1, _only_baseline(comparison)
    of_case = comparison.kind.of_case
    nnunet = any(f"{entry.foreground_mean:.3f}" != f"{entry.case_means.mean():.3f}" for entry in comparison.entries)
    rows = []
    for entry in comparison.entries:
        means, pair = entry.case_means, comparison.pair_of(entry)
        row = {"Result": formatting.shown_name(entry)}
        if not baseline:
            row["against"] = formatting.shown_name(pair.baseline) if pair else formatting.UNKNOWN
        row[f"{heading(of_case)} ± SD"] = formatting.mean_and_sd(means.mean(), means.std())
        if nnunet:
            row["nnU-Net's mean"] = formatting.dice(entry.foreground_mean)
        without = "baseline" if comparison.pairs else formatting.UNKNOWN
        rows.append(row | _difference_cells(pair.mean if pair else None, several, without))
    caption = (
        f"{formatting.cases(len(comparison.cases))}. Mean and standard deviation over cases of the {of_case} per case. "
        f"Difference: result minus {baseline or 'baseline'}, with 95 % bootstrap interval."
    )
    undefined = {entry.name: int(entry.case_means.isna().sum()) for entry in comparison.entries}
    if any(undefined.values()):
        listed = "; ".join(f"{name}: {number}" for name, number in undefined.items() if number)
        caption += f" Cases without any defined Dice, left out: {listed}."
    if nnunet:
        caption += " nnU-Net's mean is the mean over labels of the mean over cases; it differs where a Dice is undefined."
    return _table(heading(of_case), rows, caption, 1 if baseline else 2)


def _table(title: str, rows: list[dict[str, str]], caption: str, num_text_columns: int) -> Table:
    cells = [list(row.values()) for row in rows]
    return Table(title, list(rows[0]), cells, caption, num_text_columns, in_terminal=True)


def _only_baseline(comparison: Comparison) -> str | None:
    """Returns the name of the baseline if all results share it: then it needs no column of its own."""
    names = {formatting.shown_name(pair.baseline) for pair in comparison.pairs}
    return names.pop() if len(names) == 1 else None


def _difference_cells(difference: Difference | None, several: bool, without: str = "") -> dict[str, str]:
    """Returns the cells of a difference by their headings; without one, dashes and why."""
    cells = {
        "Difference [95 %]": formatting.change(difference) if difference else without,
        "Wilcoxon p": formatting.test(difference) if difference else formatting.UNKNOWN,
        "p (Holm)": formatting.p_value(difference.p_holm if difference else None),
        "better / worse / equal": formatting.tally(difference) if difference else formatting.UNKNOWN,
    }
    return {name: text for name, text in cells.items() if several or name != "p (Holm)"}


def class_table(comparison: Comparison) -> Table:
    """Dice of every label, or every score of neurons, for every result."""
    entries = comparison.entries
    rows = [[comparison.label_names[key], *(_label_cell(entry, key) for entry in entries)] for key in entries[0].dice.columns]
    caption = "Mean and standard deviation over cases."
    if any(entry.dice.isna().any(axis=None) for entry in entries):
        caption += (
            " “(k n/a)”: in k cases the label is absent from reference and prediction, so that Dice is undefined; they are "
            "left out, as nnU-Net does."
        )
    kind = comparison.kind
    headers = [kind.column, *(formatting.shown_name(entry) for entry in entries)]
    title = "Scores" if kind.headline else "Dice per label"
    return Table(title, headers, rows, caption, in_terminal=True)


def _label_cell(entry: Entry, key: str) -> str:
    column = entry.dice[key]
    undefined = int(column.isna().sum())
    text = formatting.mean_and_sd(column.mean(), column.std())
    return f"{text} ({undefined} n/a)" if undefined else text


def difference_table(comparison: Comparison) -> Table:
    """Difference of every label for every result with a baseline."""
    several, baseline = sum(len(pair.classes) for pair in comparison.pairs) > 1, _only_baseline(comparison)
    rows = []
    for key, label in comparison.label_names.items():
        for pair in comparison.pairs:
            row = {comparison.kind.column: label, "Result": formatting.shown_name(pair.entry)}
            row |= {} if baseline else {"against": formatting.shown_name(pair.baseline)}
            rows.append(row | _difference_cells(pair.classes[key], several) | {"n": str(pair.classes[key].num_pairs)})
    caption = f"Result minus {baseline or 'baseline'} over the n cases in which both are defined."
    one_sided = sum(pair.num_one_sided for pair in comparison.pairs)
    if one_sided:
        caption += (
            f" {one_sided} pairs of case and label have a Dice in one result only: the label is absent from the reference, "
            "and only one result predicts some of it. They are missing here, but lower that result's mean per case."
        )
    return _table(f"Difference per {comparison.kind.column.lower()}", rows, caption, 2 if baseline else 3)


def cost_table(comparison: Comparison) -> Table:
    """Parameters, checkpoint size and epoch time of every result; what all share is said in the caption."""
    facts = [entry.facts for entry in comparison.entries]
    epochs = [
        f"{f.num_epochs} {formatting.TIMES} {f.num_iterations}" if f.num_epochs and f.num_iterations else None for f in facts
    ]
    columns = {
        "Result": [formatting.shown_name(entry) for entry in comparison.entries],
        "Backbone": [", ".join(filter(None, (f.backbone, f.adaptation))) or formatting.UNKNOWN for f in facts],
        "Weights": [_short(f.weights) for f in facts],
        "Parameters": [formatting.count(f.num_params_total) for f in facts],
        "trained": [formatting.count(f.num_params_trained) for f in facts],
        "Checkpoint": [formatting.size(f.checkpoint_bytes) for f in facts],
        "Epoch time": [formatting.seconds(f.epoch_s) for f in facts],
    }
    caption = (
        "Epoch time: median over the epochs of all folds, from the training logs. Checkpoint: as nnU-Net stores it, with "
        f"the optimiser's state. {formatting.UNKNOWN}: not known."
    )
    starts = [{True: "class frequencies", False: "nnU-Net's", None: None}[f.starts_at_class_frequencies] for f in facts]
    shared = {
        "Device": [f.device for f in facts],
        f"Epochs {formatting.TIMES} iterations": epochs,
        "Output biases at start": starts,
    }
    for name, values in shared.items():
        if None not in values and len(set(values)) == 1:
            caption += f" {name}: {values[0]}."
        elif any(values):
            columns[name] = [value or formatting.UNKNOWN for value in values]
    return Table("Cost", list(columns), list(zip(*columns.values(), strict=True)), caption, 3, in_terminal=True)


def _short(weights: str | None) -> str:
    return formatting.UNKNOWN if weights is None else weights if len(weights) <= 16 else f"{weights[:12]}…"


def source_table(comparison: Comparison) -> Table:
    """What was read for every result."""
    rows = []
    for entry in comparison.entries:
        folder, folds = f"{entry.source.parent.name}/{entry.source.name}", ", ".join(entry.folds) or formatting.UNKNOWN
        rows.append([formatting.shown_name(entry), folder, folds, str(len(entry.dice))])
    headers = ["Result", "Folder", "Folds", "Cases"]
    return Table("What was read", headers, rows, "Cases: those that were compared.", num_text_columns=3)
