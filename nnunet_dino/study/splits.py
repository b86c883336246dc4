"""Splits into folds: the user's or nnU-Net's, and what is odd about them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import read_json, require_folder

SPLITS = "splits_final.json"
NUM_FOLDS = 5

# Training cases of the ten tasks, by the end of nnU-Net's names of them.
DECATHLON = {
    "BrainTumour": 484,
    "Heart": 20,
    "Liver": 131,
    "Hippocampus": 260,
    "Prostate": 32,
    "Lung": 63,
    "Pancreas": 281,
    "HepaticVessel": 303,
    "Spleen": 41,
    "Colon": 126,
}

PATIENT = re.compile(r"(PETCT|fdg|psma)_[0-9a-f]+(?=_)")  # AutoPET's cases: a patient, then the day of the study


def splits_of(folder: Path) -> list[dict[str, list[str]]]:
    """Returns the splits of a preprocessed data set: the user's file, else those that nnU-Net would make. Nothing is written.

    Source:
        nnU-Net 2: ``generate_crossval_split`` of the sorted names, five folds, seed 12345.
    """
    if (folder / SPLITS).is_file():
        return read_json(folder / SPLITS, list)
    from sklearn.model_selection import KFold

    description = read_json(folder / "dataset.json", dict)
    ending = description["file_ending"]
    names = sorted(file.name.removesuffix(ending) for file in (folder / "gt_segmentations").glob(f"*{ending}"))
    if len(names) < NUM_FOLDS:
        raise UserError(
            f"{folder.name}: required at least {NUM_FOLDS} training cases to split · got {len(names)} · write {SPLITS}"
        )
    folds = KFold(NUM_FOLDS, shuffle=True, random_state=12345).split(names)
    return [{"train": [names[i] for i in train], "val": [names[i] for i in val]} for train, val in folds]


def num_training_cases(dataset: str) -> int:
    """Returns the number of training cases of the first fold."""
    return len(splits_of(require_folder("nnUNet_preprocessed") / dataset)[0]["train"])


def departures(folder: Path) -> list[str]:
    """Returns what is odd about the splits of a preprocessed data set, by its name and those of its cases.

    Five folds of a task of the Decathlon have given sizes; the studies of one of AutoPET's patients are not split.
    """
    return [*_other_sizes(folder), *_torn_patients(folder)]


def _other_sizes(folder: Path) -> list[str]:
    task = folder.name.rpartition("_")[2]
    if task not in DECATHLON:
        return []
    expected = [len(part) for part in np.array_split(np.arange(DECATHLON[task]), NUM_FOLDS)]
    found = [len(split["val"]) for split in splits_of(folder)]
    if found == expected:
        return []
    return [
        f"{folder.name}: folds of {', '.join(map(str, found))} cases; five folds of the Decathlon's {DECATHLON[task]} cases "
        f"have {', '.join(map(str, expected))}."
    ]


def _torn_patients(folder: Path) -> list[str]:
    torn: set[str] = set()
    if not (folder / SPLITS).is_file():  # nothing has been trained
        return []
    for split in splits_of(folder):
        train, val = ({found[0] for case in split[part] if (found := PATIENT.match(case))} for part in ("train", "val"))
        torn |= train & val
    if not torn:
        return []
    return [
        f"{folder.name}: {len(torn)} patients, among them {min(torn)}, have studies in the training and the validation cases "
        f"of a fold; split by patient in {SPLITS}."
    ]
