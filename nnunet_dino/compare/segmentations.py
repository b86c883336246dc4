"""Dice of predicted segmentations against references, by nnU-Net's own code, once both are whole and on one grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk

from nnunet_dino._errors import UserError
from nnunet_dino._grids import MM, Grid, difference, itk_reason, unit_of
from nnunet_dino.compare.summary_json import label_key

WITH_GEOMETRY = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")


def dice_of(labels_folder: Path, description: dict[str, Any]) -> Callable[[Path], dict[str, float]]:
    """Returns a function that computes the Dice of every label of one predicted file, by the reference of the same name.

    Raises:
        UserError: nnU-Net cannot use the description. The function raises it for files that are damaged or do not fit.
    """
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    try:
        manager = LabelManager(description["labels"], description.get("regions_class_order"))
        complete = {"file_ending": ".nii.gz"} | description
        reader = determine_reader_writer_from_dataset_json(complete, verbose=False)()
    except Exception as error:  # nnU-Net raises whatever its code runs into
        raise UserError(f"dataset.json: required one as nnU-Net wants it · got {error} · correct it") from error
    wanted = manager.foreground_regions if manager.has_regions else manager.foreground_labels

    allowed = {0, *manager.all_labels, *([manager.ignore_label] if manager.has_ignore_label else [])}

    def dice(file: Path) -> dict[str, float]:
        reference = labels_folder / file.name
        for path in (file, reference):
            check_whole(path)
        check_grid(file, reference)
        for path in (file, reference):
            _check_values(path, reader, allowed)
        try:
            metrics = compute_metrics(str(reference), str(file), reader, wanted, manager.ignore_label)["metrics"]
        except Exception as error:  # as do the readers of images
            raise UserError(
                f"required readable segmentations of the same shape · got {file} and {reference}: {itk_reason(error)} "
                "· predict this case again"
            ) from error
        return {label_key(label): float(values["Dice"]) for label, values in metrics.items()}

    return dice


def check_whole(file: Path) -> None:
    """Refuses a damaged file.

    Raises:
        UserError: It cannot be read to its end.
    """
    from nnunet_dino.features import nifti, volume  # imports torch

    try:
        if file.name.endswith(nifti.ENDINGS):
            nifti.check_nifti(str(file))
        elif file.name.endswith(volume.OF_ITK):
            volume.read_by_itk(str(file))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"required a readable segmentation · got {file}: {itk_reason(error).split(' · ')[0]} · predict or get it again"
        ) from error


def _check_values(file: Path, reader: Any, allowed: set[int]) -> None:
    """Refuses values that are no labels, with the mapping that would make them some."""
    try:
        found = np.sort(pd.unique(reader.read_seg(str(file))[0].ravel()))
    except Exception:  # told better where Dice is computed
        return
    odd = [value for value in found.tolist() if value not in allowed]
    if not odd:
        return
    names, shown = ", ".join(map(str, sorted(allowed))), ", ".join(f"{value:g}" for value in odd[:5])
    hint = _mapping(found.tolist(), allowed)
    raise UserError(
        f"required labels of dataset.json ({names}) · got {file} with {shown} · {f'{hint}, and ' if hint else ''}save it again"
    )


def _mapping(found: list[float], allowed: set[int]) -> str:
    """Returns in words what would make labels of values; nothing where that cannot be guessed."""
    rounded = [round(value) for value in found]
    if max(abs(value - whole) for value, whole in zip(found, rounded, strict=True)) < 0.1 and {*rounded} <= allowed:
        return "round them"
    if max(found) <= 0 and {-value for value in found} <= allowed:
        return "take them without their sign"
    labels = sorted(allowed)
    if found == [label + found[0] - labels[0] for label in labels] or (found != rounded and len(found) == len(labels)):
        pairs = list(zip(found, labels, strict=True))
    else:  # values that are labels stay
        unused = sorted(allowed - {*found})
        pairs = list(zip([value for value in found if value not in allowed], unused, strict=False))
        if {*found} - allowed - {value for value, _ in pairs}:
            return ""
    return f"map {', '.join(f'{value:g} to {label}' for value, label in pairs)} if that is meant"


def check_grid(file: Path, reference: Path) -> None:
    """Refuses files whose voxels lie elsewhere; formats without geometry, and headers that only nnU-Net reads, pass."""
    if odd := _other_grid(file, reference):
        raise UserError(
            f"required segmentations on one grid · got {file} with {odd[0]} and {reference} with {odd[1]} · with "
            "--labels-folder --resample takes each to the grid of its reference; or predict this case again"
        )


def take_to_grid(file: Path, reference: Path, folder: Path) -> bool:
    """Puts a segmentation into ``folder`` on the grid of its reference: a link, or every voxel with the nearest one's label.

    Voxels of the reference that lie outside of the segmentation become background.

    Returns:
        Whether it lay on another grid.

    Raises:
        UserError: It is damaged, or has other axes.
    """
    target, odd = folder / file.name, _other_grid(file, reference)
    if not odd:
        target.symlink_to(file.absolute())
        return False
    for path in (file, reference):
        check_whole(path)
    try:
        moving, grid = sitk.ReadImage(str(file)), sitk.ReadImage(str(reference))
        ratio = mm_of(file, reference) / mm_of(reference)  # so that both count in the unit of the reference
        moving.SetSpacing([ratio * length for length in moving.GetSpacing()])
        moving.SetOrigin([ratio * length for length in moving.GetOrigin()])
        sitk.WriteImage(sitk.Resample(moving, grid, sitk.Transform(), sitk.sitkNearestNeighbor), str(target))
    except RuntimeError as error:
        raise UserError(
            f"--resample: required segmentations with the same axes · got {file} with {odd[0]} and {reference} with {odd[1]} · "
            "predict this case again"
        ) from error
    return True


def _other_grid(file: Path, reference: Path) -> tuple[str, str] | None:
    """Returns what differs first between the grids of two files, as both have it; None if they are one."""
    if not file.name.endswith(WITH_GEOMETRY):
        return None
    try:
        ours, theirs = _grid(file, mm_of(file, reference)), _grid(reference, mm_of(reference))
    except (OSError, RuntimeError):
        return None
    found = difference(ours, theirs)
    return (f"{found[0]} {found[1]}", found[2]) if found else None


def mm_of(file: Path, reference: Path | None = None) -> float:
    """Returns the length in mm that a file counts in: that of its reference if it says none, as nnU-Net's predictions."""
    unit = unit_of(file) or (unit_of(reference) if reference else "")
    return MM.get(unit, 1.0)


def _grid(file: Path, mm: float) -> Grid:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    return Grid.of(reader, mm)
