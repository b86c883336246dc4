"""The tables of a report, as text in cells; Markdown, HTML and the terminal only lay them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_dino.compare import words
from nnunet_dino.compare.comparison import Comparison
from nnunet_dino.compare.entries import Entry
from nnunet_dino.compare.statistics import Difference


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: Heading.
        headers: Column headings.
        rows: Cells; as many per row as there are headings.
        caption: How to read it.
        num_text_columns: Leading columns that hold names; the others hold numbers.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    num_text_columns: int = 1


def all_tables(comparison: Comparison) -> dict[str, Table]:
    """Returns the tables of a report by name: mean, classes, differences (with several labels), cost, sources."""
    tables = {"mean": mean_table(comparison), "classes": class_table(comparison)}
    if comparison.versus:
        tables["differences"] = difference_table(comparison)
    tables["cost"] = cost_table(comparison)
    tables["sources"] = source_table(comparison)
    return tables


def mean_table(comparison: Comparison) -> Table:
    """Mean Dice of every result and its difference to the baseline."""
    several = len(comparison.versus) > 1
    nnunet = any(f"{entry.foreground_mean:.3f}" != f"{entry.case_means.mean():.3f}" for entry in comparison.entries)
    rows = []
    for entry in comparison.entries:
        means, versus = entry.case_means, comparison.versus_of(entry)
        row = [words.shown_name(entry), words.mean_and_sd(means.mean(), means.std())]
        row += [words.dice(entry.foreground_mean)] if nnunet else []
        if versus is None:
            row += ["baseline" if comparison.versus else words.UNKNOWN, *[words.UNKNOWN] * (3 + several)]
        else:
            row += [words.shown_name(versus.baseline), *_difference_cells(versus.mean, several)]
        rows.append(row)
    headers = ["Result", "Mean Dice ± SD", *(["nnU-Net's mean"] if nnunet else []), "against", *_difference_headers(several)]
    caption = (
        f"{words.cases(len(comparison.cases))}. Mean and standard deviation over cases of the mean Dice per case. Difference: result "
        "minus baseline, with 95 % bootstrap interval."
    )
    undefined = {entry.name: int(entry.case_means.isna().sum()) for entry in comparison.entries}
    if any(undefined.values()):
        listed = "; ".join(f"{name}: {number}" for name, number in undefined.items() if number)
        caption += f" Cases without any defined Dice, left out: {listed}."
    if nnunet:
        caption += " nnU-Net's mean is the mean over labels of the mean over cases; it differs where a Dice is undefined."
    return Table("Mean Dice", headers, rows, caption)


def class_table(comparison: Comparison) -> Table:
    """Dice of every label for every result."""
    entries = comparison.entries
    rows = [[comparison.label_names[key], *(_label_cell(entry, key) for entry in entries)] for key in entries[0].dice.columns]
    caption = "Mean and standard deviation over cases."
    if any(entry.dice.isna().any(axis=None) for entry in entries):
        caption += (
            " “(k n/a)”: in k cases the label is absent from reference and prediction, so that Dice is undefined; they are left "
            "out, as nnU-Net does."
        )
    return Table("Dice per label", ["Label", *(words.shown_name(entry) for entry in entries)], rows, caption)


def _label_cell(entry: Entry, key: str) -> str:
    column = entry.dice[key]
    undefined = int(column.isna().sum())
    text = words.mean_and_sd(column.mean(), column.std())
    return f"{text} ({undefined} n/a)" if undefined else text


def difference_table(comparison: Comparison) -> Table:
    """Difference of every label for every result with a baseline."""
    several = sum(len(versus.classes) for versus in comparison.versus) > 1
    rows = [
        [comparison.label_names[key], words.shown_name(versus.entry), words.shown_name(versus.baseline),
         *_difference_cells(versus.classes[key], several), str(versus.classes[key].num_pairs)]
        for key in comparison.label_names for versus in comparison.versus
    ]  # fmt: skip
    headers = ["Label", "Result", "against", *_difference_headers(several), "n"]
    caption = "Result minus baseline over the n cases in which both are defined."
    one_sided = sum(versus.num_one_sided for versus in comparison.versus)
    if one_sided:
        caption += (
            f" {one_sided} pairs of case and label have a Dice in one result only: the label is absent from the reference, and only "
            "one result predicts some of it. They are missing here, but lower that result's mean per case."
        )
    return Table("Difference per label", headers, rows, caption, num_text_columns=3)


def _difference_headers(several: bool) -> list[str]:
    return ["Difference [95 %]", "Wilcoxon p", *(["p (Holm)"] if several else []), "better / worse / equal"]


def _difference_cells(difference: Difference, several: bool) -> list[str]:
    holm = [words.p_value(difference.p_holm)] if several else []
    return [words.change(difference), words.test(difference), *holm, words.tally(difference)]


def cost_table(comparison: Comparison) -> Table:
    """Parameters, checkpoint size and epoch time of every result."""
    rows = []
    for entry in comparison.entries:
        facts = entry.facts
        epochs = f"{facts.num_epochs} × {facts.num_iterations}" if facts.num_epochs and facts.num_iterations else words.UNKNOWN
        rows.append([
            words.shown_name(entry), facts.backbone or words.UNKNOWN, _short(facts.weights), facts.adaptation or words.UNKNOWN,
            words.count(facts.num_params_total), words.count(facts.num_params_trained), words.size(facts.checkpoint_bytes),
            words.seconds(facts.epoch_s), epochs, facts.device or words.UNKNOWN,
        ])  # fmt: skip
    headers = ["Result", "Backbone", "Weights", "Adaptation", "Parameters", "trained", "Checkpoint", "Epoch time",
               "Epochs × iterations", "Device"]  # fmt: skip
    caption = (
        "Epoch time: median over the epochs of all folds, from the training logs. Checkpoint: as nnU-Net stores it, with the "
        "optimiser's state. “–”: not known."
    )
    return Table("Cost", headers, rows, caption, num_text_columns=4)


def _short(weights: str | None) -> str:
    return words.UNKNOWN if weights is None else weights if len(weights) <= 16 else f"{weights[:12]}…"


def source_table(comparison: Comparison) -> Table:
    """What was read for every result."""
    rows = [
        [words.shown_name(entry), f"{entry.source.parent.name}/{entry.source.name}", ", ".join(entry.folds) or words.UNKNOWN,
         str(len(entry.dice))]
        for entry in comparison.entries
    ]  # fmt: skip
    return Table("What was read", ["Result", "Folder", "Folds", "Cases"], rows, "Cases: after any restriction.", num_text_columns=3)
