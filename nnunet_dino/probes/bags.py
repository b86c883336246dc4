"""Bags of instances: from a store, or from a file of arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from nnunet_dino._errors import UserError
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.labels import Labelled

MAX_CACHED_BYTES = 4 << 30


class StoreBags(Sequence):
    """The bags of a store, each ``n e``, read when they are wanted; kept if all fit into 4 GiB.

    Args:
        store: With features of slices or tiles.
        ids: Which bags.
        features: Which features.
    """

    def __init__(self, store: FeatureStore, ids: Sequence[str], features: str) -> None:
        self._store, self._ids, self._features = store, list(ids), features
        self.width = len(self._read(0)[0])
        rows = store.good.set_index("id").loc[self._ids]
        fits = float(rows["num_instances"].sum()) * self.width * 4 < MAX_CACHED_BYTES
        self._get = lru_cache(maxsize=None if fits else 1)(self._read)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, position: int) -> np.ndarray:
        return self._get(position)

    def _read(self, position: int) -> np.ndarray:
        return self._store.bags(self._features, [self._ids[position]])[0].features


class ArrayBags(Sequence):
    """Bags that lie one after the other in one array.

    Args:
        instances: ``N e``.
        offsets: Where every bag begins, and at last the end, ``bags + 1``.
    """

    def __init__(self, instances: np.ndarray, offsets: np.ndarray) -> None:
        self._instances, self._offsets = instances, offsets
        self.width = instances.shape[1]

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, position: int) -> np.ndarray:
        return self._instances[self._offsets[position] : self._offsets[position + 1]]


def read_arrays(file: Path) -> tuple[ArrayBags, Labelled]:
    """Reads an ``.npz`` file with ``instances`` (N, e), ``offsets`` (bags + 1) and ``labels`` (bags, 0 or 1).

    Every bag counts as a patient of its own, unless the file also holds ``patients``.

    Raises:
        UserError: The file is not there, or its arrays do not fit together, are not finite, or leave a bag empty.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"required a store, or an .npz file of bags · got {file}: {' '.join(str(error).split())[:150]}"
        ) from error
    if missing := [name for name in ("instances", "offsets", "labels") if name not in found]:
        raise UserError(f"{file}: required arrays instances, offsets and labels · got {', '.join(found)}, no {missing[0]}")
    instances, offsets, labels = found["instances"], found["offsets"].astype(np.int64), found["labels"]
    patients = found.get("patients", np.arange(len(labels))).astype(str)
    if instances.ndim != 2 or offsets.shape != (len(labels) + 1,) or (offsets[0], offsets[-1]) != (0, len(instances)):
        raise UserError(
            f"{file}: required instances (N, e), offsets from 0 to N (bags + 1) and labels (bags) · got shapes "
            f"{instances.shape}, {offsets.shape} and {labels.shape}, offsets from {offsets[:1]} to {offsets[-1:]}"
        )
    if (np.diff(offsets) < 1).any():
        raise UserError(
            f"{file}: required at least one instance in every bag · got none in bag {int((np.diff(offsets) < 1).argmax())}"
        )
    finite = np.isfinite(instances).all(1)
    if not finite.all():
        bag = int(np.searchsorted(offsets, (~finite).argmax(), side="right")) - 1
        raise UserError(f"{file}: required finite instances · got NaN or infinity in bag {bag}")
    if odd := sorted(set(labels.tolist()) - {0, 1}):
        raise UserError(f"{file}: required labels 0 and 1 · got {odd[0]}")
    labelled = Labelled(
        ids=[f"bag {number}" for number in range(len(labels))],
        patients=patients,
        names=(file.stem,),
        targets=labels.astype(np.float32)[:, None],
        is_exclusive=False,
        split=None,
    )
    return ArrayBags(instances.astype(np.float32), offsets), labelled
