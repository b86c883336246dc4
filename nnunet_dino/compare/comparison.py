"""Comparing results with their baselines on the same cases."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from nnunet_dino.compare.entries import Entry
from nnunet_dino.compare.places import Pictures
from nnunet_dino.compare.statistics import Difference, holm, paired_differences
from nnunet_dino.errors import UserError, nearest

STOCK_TRAINER = re.compile(r"nnUNetTrainer(_\d+epochs?)?")


@dataclass(frozen=True, eq=False)
class Versus:
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
        versus: Every result that has a baseline, against it.
        label_names: Name of every label key.
        warnings: What a reader must know before the numbers.
        notes: What a reader may want to know.
        pictures: Finds images and references.
    """

    title: str
    entries: Sequence[Entry]
    versus: Sequence[Versus]
    label_names: Mapping[str, str]
    warnings: Sequence[str]
    notes: Sequence[str]
    pictures: Pictures

    @property
    def cases(self) -> list[str]:
        return self.entries[0].cases

    def versus_of(self, entry: Entry) -> Versus | None:
        return next((versus for versus in self.versus if versus.entry is entry), None)


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
    versus = _compare_all([(entries[other], entries[base]) for other, base in baselines])
    entries = _in_reading_order(entries, versus)
    warnings += _split_warnings(versus) + _training_warnings(versus)
    warnings += [note for entry in entries for note in entry.notes if "training cases" in note]
    notes = [note for entry in entries for note in entry.notes if note not in warnings] + _device_notes(versus)
    return Comparison(title, entries, versus, entries[0].label_names, warnings, notes, pictures)


def choose_baselines(entries: Sequence[Entry], baseline: str | None) -> list[tuple[int, int]]:
    """Returns pairs (result, its baseline) of positions in ``entries``.

    Among several candidates (``baseline`` names a trainer, or there are stock results of several configurations) each
    result takes the one with its own configuration, then its own training length, then its own plans. A candidate is
    itself compared only if nothing is compared with it.
    """
    if baseline is None:
        candidates = [i for i, entry in enumerate(entries) if STOCK_TRAINER.fullmatch(entry.trainer)] or [0]
    else:
        candidates = [i for i, entry in enumerate(entries) if baseline in (entry.name, entry.identifier, entry.trainer)]
        if not candidates:
            names = list(dict.fromkeys([*(e.name for e in entries), *(e.identifier for e in entries)]))
            raise UserError(
                f"--baseline with the name of a result required · got {baseline!r}{nearest(baseline, names)} · "
                f"there are {', '.join(entry.name for entry in entries)}"
            )
    pairs = [
        (i, max(candidates, key=lambda j, i=i: _closeness(entries[i], entries[j])))
        for i in range(len(entries))
        if i not in candidates
    ]
    uses = Counter(base for _, base in pairs)
    main = max(candidates, key=lambda j: (uses[j], entries[j].configuration == "3d_fullres"))
    pairs += [(i, main) for i in candidates if i != main and not uses[i]]
    return sorted(pairs)


def _closeness(entry: Entry, candidate: Entry) -> tuple[bool, ...]:
    def length(trainer: str) -> str:
        return (re.findall(r"\d+epochs?", trainer) or [""])[0]

    return (
        entry.configuration == candidate.configuration,
        length(entry.trainer) == length(candidate.trainer),
        entry.plans == candidate.plans,
        candidate.plans == "nnUNetPlans",
    )


def _check_labels(entries: Sequence[Entry]) -> None:
    first = entries[0]
    for other in entries[1:]:
        if set(other.dice.columns) != set(first.dice.columns):
            raise UserError(
                f"results with the same labels required · got {', '.join(first.dice.columns)} in {first.name} and "
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
            f"results on the same cases required · got {len(odd)} case{'s' if len(odd) > 1 else ''} that not all results have "
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


def _compare_all(pairs: Sequence[tuple[Entry, Entry]]) -> list[Versus]:
    found = []
    for entry, baseline in pairs:
        labels = list(entry.dice.columns)
        ours = np.column_stack([entry.case_means, entry.dice])
        theirs = np.column_stack([baseline.case_means, baseline.dice[labels]])
        mean, *classes = paired_differences(theirs, ours)
        one_sided = int((np.isnan(ours[:, 1:]) != np.isnan(theirs[:, 1:])).sum())
        found.append(Versus(entry, baseline, mean, dict(zip(labels, classes, strict=True)), one_sided))
    return _with_holm(found)


def _with_holm(found: list[Versus]) -> list[Versus]:
    """Adjusts the tests of mean Dice as one family, and the tests of all labels of all results as another one."""
    means = [versus.mean for versus in found]
    classes = [difference for versus in found for difference in versus.classes.values()]
    means, classes = _adjusted(means), iter(_adjusted(classes))
    return [
        replace(versus, mean=mean, classes={key: next(classes) for key in versus.classes})
        for versus, mean in zip(found, means, strict=True)
    ]


def _adjusted(family: list[Difference]) -> list[Difference]:
    if len(family) < 2:
        return family
    return [replace(d, p_holm=p) for d, p in zip(family, holm([d.test.p for d in family]), strict=True)]


def _in_reading_order(entries: Sequence[Entry], versus: Sequence[Versus]) -> list[Entry]:
    """Puts every baseline before the results that are compared with it."""
    base_of = {id(pair.entry): entries.index(pair.baseline) for pair in versus}
    keys = {id(entry): (base_of.get(id(entry), position), id(entry) in base_of) for position, entry in enumerate(entries)}
    return sorted(entries, key=lambda entry: keys[id(entry)])


def _split_warnings(versus: Sequence[Versus]) -> list[str]:
    warnings = []
    for pair in versus:
        ours, theirs = pair.entry.fold_of, pair.baseline.fold_of
        moved = [case for case in pair.entry.cases if case in ours and case in theirs and ours[case] != theirs[case]]
        if moved:
            warnings.append(
                f"{pair.entry.name} and {pair.baseline.name} were trained with different splits: {len(moved)} cases, such as "
                f"{moved[0]}, were validated in different folds, by models that saw different training cases."
            )
    return warnings


def _training_warnings(versus: Sequence[Versus]) -> list[str]:
    warnings = []
    for pair in versus:
        lengths = [(e.facts.num_epochs, e.facts.num_iterations) for e in (pair.entry, pair.baseline)]
        if None not in (*lengths[0], *lengths[1]) and lengths[0] != lengths[1]:
            ours, theirs = (f"{epochs} epochs of {iterations} iterations" for epochs, iterations in lengths)
            warnings.append(
                f"{pair.entry.name} and {pair.baseline.name} were not trained equally long: {ours} against {theirs}."
            )
    random = [entry.name for entry in dict.fromkeys(pair.entry for pair in versus) if entry.facts.weights == "random"]
    if random:
        warnings.append(
            f"Random weights: the backbone of {', '.join(random)} was not pretrained. Such a result shows that the parts fit "
            "together, not what DINOv3 adds."
        )
    return warnings


def _device_notes(versus: Sequence[Versus]) -> list[str]:
    devices = {entry.name: entry.facts.device for pair in versus for entry in (pair.entry, pair.baseline)}
    if len({device for device in devices.values() if device}) < 2:
        return []
    listed = "; ".join(f"{name}: {device}" for name, device in devices.items() if device)
    return [f"Epoch times were measured on different devices ({listed}) and cannot be compared."]
