"""Training with fewer cases: nested subsets of each fold, in split files of their own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_dino._errors import UserError
from nnunet_dino._files import write_atomically
from nnunet_dino._nnunet_folders import require_folder
from nnunet_dino.study.splits import SPLITS, splits_of

if TYPE_CHECKING:
    from nnunet_dino.study.jobs import Jobs, Subset


def choose(cases: Sequence[str], number: int, dataset: str, fold: int, seed: int) -> list[str]:
    """Returns ``number`` of the training cases of a fold, sorted; those of a smaller number are among those of a larger one."""
    digest = hashlib.sha256(f"{dataset} {fold} {seed}".encode()).digest()
    order = np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(len(cases))
    return sorted(sorted(cases)[place] for place in order[:number])


def write_subset(jobs: Jobs, dataset: str, subset: Subset, folder: Path) -> None:
    """Makes the folder of preprocessed data of a subset: links to the user's, and a split file of its own.

    For all cases nnU-Net's own split file is written where there is none, as its first training would: trainings that start
    together would write it at once.

    Raises:
        UserError: A fold is not in the splits, or has fewer training cases than asked for.
    """
    source = require_folder("nnUNet_preprocessed") / dataset
    splits = splits_of(source)
    folds = jobs.study.folds
    if odd := [fold for fold in folds if fold >= len(splits)]:
        raise UserError(f"folds: required those in {source / SPLITS} (0 to {len(splits) - 1}) · got {odd[0]} · leave it out")
    if subset.name == "all":
        if not (source / SPLITS).is_file():
            write_atomically(source / SPLITS, json.dumps(splits, indent=4))
        return
    assert isinstance(subset.cases, int) and subset.seed is not None
    chosen = []
    for fold, split in enumerate(splits):
        if fold in folds and len(split["train"]) < subset.cases:
            raise UserError(
                f"cases: required at most the {len(split['train'])} training cases of fold {fold} of {dataset} · got "
                f"{subset.cases} · take fewer, or all"
            )
        chosen.append({"train": choose(split["train"], subset.cases, dataset, fold, subset.seed), "val": split["val"]})
    target = subset.root("nnUNet_preprocessed", folder) / dataset
    target.mkdir(parents=True, exist_ok=True)
    (subset.root("nnUNet_results", folder)).mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        link = target / entry.name
        if entry.name != SPLITS and not link.is_symlink():
            os.symlink(entry.absolute(), link, entry.is_dir())
    write_atomically(target / SPLITS, json.dumps(chosen, indent=4))
