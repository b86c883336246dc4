"""Labels, a split and features, ready for a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.evaluation import Judging
from nnunet_dino.probes.labels import LabelColumns, Labelled, read_labels
from nnunet_dino.probes.splits import hold_out_validation, rsna_split_of_mgca, split_by_patient

BY_PATIENT, RSNA = "patients", "rsna-mgca"
RULES = (BY_PATIENT, RSNA)


@dataclass(frozen=True)
class Splitting:
    """Where the parts come from if the label file does not say.

    Attributes:
        rule: ``patients``: at random, by patient; ``rsna-mgca``: the published split of the RSNA pneumonia challenge.
        fractions: Of patients in train, val and test.
        val_fraction: Of the training patients held out for ``val`` where the label file names none; 0 for none.
        seed: Of the shuffling.

    Raises:
        UserError: A value is none of these.
    """

    rule: str = BY_PATIENT
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    val_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UserError(f"--make-split: required one of {', '.join(RULES)} · got {self.rule!r}{nearest(self.rule, RULES)}")
        if len(self.fractions) != 3 or not abs(sum(self.fractions) - 1) < 1e-6 or min(self.fractions) < 0:
            got = ", ".join(f"{fraction:g}" for fraction in self.fractions)
            raise UserError(f"--fractions: required three numbers from 0 that add up to 1 · got {got}")
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"--val-fraction: required a number from 0 to below 1 · got {self.val_fraction:g}")


@dataclass(frozen=True)
class Request:
    """What every probe is asked.

    Attributes:
        store: Folder of the features; for attention also an ``.npz`` file of bags.
        output: Folder for the report.
        overwrite: Whether foreign files of the same names may be replaced.
        features: ``class``, ``mean`` or ``both``.
        columns: Where the labels are.
        splitting: Where the parts come from.
        judging: How scores are judged.
        device: Where to compute.
        command: The command line, for the report.
    """

    store: str
    output: str
    overwrite: bool
    features: str
    columns: LabelColumns | None
    splitting: Splitting
    judging: Judging
    device: str
    command: str


def with_parts(labelled: Labelled, splitting: Splitting) -> tuple[Labelled, str]:
    """Returns labels with a split, and how it came about.

    Raises:
        UserError: A patient is in two parts, or a part is empty.
    """
    if labelled.split is not None:
        if "val" in labelled.split or splitting.val_fraction == 0:
            return labelled, "as the label file says"
        split = hold_out_validation(labelled.split, labelled.patients, splitting.val_fraction, splitting.seed)
        words = f"as the label file says; val is {splitting.val_fraction:.0%} of the training patients (seed {splitting.seed})"
        return labelled.with_split(split), words
    if splitting.rule == RSNA:
        return labelled.with_split(rsna_split_of_mgca(labelled.patients)), "MGCA's of the RSNA pneumonia challenge"
    split = split_by_patient(labelled.patients, splitting.fractions, splitting.seed)
    shown = " / ".join(f"{fraction:.0%}" for fraction in splitting.fractions)
    return labelled.with_split(split), f"at random by patient, {shown} (seed {splitting.seed})"


def labelled_vectors(store: FeatureStore, columns: LabelColumns, features: str) -> tuple[Labelled, np.ndarray]:
    """Returns labels and the vectors ``n e`` that belong to them.

    Raises:
        UserError: Labels or features are not usable.
    """
    ids, vectors = store.vectors(features)
    labelled = read_labels(columns, ids)
    return labelled, vectors[rows_of(ids, labelled.ids)]


def rows_of(ids: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Returns the positions of some ids among all."""
    place = {name: row for row, name in enumerate(ids)}
    return [place[name] for name in wanted]
