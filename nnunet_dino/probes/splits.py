"""Training, validation and test parts, and folds, in which no patient is in two of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from nnunet_dino._errors import UserError

PARTS = ("train", "val", "test")
NUM_RSNA_PATIENTS = 26684
ALSO_CALLED = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}


def split_names(texts: Sequence[str], column: str) -> np.ndarray:
    """Returns ``train``, ``val`` or ``test`` for every row, whatever the usual word for it.

    Raises:
        UserError: Another word is in the column.
    """
    names = [ALSO_CALLED.get(text.strip().lower(), text.strip().lower()) for text in texts]
    if odd := [text for text, name in zip(texts, names, strict=True) if name not in PARTS]:
        raise UserError(f"--split {column}: required train, val or test in every row · got {odd[0]!r}")
    return np.array(names)


def checked_split(split: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Returns a split in which every patient is in one part only.

    Raises:
        UserError: A patient is in two, or there is nothing to train on, or nothing to test on.
    """
    parts_of: dict[str, set[str]] = {}
    for part, patient in zip(split.tolist(), patients.tolist(), strict=True):
        parts_of.setdefault(patient, set()).add(part)
    if torn := sorted(patient for patient, parts in parts_of.items() if len(parts) > 1):
        shown = ", ".join(f"{patient} ({' and '.join(sorted(parts_of[patient]))})" for patient in torn[:3])
        more = f" and {len(torn) - 3} more" if len(torn) > 3 else ""
        raise UserError(f"split: required every patient in one part · got {shown}{more}")
    for part in ("train", "test"):
        if part not in split:
            raise UserError(f"split: required inputs in {part} · got none")
    return split


def split_by_patient(patients: np.ndarray, fractions: Sequence[float], seed: int, option: str = "--fractions") -> np.ndarray:
    """Divides patients at random.

    Args:
        patients: Whose every input is.
        fractions: Of the patients in train, val and test; they add up to 1.
        seed: Of the shuffling.
        option: From which the fractions come, for the error.

    Raises:
        UserError: A part that is asked for would be empty.
    """
    people = np.unique(patients)
    people = people[np.random.default_rng(seed).permutation(len(people))]
    ends = np.round(np.cumsum(fractions) * len(people)).astype(int)
    part_of = {name: part for part, group in zip(PARTS, np.split(people, ends[:2]), strict=True) for name in group}
    split = np.array([part_of[name] for name in patients])
    for part, fraction in zip(PARTS, fractions, strict=True):
        if fraction > 0 and part not in split:
            raise UserError(
                f"{option}: required enough patients for every part · got {len(people)} to divide and none in {part} "
                "· give that part more, or 0"
            )
    return split


def hold_out_validation(split: np.ndarray, patients: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Moves a fraction of the training patients to ``val``.

    Raises:
        UserError: ``train`` or ``val`` would be empty.
    """
    is_train = split == "train"
    inner = split_by_patient(patients[is_train], (1 - fraction, fraction, 0.0), seed, "--val-fraction")
    result = split.astype("<U5")
    result[is_train] = inner
    return result


def rsna_split_of_mgca(patients: np.ndarray) -> np.ndarray:
    """Returns the split of the RSNA pneumonia challenge that MGCA used: 70 % train, 15 % each for val and test.

    The 26,684 labelled patients, in sorted order, give 18,678, 4,003 and 4,003. One patient less, and everyone's part would be
    another.

    Raises:
        UserError: These are not so many patients.

    Source: HKU-MedAI/MGCA, ``mgca/preprocess/rsna.py`` at 680fe4a; of the held-out half the first part is test.
    """
    people = np.unique(patients)
    if len(people) != NUM_RSNA_PATIENTS:
        raise UserError(
            f"--make-split rsna-mgca: required the {NUM_RSNA_PATIENTS:,} labelled patients of RSNA pneumonia · got "
            f"{len(people):,} patients with features and labels · extract what is missing, or use --make-split patients"
        )
    train, held_out = train_test_split(people, test_size=0.3, random_state=0)
    test, val = train_test_split(held_out, test_size=0.5, random_state=0)
    part_of = {name: part for part, group in zip(PARTS, (train, val, test), strict=True) for name in group}
    return np.array([part_of[name] for name in patients])


def folds(targets: np.ndarray, patients: np.ndarray, num_folds: int, seed: int, val_fraction: float) -> Iterator[np.ndarray]:
    """Yields ``num_folds`` splits, each with another part of the patients as test; classes are divided evenly.

    Args:
        targets: Number of the class of every input.
        patients: Whose they are.
        num_folds: Number of parts.
        seed: Of the shuffling.
        val_fraction: Of the patients outside test that are taken for validation; 0 for none.

    Raises:
        UserError: There are fewer patients than folds, or a class has fewer inputs than folds.
    """
    people = len(np.unique(patients))
    rarest = int(np.unique(targets, return_counts=True)[1].min())
    if num_folds < 2 or num_folds > min(people, rarest):
        raise UserError(
            f"--folds: required 2 to {min(people, rarest)} (patients: {people}, inputs of the rarest class: {rarest}) "
            f"· got {num_folds}"
        )
    cut = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    for train, test in cut.split(np.zeros(len(targets)), targets, patients):
        split = np.full(len(targets), "train", dtype="<U5")
        split[test] = "test"
        if val_fraction:
            inner = StratifiedGroupKFold(max(2, round(1 / val_fraction)), shuffle=True, random_state=seed)
            _, val = next(inner.split(np.zeros(len(train)), targets[train], patients[train]))
            split[train[val]] = "val"
        yield checked_split(split, patients)
