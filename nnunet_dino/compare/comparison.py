"""Comparing results with their baselines on the same cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from nnunet_dino._errors import UserError
from nnunet_dino.compare.baselines import choose_baselines
from nnunet_dino.compare.entries import Entry
from nnunet_dino.compare.paths import Pictures
from nnunet_dino.compare.statistics import Difference, holm, paired_differences
from nnunet_dino.compare.warnings import device_notes, split_warnings, training_warnings


@dataclass(frozen=True, eq=False)
class PairedComparison:
    """One result against its baseline.

    Attributes:
        entry: The result.
        baseline: What it is compared with.
        mean: Difference of the mean Dice per case.
        classes: Difference of the Dice of every label key.
        num_one_sided: Pairs of case and label in which only one of both Dice is defined: the label is absent from the
            reference and only one of both predicted some of it.
    """

    entry: Entry
    baseline: Entry
    mean: Difference
    classes: Mapping[str, Difference]
    num_one_sided: int

    @property
    def case_differences(self) -> pd.Series:
        """Difference of the mean Dice of every case in which both are defined, worst first."""
        return (self.entry.case_means - self.baseline.case_means).dropna().sort_values(kind="stable")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Results on the same cases, and how they differ.

    Attributes:
        title: What is compared, such as the data set's name.
        entries: All results, on the same cases in the same order.
        pairs: Every result that has a baseline, against it.
        label_names: Name of every label key.
        warnings: What a reader must know before the numbers.
        notes: What a reader may want to know.
        pictures: Finds images and references.
    """

    title: str
    entries: Sequence[Entry]
    pairs: Sequence[PairedComparison]
    label_names: Mapping[str, str]
    warnings: Sequence[str]
    notes: Sequence[str]
    pictures: Pictures

    @property
    def cases(self) -> list[str]:
        return self.entries[0].cases

    def pair_of(self, entry: Entry) -> PairedComparison | None:
        return next((pair for pair in self.pairs if pair.entry is entry), None)


def compare_entries(
    entries: Sequence[Entry], *, title: str, pictures: Pictures, baseline: str | None = None, common: bool = False
) -> Comparison:
    """Compares every result with its baseline.

    Args:
        entries: Results, with unique names.
        title: What is compared.
        pictures: Finds images and references.
        baseline: Name of the baseline; without it the stock trainer with the same configuration, else the first result.
        common: Restrict all results to the cases they share, instead of refusing different case sets.

    Raises:
        UserError: Different labels or case sets, or no such baseline.
    """
    baselines = choose_baselines(entries, baseline)
    _check_labels(entries)
    warnings = []
    if len({tuple(entry.cases) for entry in entries}) > 1:
        entries, warning = _restrict(entries, common)
        warnings.append(warning)
    compared = _compare_all([(entries[other], entries[base]) for other, base in baselines])
    entries = _in_reading_order(entries, compared)
    pairs = [(pair.entry, pair.baseline) for pair in compared]
    warnings += split_warnings(pairs) + training_warnings(pairs)
    warnings += [note for entry in entries for note in entry.notes if "training cases" in note]
    notes = [note for entry in entries for note in entry.notes if note not in warnings] + device_notes(pairs)
    return Comparison(title, entries, compared, entries[0].label_names, warnings, notes, pictures)


def _check_labels(entries: Sequence[Entry]) -> None:
    first = entries[0]
    for other in entries[1:]:
        if set(other.dice.columns) != set(first.dice.columns):
            raise UserError(
                f"required results with the same labels · got {', '.join(first.dice.columns)} in {first.name} and "
                f"{', '.join(other.dice.columns)} in {other.name} · leave one of them out"
            )


def _restrict(entries: Sequence[Entry], common: bool) -> tuple[list[Entry], str]:
    sets = [set(entry.cases) for entry in entries]
    shared = sorted(set.intersection(*sets))
    odd = sorted(set.union(*sets) - set(shared))
    shown = f"{', '.join(odd[:4])}{' …' if len(odd) > 4 else ''}"
    counts = "; ".join(f"{entry.name} has {len(entry.cases)}{_folds(entry)}" for entry in entries)
    if not common or not shared:
        remedy = (
            "choose results of the same folds (--folds, --trainer, --plans, --configuration), train the missing ones, or give "
            "--common to compare only the shared cases"
            if shared
            else "no case is shared, so that nothing can be compared: choose results of the same folds (--folds)"
        )
        raise UserError(
            f"required results on the same cases · got {len(odd)} case{'s' if len(odd) > 1 else ''} that not all results have "
            f"({shown}): {counts} · {remedy}"
        )
    left_out = "; ".join(f"{entry.name}: {len(entry.cases) - len(shared)} of {len(entry.cases)}" for entry in entries)
    warning = (
        f"Only the {len(shared)} cases that all results share are compared (--common). The results were computed on different "
        f"sets of cases. Left out: {left_out}."
    )
    return [entry.restricted_to(shared) for entry in entries], warning


def _folds(entry: Entry) -> str:
    return f" (fold{'s' if len(entry.folds) > 1 else ''} {', '.join(entry.folds)})" if entry.folds else ""


def _compare_all(pairs: Sequence[tuple[Entry, Entry]]) -> list[PairedComparison]:
    found = []
    for entry, baseline in pairs:
        labels = list(entry.dice.columns)
        ours = np.column_stack([entry.case_means, entry.dice])
        theirs = np.column_stack([baseline.case_means, baseline.dice[labels]])
        mean, *classes = paired_differences(theirs, ours)
        one_sided = int((np.isnan(ours[:, 1:]) != np.isnan(theirs[:, 1:])).sum())
        found.append(PairedComparison(entry, baseline, mean, dict(zip(labels, classes, strict=True)), one_sided))
    return _with_holm(found)


def _with_holm(found: list[PairedComparison]) -> list[PairedComparison]:
    """Adjusts the tests of mean Dice as one family, and the tests of all labels of all results as another one."""
    means = [pair.mean for pair in found]
    classes = [difference for pair in found for difference in pair.classes.values()]
    adjusted = iter(_adjusted(classes))
    return [
        replace(pair, mean=mean, classes={key: next(adjusted) for key in pair.classes})
        for pair, mean in zip(found, _adjusted(means), strict=True)
    ]


def _adjusted(family: list[Difference]) -> list[Difference]:
    if len(family) < 2:
        return family
    return [replace(d, p_holm=p) for d, p in zip(family, holm([d.test.p for d in family]), strict=True)]


def _in_reading_order(entries: Sequence[Entry], pairs: Sequence[PairedComparison]) -> list[Entry]:
    """Puts every baseline before the results that are compared with it."""
    base_of = {id(pair.entry): entries.index(pair.baseline) for pair in pairs}
    keys = {id(entry): (base_of.get(id(entry), position), id(entry) in base_of) for position, entry in enumerate(entries)}
    return sorted(entries, key=lambda entry: keys[id(entry)])
