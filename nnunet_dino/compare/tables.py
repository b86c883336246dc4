"""The tables of a report, as text in cells."""

from __future__ import annotations

from nnunet_dino.compare import formatting
from nnunet_dino.compare.records import Comparison, Entry
from nnunet_dino.compare.statistics import Difference
from nnunet_dino.reports import Table


def mean_table(comparison: Comparison) -> Table:
    """Mean Dice of every result and its difference to the baseline."""
    several, baseline = len(comparison.pairs) > 1, _only_baseline(comparison)
    nnunet = any(f"{entry.foreground_mean:.3f}" != f"{entry.case_means.mean():.3f}" for entry in comparison.entries)
    rows = []
    for entry in comparison.entries:
        means, pair = entry.case_means, comparison.pair_of(entry)
        row = [formatting.shown_name(entry)]
        row += [] if baseline else [formatting.shown_name(pair.baseline) if pair else formatting.UNKNOWN]
        row += [
            formatting.mean_and_sd(means.mean(), means.std()),
            *([formatting.dice(entry.foreground_mean)] if nnunet else []),
        ]
        if pair:
            row += _difference_cells(pair.mean, several)
        else:
            row += ["baseline" if comparison.pairs else formatting.UNKNOWN, *[formatting.UNKNOWN] * (2 + several)]
        rows.append(row)
    headers = ["Result", *([] if baseline else ["against"]), "Mean Dice ± SD", *(["nnU-Net's mean"] if nnunet else [])]
    caption = (
        f"{formatting.cases(len(comparison.cases))}. Mean and standard deviation over cases of the mean Dice per case. "
        f"Difference: result minus {baseline or 'baseline'}, with 95 % bootstrap interval."
    )
    undefined = {entry.name: int(entry.case_means.isna().sum()) for entry in comparison.entries}
    if any(undefined.values()):
        listed = "; ".join(f"{name}: {number}" for name, number in undefined.items() if number)
        caption += f" Cases without any defined Dice, left out: {listed}."
    if nnunet:
        caption += " nnU-Net's mean is the mean over labels of the mean over cases; it differs where a Dice is undefined."
    num_text_columns = 1 if baseline else 2
    return Table("Mean Dice", [*headers, *_difference_headers(several)], rows, caption, num_text_columns, in_terminal=True)


def _only_baseline(comparison: Comparison) -> str | None:
    """Returns the name of the baseline if all results share it: then it needs no column of its own."""
    names = {formatting.shown_name(pair.baseline) for pair in comparison.pairs}
    return names.pop() if len(names) == 1 else None


def class_table(comparison: Comparison) -> Table:
    """Dice of every label for every result."""
    entries = comparison.entries
    rows = [[comparison.label_names[key], *(_label_cell(entry, key) for entry in entries)] for key in entries[0].dice.columns]
    caption = "Mean and standard deviation over cases."
    if any(entry.dice.isna().any(axis=None) for entry in entries):
        caption += (
            " “(k n/a)”: in k cases the label is absent from reference and prediction, so that Dice is undefined; they are "
            "left out, as nnU-Net does."
        )
    return Table(
        "Dice per label", ["Label", *(formatting.shown_name(entry) for entry in entries)], rows, caption, in_terminal=True
    )


def _label_cell(entry: Entry, key: str) -> str:
    column = entry.dice[key]
    undefined = int(column.isna().sum())
    text = formatting.mean_and_sd(column.mean(), column.std())
    return f"{text} ({undefined} n/a)" if undefined else text


def difference_table(comparison: Comparison) -> Table:
    """Difference of every label for every result with a baseline."""
    several, baseline = sum(len(pair.classes) for pair in comparison.pairs) > 1, _only_baseline(comparison)
    rows = []
    for key in comparison.label_names:
        for pair in comparison.pairs:
            names = [formatting.shown_name(pair.entry), *([] if baseline else [formatting.shown_name(pair.baseline)])]
            difference = pair.classes[key]
            cells = _difference_cells(difference, several)
            rows.append([comparison.label_names[key], *names, *cells, str(difference.num_pairs)])
    headers = ["Label", "Result", *([] if baseline else ["against"]), *_difference_headers(several), "n"]
    caption = f"Result minus {baseline or 'baseline'} over the n cases in which both are defined."
    one_sided = sum(pair.num_one_sided for pair in comparison.pairs)
    if one_sided:
        caption += (
            f" {one_sided} pairs of case and label have a Dice in one result only: the label is absent from the reference, "
            "and only one result predicts some of it. They are missing here, but lower that result's mean per case."
        )
    return Table("Difference per label", headers, rows, caption, len(headers) - 4 - several, in_terminal=True)


def _difference_headers(several: bool) -> list[str]:
    return ["Difference [95 %]", "Wilcoxon p", *(["p (Holm)"] if several else []), "better / worse / equal"]


def _difference_cells(difference: Difference, several: bool) -> list[str]:
    holm = [formatting.p_value(difference.p_holm)] if several else []
    return [formatting.change(difference), formatting.test(difference), *holm, formatting.tally(difference)]


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
    rows = [
        [
            formatting.shown_name(entry),
            f"{entry.source.parent.name}/{entry.source.name}",
            ", ".join(entry.folds) or formatting.UNKNOWN,
            str(len(entry.dice)),
        ]
        for entry in comparison.entries
    ]
    headers = ["Result", "Folder", "Folds", "Cases"]
    return Table("What was read", headers, rows, "Cases: those that were compared.", num_text_columns=3)
