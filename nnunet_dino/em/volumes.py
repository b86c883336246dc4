"""Reads volumes of electron microscopy and of neuron ids: HDF5, TIFF stacks, folders of sections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_dino._errors import UserError
from nnunet_dino._packages import require

HDF5 = (".h5", ".hdf", ".hdf5")
TIFF = (".tif", ".tiff")
SECTIONS = (*TIFF, ".png")
# Where CREMI, the FIB-25 sample and AC3/4 keep images and ids.
IMAGE_KEYS = ("volumes/raw", "raw", "main", "stack")
LABEL_KEYS = ("volumes/labels/neuron_ids", "neuron_ids", "labels", "main", "stack")


def read_volume(path: Path, key: str | None, usual_keys: tuple[str, ...]) -> tuple[NDArray[Any], list[float] | None]:
    """Reads a volume.

    Args:
        path: HDF5 file, TIFF stack, or folder with one picture per section, in the order of the numbers in their names.
        key: Data set of an HDF5 file; None takes the first of ``usual_keys`` that it has.
        usual_keys: See ``key``.

    Returns:
        The volume ``d h w``, and its voxel size in nm ``d h w`` if the file says it.

    Raises:
        UserError: The file is missing, cannot be read, or holds no volume.
    """
    if not path.exists():
        raise UserError(f"{path}: required a volume · it does not exist · check the path")
    spacing = None
    try:
        if path.suffix.lower() in HDF5:
            volume, spacing = _read_hdf5(path, key, usual_keys)
        elif path.is_dir():
            volume = _read_sections(path)
        elif path.suffix.lower() in TIFF:
            import tifffile

            volume = tifffile.imread(path)
        else:
            raise UserError(f"{path}: required HDF5, TIFF or a folder of sections · got {path.suffix or 'no ending'}")
    except UserError:
        raise
    except Exception as error:  # every reader has errors of its own
        raise UserError(
            f"{path}: required a file that can be read · got {type(error).__name__}: {error} · copy it anew"
        ) from error
    if volume.ndim != 3 or 1 in volume.shape:
        raise UserError(f"{path}: required a volume of sections (3 axes) · got shape {volume.shape} · stack the sections")
    return volume, spacing


def _read_hdf5(path: Path, key: str | None, usual_keys: tuple[str, ...]) -> tuple[NDArray[Any], list[float] | None]:
    h5py = require("h5py", "em", "neurons")
    with h5py.File(path, "r") as file:
        there: list[str] = []
        file.visititems(lambda name, item: there.append(name) if isinstance(item, h5py.Dataset) else None)
        found = key or next((name for name in usual_keys if name in there), None)
        if found not in there:
            raise UserError(
                f"{path}: required data set {key or ' or '.join(usual_keys)} · got {', '.join(there) or 'none'} · name it with "
                "--image-key or --labels-key"
            )
        resolution = file[found].attrs.get("resolution")
        return file[found][:], None if resolution is None else [float(nm) for nm in resolution]


def _read_sections(folder: Path) -> NDArray[Any]:
    from PIL import Image

    files = [file for file in folder.iterdir() if file.suffix.lower() in SECTIONS]
    files.sort(key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)])
    if not files:
        raise UserError(f"{folder}: required sections ({', '.join(SECTIONS)}) · got none · check the path")
    return np.stack([np.asarray(Image.open(file)) for file in files])
