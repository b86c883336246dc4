"""Writes phantoms as an nnU-Net data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_dino.demo.phantom import LABELS, SHAPE, SPACING_MM, make_phantom

FILE_ENDING = ".nii.gz"


def case_name(index: int) -> str:
    """Returns the name of a case: ``phantom_007``."""
    return f"phantom_{index:03d}"


def write_dataset(
    folder: Path,
    num_training: int,
    num_test: int,
    seed: int = 0,
    shape: tuple[int, int, int] = SHAPE,
    spacing_mm: tuple[float, float, float] = SPACING_MM,
) -> list[str]:
    """Writes ``imagesTr labelsTr imagesTs labelsTs dataset.json``.

    Args:
        folder: ``…/nnUNet_raw/DatasetXXX_NAME``.
        num_training: Cases to train and validate with.
        num_test: Further cases; nnU-Net never sees their labels.
        seed: Of the phantoms.
        shape: Voxels along ``d h w``.
        spacing_mm: Size of a voxel along ``d h w``.

    Returns:
        The names of all cases.
    """
    for index in range(num_training + num_test):
        phantom, part = make_phantom(seed, index, shape, spacing_mm), "Tr" if index < num_training else "Ts"
        write_volume(phantom.image_hu, spacing_mm, folder / f"images{part}" / f"{case_name(index)}_0000{FILE_ENDING}")
        write_volume(phantom.labels, spacing_mm, folder / f"labels{part}" / f"{case_name(index)}{FILE_ENDING}")
    description = {
        "name": "Phantom",
        "description": "Simulated CT: four organs of equal mean intensity that only shape and texture tell apart",
        "channel_names": {"0": "CT"},
        "labels": LABELS,
        "numTraining": num_training,
        "file_ending": FILE_ENDING,
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return [case_name(index) for index in range(num_training + num_test)]


def write_volume(array: NDArray, spacing_mm: tuple[float, float, float], file: Path) -> None:
    """Writes an array ``d h w`` as axial slices, ``d`` towards the head, with the world's origin in its centre.

    Raises:
        OSError: The file cannot be written, for instance because the disk is full.
    """
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm[::-1])  # SimpleITK counts axes from the fastest one: w h d
    image.SetOrigin([-spacing * (size - 1) / 2 for spacing, size in zip(spacing_mm[::-1], np.shape(array)[::-1], strict=True)])
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        sitk.WriteImage(image, str(file), useCompression=True)
    except RuntimeError as error:
        raise OSError(f"{file}: {' '.join(str(error).split())[-160:]}") from error
