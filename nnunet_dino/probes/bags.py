"""Bags of instances: from a store, or from a file of arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunet_dino._errors import UserError
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.given import read_bag
from nnunet_dino.probes.labels import Labelled, no_split

MAX_BYTES_IN_MEMORY = 4 << 30


class ArrayBags(Sequence[np.ndarray]):
    """Bags that lie one after the other in one array.

    Args:
        instances: ``N e``.
        offsets: Where every bag begins, and at last the end, ``bags + 1``.
    """

    def __init__(self, instances: np.ndarray, offsets: np.ndarray) -> None:
        self._instances, self._offsets = instances, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, position):
        return self._instances[self._offsets[position] : self._offsets[position + 1]]


class LazyBags(Sequence[np.ndarray]):
    """Bags, each ``n e``, that are read when they are wanted: ``read`` takes one of ``names``."""

    def __init__(self, names: Sequence[Any], read: Callable[[Any], np.ndarray]) -> None:
        self._names, self._read = list(names), read

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, position):
        return self._read(self._names[position])


def bags_of(store: FeatureStore, ids: Sequence[str], features: str) -> Sequence[np.ndarray]:
    """Returns the bags of a store, in memory if all fit into 4 GiB.

    Raises:
        UserError: The store does not hold such features of single slices or tiles.
    """
    bags = LazyBags(ids, lambda name: store.bags(features, [name])[0].features)
    sizes = store.good.set_index("id").loc[list(ids), "num_instances"] if "num_instances" in store.good else pd.Series([0])
    if sizes.sum() * bags[0].shape[1] * np.float32().itemsize > MAX_BYTES_IN_MEMORY:
        return bags
    all_bags = [bag.features for bag in store.bags(features, ids)]
    return ArrayBags(np.concatenate(all_bags), np.cumsum([0, *map(len, all_bags)]))


def file_bags(files: Sequence[Path]) -> Sequence[np.ndarray]:
    """Returns the bags of h5 files, in memory if these are at most 4 GiB.

    Raises:
        UserError: A file is damaged, or features have different widths.
    """
    bags: list[np.ndarray] = []
    widths: dict[int, Path] = {}
    for file in files:
        bags.append(read_bag(file))
        widths.setdefault(bags[-1].shape[1], file)
        if sum(bag.nbytes for bag in bags) > MAX_BYTES_IN_MEMORY:
            return LazyBags(files, read_bag)
    if len(widths) > 1:
        got = ", ".join(f"{width} in {file.name}" for width, file in widths.items())
        raise UserError(f"{files[0].parent}: required features of one width · got {got} · keep one encoder's")
    return ArrayBags(np.concatenate(bags), np.cumsum([0, *map(len, bags)]))


def read_arrays(file: Path) -> tuple[ArrayBags, Labelled]:
    """Reads an ``.npz`` file with ``instances`` (N, e), ``offsets`` (bags + 1) and ``labels`` (bags, 0 or 1).

    Every bag counts as a patient of its own, unless the file also holds ``patients``.

    Raises:
        UserError: The file is not there, or its arrays do not fit together, are not finite, or leave a bag empty.
    """
    found = _loaded(file)
    if missing := [name for name in ("instances", "offsets", "labels") if name not in found]:
        got = ", ".join(found) or "none"
        raise UserError(f"{file}: required arrays instances, offsets and labels · got {got}, no {missing[0]}")
    for name, values in found.items():
        if name != "patients" and values.dtype.kind not in "biuf":
            raise UserError(f"{file}: required numbers in {name} · got an array of type {values.dtype}")
    instances, offsets, labels = found["instances"], found["offsets"], found["labels"]
    patients = found.get("patients", np.arange(labels.size))
    if instances.ndim != 2 or labels.ndim != 1 or offsets.shape != (len(labels) + 1,) or patients.shape != labels.shape:
        raise UserError(
            f"{file}: required instances (N, e), offsets (bags + 1), labels (bags) and, if any, patients (bags) · got shapes "
            f"{instances.shape}, {offsets.shape}, {labels.shape} and {patients.shape}"
        )
    if (offsets != np.round(offsets)).any() or (offsets[0], offsets[-1]) != (0, len(instances)):
        raise UserError(
            f"{file}: required whole offsets from 0 to the {len(instances)} instances · got {offsets[0]:g} to {offsets[-1]:g}"
        )
    if (np.diff(offsets.astype(np.int64)) < 1).any():
        bag = int((np.diff(offsets.astype(np.int64)) < 1).argmax())
        raise UserError(f"{file}: required at least one instance in every bag · got none in bag {bag}")
    with np.errstate(over="ignore"):
        instances, offsets = instances.astype(np.float32), offsets.astype(np.int64)
    finite = np.isfinite(instances).all(1)
    if not finite.all():
        bag = int(np.searchsorted(offsets, (~finite).argmax(), side="right")) - 1
        raise UserError(f"{file}: required finite instances · got NaN or infinity in bag {bag}")
    if odd := [label for label in labels.tolist() if label not in (0, 1)]:
        raise UserError(f"{file}: required labels 0 and 1 · got {odd[0]}")
    labelled = Labelled(
        ids=[f"bag {number}" for number in range(len(labels))],
        patients=patients.astype(str),
        names=(file.stem,),
        targets=labels.astype(np.float32)[:, None],
        is_exclusive=False,
        split=no_split(len(labels)),
    )
    return ArrayBags(instances, offsets), labelled


def _loaded(file: Path) -> dict[str, np.ndarray]:
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy and zipfile raise a dozen kinds for damaged files
        raise UserError(
            f"required a store, or an .npz file of bags · got {file}: {' '.join(str(error).split())[:150]}"
        ) from error
