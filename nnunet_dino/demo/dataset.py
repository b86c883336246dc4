"""What nnU-Net is given: phantoms as a data set, and a configuration small enough to train in minutes on two cores."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_dino.demo.phantom import LABELS, SHAPE, SPACING_MM, Shape, Spacing, make_phantom

FILE_ENDING = ".nii.gz"
BASE = "3d_fullres"
CONFIGURATION = "3d_demo"
SMALLER = 4
PATCH_SIZE = (12, 48, 48)


def case_name(index: int) -> str:
    return f"phantom_{index:03d}"


def write_dataset(
    folder: Path, num_training: int, num_test: int, seed: int = 0, shape: Shape = SHAPE, spacing_mm: Spacing = SPACING_MM
) -> list[str]:
    """Writes ``imagesTr labelsTr imagesTs labelsTs dataset.json`` of phantoms, and returns the names of all cases.

    Args:
        folder: ``…/nnUNet_raw/DatasetXXX_NAME``.
        num_training: Cases to train and validate with.
        num_test: Further cases; nnU-Net never sees their labels.
        seed: See :func:`make_phantom`, as for shape and spacing.
        shape: Voxels along ``d h w``.
        spacing_mm: Size of a voxel along ``d h w``.
    """
    names = [case_name(index) for index in range(num_training + num_test)]
    for index, name in enumerate(names):
        phantom, part = make_phantom(seed, index, shape, spacing_mm), "Tr" if index < num_training else "Ts"
        write_volume(phantom.image_hu, spacing_mm, folder / f"images{part}" / f"{name}_0000{FILE_ENDING}")
        write_volume(phantom.labels, spacing_mm, folder / f"labels{part}" / f"{name}{FILE_ENDING}")
    description = {
        "name": "Phantom",
        "description": "Simulated CT: four organs of equal mean intensity that only shape and texture tell apart",
        "channel_names": {"0": "CT"},
        "labels": LABELS,
        "numTraining": num_training,
        "file_ending": FILE_ENDING,
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return names


def write_volume(array: NDArray, spacing_mm: Spacing, file: Path) -> None:
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


def add_demo_configuration(plans_file: Path) -> None:
    """Adds ``3d_demo`` to plans: ``3d_fullres`` with a quarter of the features and a smaller patch, on the same data.

    The patch that nnU-Net plans holds a whole phantom, so that rotated patches would mostly show its padding.
    """
    plans = json.loads(plans_file.read_text(encoding="utf-8"))
    architecture = copy.deepcopy(plans["configurations"][BASE]["architecture"])
    arguments = architecture["arch_kwargs"]
    arguments["features_per_stage"] = [features // SMALLER for features in arguments["features_per_stage"]]
    demo = {"inherits_from": BASE, "patch_size": list(PATCH_SIZE), "architecture": architecture}
    plans["configurations"][CONFIGURATION] = demo
    plans_file.write_text(json.dumps(plans, indent=4) + "\n", encoding="utf-8")
