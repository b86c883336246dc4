"""Turns volumes with neuron ids into a data set of nnU-Net."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import generate_binary_structure, label

from nnunet_dino._errors import UserError, nearest
from nnunet_dino._nnunet_folders import require_writable
from nnunet_dino.em.affinities import MAX_ID
from nnunet_dino.em.agglomeration import renumbered
from nnunet_dino.em.published import SPLITS
from nnunet_dino.em.volumes import IMAGE_KEYS, LABEL_KEYS, read_volume

VALIDATION_SHARE = 0.2
Sections = tuple[int, int]


@dataclass(frozen=True)
class Conversion:
    """What is to be converted, and how.

    Attributes:
        images: Volumes: HDF5 files, TIFF stacks, folders of sections.
        labels: Neuron ids of each; empty if the HDF5 files of the images hold them.
        number: Of the data set.
        name: Of the data set.
        split: Key of :data:`SPLITS` for all volumes, or one for each; empty if ``train`` and ``test`` say it.
        train: First section to train on and the one after the last; None for all that are not ``test``.
        test: Likewise for tests; None for none.
        validation: How many of the last training sections validate fold 0; None takes a fifth of them.
        spacing_nm: Voxel size, ``d h w``; None if the file or the split says it.
        image_key: Data set in HDF5 files; None looks for the usual ones.
        labels_key: Likewise.
        has_components: Ids are the connected components of the labels in every section, for labels of membranes.
    """

    images: Sequence[Path]
    labels: Sequence[Path]
    number: int
    name: str
    split: Sequence[str] = ()
    train: Sections | None = None
    test: Sections | None = None
    validation: int | None = None
    spacing_nm: Sequence[float] | None = None
    image_key: str | None = None
    labels_key: str | None = None
    has_components: bool = False


@dataclass(frozen=True)
class _Volume:
    name: str
    image: NDArray[Any]
    ids: NDArray[Any]
    spacing_nm: list[float]
    train: Sections | None
    test: Sections | None


def convert(asked: Conversion, tell: Callable[[str], object] = print) -> Path:
    """Writes the data set and returns its folder in ``nnUNet_raw``.

    Every volume becomes up to three cases: ``NAME_train`` and ``NAME_val`` in ``imagesTr``, which fold 0 trains on and
    validates on, and ``NAME_test`` in ``imagesTs`` with its truth in ``labelsTs``. Files are TIFF with the voxel size **in nm**
    beside it; nnU-Net calls it mm, and only its ratios matter.

    Raises:
        UserError: A volume cannot be read or is not as the split says; sections are not there; the labels hold no neurons, or
            more in one case than nnU-Net can store; or the data set exists. Nothing is written then.
    """
    raw = require_writable("nnUNet_raw")
    if not 0 < asked.number < 1000 or not asked.name.isidentifier():
        raise UserError(f"data set: required a number from 1 to 999 and a name of letters · got {asked.number}, {asked.name!r}")
    target = raw / f"Dataset{asked.number:03d}_{asked.name}"
    if taken := sorted(raw.glob(f"Dataset{asked.number:03d}_*")):
        raise UserError(f"-d: required a number that is free · got {asked.number}, which {taken[0]} has · take another")
    if asked.labels and len(asked.labels) != len(asked.images):
        raise UserError(
            f"--labels: required one for every volume · got {len(asked.labels)} for {len(asked.images)} · give as many"
        )
    if len(asked.split) not in (0, 1, len(asked.images)):
        raise UserError(
            f"--split: required one, or one for every volume · got {len(asked.split)} for {len(asked.images)} · give as many"
        )
    cases = [case for place in range(len(asked.images)) for case in _cases(_read(asked, place), asked.validation)]
    names = [case[0] for case in cases]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"volumes: required different names · got two that give case {repeated} · rename one")
    if not any(part == "Tr" for _, part, *_ in cases):
        raise UserError("sections: required some to train on · got none · give --train FIRST:AFTER, or another volume as well")
    unfinished = raw / f".{target.name}.{os.getpid()}"
    try:
        _write(unfinished, cases)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for name, part, image, ids, spacing in cases:
        tell(f"images{part}/{name}: {_by(image.shape)} voxels of {_by(spacing)} nm, {len(np.unique(ids[ids > 0]))} neurons")
    return target


def _read(asked: Conversion, place: int) -> _Volume:
    path = asked.images[place]
    image, of_file = read_volume(path, asked.image_key, IMAGE_KEYS)
    ids, _ = read_volume(asked.labels[place] if asked.labels else path, asked.labels_key, LABEL_KEYS)
    if image.shape != ids.shape:
        raise UserError(f"{path}: required labels of the image's shape {image.shape} · got {ids.shape} · check --labels")
    if not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"{path}: required labels of whole numbers · got {ids.dtype} · check --labels and --labels-key")
    if asked.has_components:
        ids = _components(ids)
    if len(np.unique(ids[ids > 0])) < 2:
        raise UserError(
            f"{path}: required one id for every neuron · got labels without instances · give instance labels, or --components "
            "for labels of membranes"
        )
    train, test, of_split = _sections(asked, place, image.shape)
    spacing = asked.spacing_nm or of_file or of_split
    if spacing is None:
        raise UserError(f"{path}: required the voxel size · got none in the file · give it in nm: --spacing Z Y X")
    if len(spacing) != 3 or not all(0 < size < float("inf") for size in spacing):
        raise UserError(f"--spacing: required three numbers of nm above 0 · got {list(spacing)}")
    return _Volume(path.name.split(".")[0], image, ids, [float(size) for size in spacing], train, test)


def _components(labels: NDArray[Any]) -> NDArray[Any]:
    """Returns the components of what is not 0 in every section, 4-connected."""
    structure = generate_binary_structure(3, 1)
    structure[0] = structure[2] = False
    return label(labels > 0, structure)[0]


def _sections(
    asked: Conversion, place: int, shape: tuple[int, ...]
) -> tuple[Sections | None, Sections | None, tuple[float, ...] | None]:
    """Returns the sections to train on, those to test on, and the voxel size of the published split."""
    path = asked.images[place]
    if asked.split:
        name = asked.split[place if len(asked.split) > 1 else 0]
        if name not in SPLITS:
            raise UserError(f"--split: required one of {', '.join(SPLITS)} · got {name!r}{nearest(name, SPLITS)}")
        split = SPLITS[name]
        if tuple(shape) != split.shape:
            raise UserError(
                f"{path}: required the {_by(split.shape)} voxels that the split {name} is of · got {_by(shape)} · give "
                "--train and --test instead"
            )
        return split.train, split.test, split.spacing_nm
    train, test = asked.train, asked.test
    for flag, part in (("--train", train), ("--test", test)):
        if part and not 0 <= part[0] < part[1] <= shape[0]:
            raise UserError(f"{flag}: required sections from 0 to {shape[0]} of {path} · got {part[0]}:{part[1]}")
    if train is None and test is None:
        train = (0, shape[0])
    elif train is None and test is not None:
        train = (0, test[0]) if test[0] else ((test[1], shape[0]) if test[1] < shape[0] else None)
    if train and test and max(train[0], test[0]) < min(train[1], test[1]):
        raise UserError(f"--train, --test: required different sections · got {train[0]}:{train[1]} and {test[0]}:{test[1]}")
    return train, test, None


_Case = tuple[str, str, NDArray[Any], NDArray[Any], list[float]]


def _cases(volume: _Volume, validation: int | None) -> list[_Case]:
    """Returns the cases of a volume: name, ``Tr`` or ``Ts``, image, ids, voxel size."""
    parts: list[tuple[str, str, Sections]] = []
    if volume.train:
        first, after = volume.train
        held_out = max(1, round((after - first) * VALIDATION_SHARE)) if validation is None else validation
        if not 0 < held_out < after - first:
            raise UserError(f"--validation: required fewer than the {after - first} training sections · got {held_out}")
        parts += [("train", "Tr", (first, after - held_out)), ("val", "Tr", (after - held_out, after))]
    parts += [("test", "Ts", volume.test)] if volume.test else []
    return [
        (
            f"{volume.name}_{what}",
            part,
            volume.image[first:after],
            _fitting(volume.ids[first:after], f"{volume.name}_{what}"),
            volume.spacing_nm,
        )
        for what, part, (first, after) in parts
    ]


def _fitting(ids: NDArray[Any], name: str) -> NDArray[np.uint16]:
    """Returns the ids with new numbers from 1, 0 and CREMI's markers of nothing as 0."""
    is_neuron = ids > 0
    if np.issubdtype(ids.dtype, np.unsignedinteger):
        is_neuron &= ids < np.iinfo(ids.dtype).max - 2  # CREMI: the highest numbers stand for background and unknown
    found = renumbered(np.where(is_neuron, ids, 0))
    if int(found.max()) > MAX_ID:
        raise UserError(
            f"{name}: required at most {MAX_ID} neurons in a case, which nnU-Net can store · got {found.max()} · convert fewer "
            "sections at a time"
        )
    return found.astype(np.uint16)


def _write(folder: Path, cases: Sequence[_Case]) -> None:
    import tifffile

    for name, part, image, ids, spacing in cases:
        for kind, volume, ending in (("images", image, "_0000"), ("labels", ids, "")):
            target = folder / f"{kind}{part}"
            target.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(target / f"{name}{ending}.tif", volume, photometric="minisblack", compression="zlib")
            (target / f"{name}.json").write_text(json.dumps({"spacing": spacing}))
    training = [name for name, part, *_ in cases if part == "Tr"]
    description = {
        "channel_names": {"0": "EM"},
        "labels": {"background": 0, "neuron": 1},
        "numTraining": len(training),
        "file_ending": ".tif",
        "overwrite_image_reader_writer": "Tiff3DIO",
        "description": "Labels hold the ids of neurons. Spacing is in nm.",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")
    split = {part: [name for name in training if name.endswith(f"_{part}")] for part in ("train", "val")}
    (folder / "splits_final.json").write_text(json.dumps([split], indent=2) + "\n")


def _by(values: Sequence[float]) -> str:
    return " × ".join(f"{value:g}" for value in values)
