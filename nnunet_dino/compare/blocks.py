"""Blocks of volumes as cases of their own, so that few large volumes give enough pairs to compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from nnunet_dino._errors import UserError
from nnunet_dino.compare.case_names import block_case, volume_of
from nnunet_dino.compare.records import Entry
from nnunet_dino.em.score_folder import TITLES, read_ids
from nnunet_dino.em.scores import score_neurons


def by_block(entry: Entry, references: Mapping[str, Path], block: Sequence[int]) -> Entry:
    """Scores the neurons of a result anew, block by block.

    Args:
        entry: The result; its cases are volumes.
        references: True ids of every volume.
        block: Voxels of a block, ``d h w``; the last ones along an axis may be smaller. Blocks without a true neuron are left
            out.

    Raises:
        UserError: The result is not of neurons, a file is missing, or the shapes differ.
    """
    if entry.kind.headline is None:
        raise UserError(f"--block: required results of neurons · got Dice of labels in {entry.name} · leave it out")
    if min(block) < 1:
        raise UserError(f"--block: required three numbers of voxels from 1 · got {' '.join(map(str, block))}")
    rows = {}
    for volume in tqdm(entry.cases, desc=f"Blocks of {entry.name}", unit="volume", disable=None, leave=False):
        prediction, reference = entry.prediction(volume), references.get(volume)
        if prediction is None or reference is None:
            lost = "prediction" if prediction is None else "true ids"
            raise UserError(
                f"--block: required predicted and true ids of every volume · got no {lost} of {volume} for {entry.name} · "
                "validate again (nnUNetv2_train … --val), or give --labels-folder for folders"
            )
        found, truth = read_ids(prediction), read_ids(reference)
        if found.shape != truth.shape:
            raise UserError(f"{prediction}: required ids of shape {truth.shape} · got {found.shape} · predict it again")
        for place in _places(truth.shape, block):
            if truth[place].any():
                rows[block_case(volume, place)] = score_neurons(truth[place], found[place]).as_dict()
    table = pd.DataFrame.from_dict(rows, orient="index", dtype=float)[list(TITLES)].rename_axis("case").sort_index()
    fold_of = {case: entry.fold_of[volume_of(case)] for case in rows if volume_of(case) in entry.fold_of}
    note = f"{entry.name}: neurons were scored in blocks of {' × '.join(map(str, block))} voxels, each a case."
    return replace(entry, dice=table, fold_of=fold_of, notes=(*entry.notes, note))


def _places(shape: Sequence[int], block: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    axes = [
        [slice(first, min(first + edge, size)) for first in range(0, size, edge)]
        for size, edge in zip(shape, block, strict=True)
    ]
    yield from product(*axes)
