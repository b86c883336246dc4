"""Parts and folds: published sizes, and never a patient in two of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nnunet_dino._errors import UserError
from nnunet_dino.probes.labels import read_labels
from nnunet_dino.probes.splits import (
    SplitOptions,
    checked_split,
    divide,
    folds,
    hold_out_validation,
    rsna_split_of_mgca,
    split_by_patient,
)
from nnunet_dino.probes.targets import LabelColumns


def test_the_published_split_of_rsna():
    """Sizes and first members with scikit-learn 1.9, for the 26,684 labelled patients in sorted order."""
    patients = np.array([f"{number:05d}" for number in range(26684)])
    split = rsna_split_of_mgca(patients[::-1])[::-1]
    assert {part: int((split == part).sum()) for part in ("train", "val", "test")} == {
        "train": 18678,
        "val": 4003,
        "test": 4003,
    }
    for part, members in (("train", (7729, 18294, 1437)), ("val", (13610, 15308, 13503)), ("test", (25106, 18356, 8000))):
        assert {split[member] for member in members} == {part}


@pytest.mark.parametrize("count", [100, 26683, 26685])
def test_other_patients_are_not_called_the_published_split(count):
    with pytest.raises(UserError, match=rf"rsna-mgca.*26,684.*got {count:,} patients.*--make-split patients"):
        divide(np.full(count, ""), np.arange(count).astype(str), SplitOptions(rule="rsna-mgca"))


def test_patients_stay_together():
    patients = np.array([f"P{i % 37}" for i in range(200)])
    split = split_by_patient(patients, (0.6, 0.15, 0.25), seed=1)
    for patient in set(patients):
        assert len(set(split[patients == patient])) == 1
    people = {part: len(set(patients[split == part])) for part in ("train", "val", "test")}
    assert people == {"train": 22, "val": 6, "test": 9}
    assert (split == split_by_patient(patients, (0.6, 0.15, 0.25), seed=1)).all()
    assert (split != split_by_patient(patients, (0.6, 0.15, 0.25), seed=2)).any()


def test_a_torn_patient_is_named():
    with pytest.raises(UserError, match=r"P7 \(test and train\)"):
        checked_split(np.array(["train", "test", "test"]), np.array(["P7", "P7", "P8"]))


@pytest.mark.parametrize("missing", ["train", "test"])
def test_an_empty_part_is_named(missing):
    with pytest.raises(UserError, match=f"inputs in {missing}"):
        checked_split(np.array([{"train": "test", "test": "train"}[missing]]), np.array(["P"]))


@pytest.mark.parametrize("fractions", [(0.5, 0.1, 0.1), (1.2, -0.4, 0.2), (float("nan"), 0.5, 0.5), (0.5, 0.5)])
def test_fractions_add_up(fractions):
    with pytest.raises(UserError, match=f"--fractions.*got {', '.join(f'{f:g}' for f in fractions)}"):
        SplitOptions(fractions=fractions)


def test_every_part_asked_for_gets_a_patient():
    people = np.array([f"P{i}" for i in range(9)])
    with pytest.raises(UserError, match=r"--fractions.*got 9 to divide and none in val"):
        split_by_patient(people, (0.98, 0.01, 0.01), 0)
    with pytest.raises(UserError, match=r"--val-fraction.*got 4 to divide and none in val"):
        hold_out_validation(np.array(["train"] * 4 + ["test"] * 5), people, 0.1, 0)
    with pytest.raises(UserError, match=r"--val-fraction.*got 4 to divide and none in train"):
        hold_out_validation(np.array(["train"] * 4 + ["test"] * 5), people, 0.99, 0)


def test_folds_test_everyone_once_and_keep_patients_together():
    patients = np.array([f"P{i // 2}" for i in range(80)])
    classes = np.array([(i // 2) % 3 == 0 for i in range(80)]).astype(int)
    tested = np.zeros(80, int)
    for split in folds(classes, patients, 5, seed=4, val_fraction=0.125):
        tested += split == "test"
        checked_split(split, patients)
        assert set(split) == {"train", "val", "test"}
        assert abs(classes[split == "test"].mean() - classes.mean()) < 0.15
    assert (tested == 1).all()


def test_more_folds_than_patients_are_refused():
    with pytest.raises(UserError, match=r"got 4 folds, 6 patients, 3 inputs of the rarest class · give 2 to 3"):
        folds(np.array([0, 0, 0, 1, 1, 1]), np.arange(6), 4, 0, 0.0)


@pytest.mark.parametrize(
    ("classes", "patients", "said"),
    [
        ([0, 0, 0, 0], [0, 1, 2, 3], "two classes.*got 4 of one"),
        ([0, 0, 0, 1], [0, 1, 2, 3], "at least 2 patients and 2 inputs.*1 inputs of the rarest"),
        ([0, 0, 1, 1], [0, 0, 0, 0], "at least 2 patients and 2 inputs.*1 patients"),
        ([0, 0, 0, 0, 1, 1], [0, 1, 2, 3, 4, 4], "two classes to train on.*got one in fold"),
    ],
)
def test_folds_that_cannot_be_are_refused_without_a_range_that_is_empty(classes, patients, said):
    with pytest.raises(UserError, match=f"--folds.*{said}"):
        folds(np.array(classes), np.array(patients), 2, 0, 0.0)


def test_few_patients_of_a_class_still_give_a_val_part():
    """Ten parts of nine patients, or of two inputs of a class, cannot be: val takes more."""
    patients = np.array([f"P{i}" for i in range(9)])
    for split in folds(np.array([0, 0, 0, 0, 0, 0, 1, 1, 1]), patients, 3, 0, 0.1):
        assert {"train", "val", "test"} == set(split)


def test_val_is_held_out_by_patient_where_the_file_has_none(tmp_path):
    rows = [{"id": f"i{i}", "who": f"P{i // 4}", "y": i % 2, "part": "train" if i < 80 else "test"} for i in range(120)]
    pd.DataFrame(rows).to_csv(tmp_path / "l.csv", index=False)
    columns = LabelColumns(tmp_path / "l.csv", ("y",), "who", split="part")
    labelled = read_labels(columns, [f"i{i}" for i in range(120)])
    split, words = divide(labelled.split, labelled.patients, SplitOptions(val_fraction=0.2))
    assert {part: int((split == part).sum()) for part in ("train", "val", "test")} == {
        "train": 64,
        "val": 16,
        "test": 40,
    }
    assert "20% of the training patients" in words
