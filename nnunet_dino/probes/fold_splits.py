"""The splits of a cross-validation, with or without a val part in every fold."""

from __future__ import annotations

import numpy as np

from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.options import FoldOptions, SplitOptions
from nnunet_dino.probes.splits import folds


def fold_splits(labelled: Labelled, cross: FoldOptions, splitting: SplitOptions, has_val: bool) -> tuple[list[np.ndarray], str]:
    """Returns the splits of all folds of all repeats, and in words how they came about.

    Patients stay together. Classes are divided evenly; of several labels that may stand together, the one whose classes are
    nearest to equal.

    Raises:
        UserError: There are too few patients or inputs of a class.
    """
    label = int(np.abs(labelled.targets.mean(0) - 0.5).argmin())
    is_multiple = len(labelled.names) > 1 and not labelled.is_exclusive
    classes = labelled.targets[:, label].astype(int) if is_multiple else labelled.classes
    fraction = splitting.val_fraction if has_val else 0.0
    splits = []
    for seed in range(splitting.seed, splitting.seed + cross.repeats):
        splits += folds(classes, labelled.patients, cross.folds, seed, fraction)
    people = [len(set(labelled.patients[split != "test"])) for split in splits]
    held_out = [len(set(labelled.patients[split == "val"])) for split in splits]
    share = f"; {sum(held_out) / sum(people):.0%} of the patients outside test are val in every fold" if fraction else ""
    what = f"{labelled.names[label]} divided evenly" if is_multiple else "classes divided evenly"
    return splits, (
        f"{cross.folds}-fold cross-validation by patient, {cross.repeats} {'time' if cross.repeats == 1 else 'times'}, {what} "
        f"(seed {splitting.seed}){share}"
    )
