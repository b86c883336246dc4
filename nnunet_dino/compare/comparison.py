"""Comparing results with their baselines on the same cases."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.compare.records import Comparison, Entry, PairedComparison, Pictures
from nnunet_dino.compare.statistics import Difference, holm, paired_differences
from nnunet_dino.compare.warnings import device_notes, split_warnings, training_warnings

STOCK_TRAINER = re.compile(r"nnUNetTrainer(_\d+epochs?)?")


def compare_entries(
    entries: Sequence[Entry], *, title: str, pictures: Pictures, baseline: str | None = None, common: bool = False
) -> Comparison:
    """Compares every result with its baseline; see :func:`nnunet_dino.compare.compare_results`.

    Raises:
        UserError: Different labels or case sets, or no such baseline.
    """
    baselines = choose_baselines(entries, baseline)
    _check_labels(entries)
    warnings = []
    if len({tuple(entry.cases) for entry in entries}) > 1:
        entries, warning = _restrict(entries, common)
        warnings.append(warning)
    compared = _with_holm([_pair(entries[other], entries[base]) for other, base in baselines])
    entries = _in_reading_order(entries, compared)
    pairs = [(pair.entry, pair.baseline) for pair in compared]
    warnings += split_warnings(pairs) + training_warnings(pairs)
    warnings += [note for entry in entries for note in entry.notes if "training cases" in note]
    notes = [note for entry in entries for note in entry.notes if note not in warnings] + device_notes(pairs)
    return Comparison(title, entries, compared, entries[0].label_names, warnings, notes, pictures)


def choose_baselines(entries: Sequence[Entry], baseline: str | None) -> list[tuple[int, int]]:
    """Returns pairs (result, its baseline) of positions in ``entries``.

    Without a name, stock trainers are the baselines, else the first trainer without a DINOv3 backbone, else the first result.
    Among several candidates (``baseline`` names a trainer, or there are stock results of several configurations) each
    result takes the one with its own configuration, then its own training length, then its own plans. A candidate is
    itself compared only if nothing is compared with it.
    """
    if baseline is None:
        candidates = [i for i, entry in enumerate(entries) if STOCK_TRAINER.fullmatch(entry.trainer)]
        without_backbone = [i for i, entry in enumerate(entries) if entry.trainer and not entry.facts.backbone]
        candidates = candidates or without_backbone[:1] or [0]
    else:
        candidates = [i for i, entry in enumerate(entries) if baseline in (entry.name, entry.identifier, entry.trainer)]
        if not candidates:
            names = list(dict.fromkeys([*(e.name for e in entries), *(e.identifier for e in entries)]))
            raise UserError(
                f"--baseline: required the name of a result · got {baseline!r}{nearest(baseline, names)} · "
                f"there are {', '.join(entry.name for entry in entries)}"
            )
    others = [i for i in range(len(entries)) if i not in candidates]
    pairs = [(i, max(candidates, key=lambda j, i=i: _closeness(entries[i], entries[j]))) for i in others]
    uses = Counter(base for _, base in pairs)
    main = max(candidates, key=lambda j: (uses[j], entries[j].configuration == "3d_fullres"))
    pairs += [(i, main) for i in candidates if i != main and not uses[i]]
    return sorted(pairs)


def _closeness(entry: Entry, candidate: Entry) -> tuple[bool, ...]:
    lengths = [re.findall(r"\d+epochs?", one.trainer)[:1] for one in (entry, candidate)]
    return (
        entry.configuration == candidate.configuration,
        lengths[0] == lengths[1],
        entry.plans == candidate.plans,
        candidate.plans == "nnUNetPlans",
    )


def _check_labels(entries: Sequence[Entry]) -> None:
    first = entries[0]
    for other in entries[1:]:
        if set(other.dice.columns) != set(first.dice.columns):
            raise UserError(
                f"required results with the same labels · got {', '.join(first.dice.columns)} in {first.name} and "
                f"{', '.join(other.dice.columns)} in {other.name} · leave one of them out"
            )


def _restrict(entries: Sequence[Entry], common: bool) -> tuple[list[Entry], str]:
    """Returns the results with only the cases that all share, and the warning that says so; refuses unless that is asked."""
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
    return [replace(entry, dice=entry.dice.loc[shared]) for entry in entries], warning


def _folds(entry: Entry) -> str:
    return f" (fold{'s' if len(entry.folds) > 1 else ''} {', '.join(entry.folds)})" if entry.folds else ""


def _pair(entry: Entry, baseline: Entry) -> PairedComparison:
    labels = list(entry.dice.columns)
    ours = np.column_stack([entry.case_means, entry.dice])
    theirs = np.column_stack([baseline.case_means, baseline.dice[labels]])
    mean, *classes = paired_differences(theirs, ours, lower_is_better=entry.kind.lower_is_better)
    one_sided = int((np.isnan(ours[:, 1:]) != np.isnan(theirs[:, 1:])).sum())
    return PairedComparison(entry, baseline, mean, dict(zip(labels, classes, strict=True)), one_sided)


def _with_holm(pairs: list[PairedComparison]) -> list[PairedComparison]:
    """Adjusts the tests of mean Dice as one family, and the tests of all labels of all results as another one."""
    means = adjusted([pair.mean for pair in pairs])
    classes = iter(adjusted([difference for pair in pairs for difference in pair.classes.values()]))
    return [
        replace(pair, mean=mean, classes={key: next(classes) for key in pair.classes})
        for pair, mean in zip(pairs, means, strict=True)
    ]


def adjusted(family: list[Difference]) -> list[Difference]:
    """Returns differences with the p values of their tests adjusted as one family; a single one as it is."""
    if len(family) < 2:
        return family
    return [replace(d, p_holm=p) for d, p in zip(family, holm([d.test.p for d in family]), strict=True)]


def _in_reading_order(entries: Sequence[Entry], pairs: Sequence[PairedComparison]) -> list[Entry]:
    """Puts every baseline before the results that are compared with it."""
    base_of = {id(pair.entry): entries.index(pair.baseline) for pair in pairs}
    keys = {id(entry): (base_of.get(id(entry), position), id(entry) in base_of) for position, entry in enumerate(entries)}
    return sorted(entries, key=lambda entry: keys[id(entry)])
