"""Training, validation and test parts, and folds, in which no patient is in two of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from nnunet_dino._errors import UserError
from nnunet_dino.probes.options import RSNA, SplitOptions
from nnunet_dino.probes.spelling import in_two_spellings

PARTS = ("train", "val", "test")
ALSO_CALLED = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
NUM_RSNA_PATIENTS = 26684


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


def refuse_two_spellings(patients: np.ndarray) -> None:
    """Refuses names of patients that differ only as :func:`in_two_spellings` says, or by marks between letters and numbers.

    Raises:
        UserError: Two do; one person would be in two parts of the split.
    """
    if twice := in_two_spellings(patients.tolist(), are_marks_alike=True):
        raise UserError(
            f"--patient: required one spelling of every patient · got {twice[0][0]!r} and {twice[0][1]!r} ({len(twice)} such), "
            "which differ only by leading zeros, .0, marks, spaces or case: a split would part them · write each in one way"
        )


def divide(split: np.ndarray, patients: np.ndarray, options: SplitOptions) -> tuple[np.ndarray, str]:
    """Returns the part of every input, and in words how the parts came about.

    Args:
        split: As the label file says; empty texts where it does not.
        patients: Of every input.
        options: For what the file does not say.

    Raises:
        UserError: A patient is in two parts, or a part is empty.
    """
    if (split != "").all():
        if "val" in split or options.val_fraction == 0:
            return checked_split(split, patients), "as the label file says"
        made = hold_out_validation(split, patients, options.val_fraction, options.seed)
        words = f"as the label file says; val is {options.val_fraction:.0%} of the training patients (seed {options.seed})"
    elif options.rule == RSNA:
        made, words = rsna_split_of_mgca(patients), "MGCA's of the RSNA pneumonia challenge"
    else:
        made = split_by_patient(patients, options.fractions, options.seed)
        shown = " / ".join(f"{fraction:.0%}" for fraction in options.fractions)
        words = f"at random by patient, {shown} (seed {options.seed})"
    return checked_split(made, patients), words


def split_by_patient(patients: np.ndarray, fractions: Sequence[float], seed: int, option: str = "--fractions") -> np.ndarray:
    """Divides patients at random into train, val and test, by fractions that come from a command line's ``option``.

    Raises:
        UserError: A part that is asked for would be empty.
    """
    people = np.unique(patients)
    people = people[np.random.default_rng(seed).permutation(len(people))]
    ends = np.round(np.cumsum(fractions) * len(people)).astype(int)
    split = _parts_of(patients, np.split(people, ends[:2]))
    for part, fraction in zip(PARTS, fractions, strict=True):
        if fraction > 0 and part not in split:
            raise UserError(
                f"{option}: required enough patients for every part · got {len(people)} to divide and none in {part} "
                "· give that part more, or 0"
            )
    return split


def _parts_of(patients: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    part_of = {name: part for part, group in zip(PARTS, groups, strict=True) for name in group}
    return np.array([part_of[name] for name in patients], dtype="<U5")


def hold_out_validation(split: np.ndarray, patients: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Moves a fraction of the training patients to ``val``.

    Raises:
        UserError: ``train`` or ``val`` would be empty.
    """
    is_train = split == "train"
    result = split.astype("<U5")
    result[is_train] = split_by_patient(patients[is_train], (1 - fraction, fraction, 0.0), seed, "--val-fraction")
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
    return _parts_of(patients, (train, val, test))


def folds(classes: np.ndarray, patients: np.ndarray, num_folds: int, seed: int, val_fraction: float) -> list[np.ndarray]:
    """Returns ``num_folds`` splits, each with another part of the patients as test; classes are divided evenly.

    ``val_fraction`` of the patients outside test are taken for validation; 0 for none.

    Raises:
        UserError: There are too few patients or inputs of a class, or a fold has one class only to train on.
    """
    people, counts = len(np.unique(patients)), np.unique(classes, return_counts=True)[1]
    if len(counts) < 2:
        raise UserError(f"--folds: required inputs of two classes · got {len(classes)} of one")
    rarest = int(counts.min())
    got = f"{num_folds} folds, {people} patients, {rarest} inputs of the rarest class"
    if min(people, rarest) < 2:
        raise UserError(f"--folds: required at least 2 patients and 2 inputs of every class · got {got}")
    if not 2 <= num_folds <= min(people, rarest):
        raise UserError(
            f"--folds: required no more folds than patients and inputs of every class · got {got} · give "
            f"{'2' if min(people, rarest) == 2 else f'2 to {min(people, rarest)}'}"
        )
    splits: list[np.ndarray] = []
    for train, test in _stratified(num_folds, classes, patients, seed):
        split = np.full(len(classes), "train", dtype="<U5")
        split[test] = "test"
        if val_fraction:
            split[train[_validation(classes[train], patients[train], val_fraction, seed)]] = "val"
        if len(np.unique(classes[split == "train"])) < 2:
            raise UserError(f"--folds: required two classes to train on in every fold · got one in fold {len(splits) + 1}")
        splits.append(checked_split(split, patients))
    return splits


def _validation(classes: np.ndarray, patients: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Returns the positions of about a fraction of the patients: more where a class is too rare to be divided so finely."""
    people, rarest = len(np.unique(patients)), int(np.unique(classes, return_counts=True)[1].min())
    if people < 2:
        raise UserError(f"--val-fraction: required at least 2 patients outside test in every fold · got {people}")
    num_parts = max(2, min(round(1 / fraction), people, rarest))
    return _stratified(num_parts, classes, patients, seed)[0][1]


def _stratified(num_parts: int, classes: np.ndarray, patients: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # of one input that may be in one part
        cut = StratifiedGroupKFold(num_parts, shuffle=True, random_state=seed)
        return list(cut.split(np.zeros(len(classes)), classes, patients))
