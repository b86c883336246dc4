"""Unlabelled scans, read as nnU-Net read the images of a data set: one array per case, its axes in that data set's order."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_dino._errors import UserError
from nnunet_dino.features.inputs import VOLUME_ENDINGS, VOLUMES, find_items
from nnunet_dino.features.items import Item, Unreadable
from nnunet_dino.features.volume import read_volume

AS_SCANNERS_DO = "LPS"
CASES_TO_ASK = 20
SAME_MM = 1e-3


@dataclass(frozen=True)
class Scan:
    """One case: its name, and one input for every channel."""

    name: str
    channels: tuple[Item, ...]

    @property
    def sources(self) -> list[str]:
        """Paths, with the series where a folder holds several."""
        return [f"{item.path}#{item.series}" if item.series else item.path for item in self.channels]


def find_scans(folder: Path, num_channels: int) -> list[Scan]:
    """Finds NIfTI, NRRD and MetaImage files and DICOM series in a folder and its subfolders.

    Args:
        folder: The folder.
        num_channels: Of the data set that the scans are prepared like. Several are files ``CASE_0000…``, ``CASE_0001…`` as in
            nnU-Net's ``imagesTr``.

    Raises:
        UserError: There are none, a channel is missing, or two scans would have one name.
    """
    if not folder.is_dir():
        raise UserError(f"--images: required a folder of scans · got {folder}, which is none · check the path")
    _, items = find_items([str(folder)], VOLUMES)
    grouped: dict[str, dict[int, Item]] = defaultdict(dict)
    for item in items:
        name, channel = _name(item, folder, num_channels)
        if channel in grouped[name]:
            raise UserError(
                f"--images: required a name of its own for every scan · got {name!r} of {grouped[name][channel].path} and of "
                f"{item.path} · rename one"
            )
        grouped[name][channel] = item
    scans = []
    for name, channels in sorted(grouped.items()):
        if missing := [channel for channel in range(num_channels) if channel not in channels]:
            raise UserError(
                f"--images: required {num_channels} channels {name}_0000 to {name}_{num_channels - 1:04d} · got no "
                f"{name}_{missing[0]:04d} · add the file, or remove the others of this case"
            )
        scans.append(Scan(name, tuple(channels[channel] for channel in range(num_channels))))
    return scans


def _name(item: Item, folder: Path, num_channels: int) -> tuple[str, int]:
    """Returns the name of a scan's case, made of its path below the folder, and the number of its channel."""
    text = folder.absolute().name if item.id == "." else item.id
    ending = next((ending for ending in sorted(VOLUME_ENDINGS, key=len, reverse=True) if text.lower().endswith(ending)), "")
    text = re.sub(r"[^\w.-]+", "_", text.removeprefix("./")[: len(text) - len(ending)] if ending else text, flags=re.ASCII)
    found = re.fullmatch(r"(.+)_(\d{4})", text)
    channel = int(found[2]) if found and (num_channels > 1 or found[2] == "0000") else 0
    name = found[1] if found and (num_channels > 1 or found[2] == "0000") else text
    if num_channels > 1 and (not found or channel >= num_channels):
        raise UserError(
            f"--images: required files named CASE_0000 to CASE_{num_channels - 1:04d}, one a channel · got {item.path} · "
            "rename it"
        )
    if name.endswith("_seg"):
        raise UserError(f"--images: required scans, not segmentations · got {item.path} · remove or rename it")
    return name, channel


def orientation_of(folder: Path) -> tuple[str, str]:
    """Returns in which orientation the images of a preprocessed data set were read, and what must be known of it.

    nnU-Net keeps the axes of the file, so scans of another orientation would be cut into other slices.

    Args:
        folder: Its preprocessed cases, whose properties tell.

    Returns:
        For example ``LPS``: along the last axis to the left, along the middle one to the back, along the first one to the head.
    """
    from batchgenerators.utilities.file_and_folder_operations import load_pickle

    files = sorted(folder.glob("*.pkl"))
    chosen = files[:: max(1, len(files) // CASES_TO_ASK)]
    counts = Counter(filter(None, (_orientation(load_pickle(str(file))) for file in chosen)))
    if not counts:
        return AS_SCANNERS_DO, f"no case in {folder} says how it lay in its file; {AS_SCANNERS_DO} is taken, as scanners store"
    code = counts.most_common(1)[0][0]
    mixed = ", ".join(f"{count} {other}" for other, count in counts.most_common())
    return code, f"its images lie differently in their files ({mixed}); {code} is taken" if len(counts) > 1 else ""


def _orientation(properties: dict[str, Any]) -> str:
    if "sitk_stuff" in properties:
        direction = properties["sitk_stuff"]["direction"]
    elif "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        affine = np.array(stuff.get("reoriented_affine", stuff["original_affine"]), float)[:3, :3]
        direction = (np.diag([-1, -1, 1]) @ affine / np.linalg.norm(affine, axis=0)).ravel()
    else:
        return ""
    if len(direction) != 9:
        return ""
    return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines([float(value) for value in direction]))


def read_scan(scan: Scan, orientation: str) -> tuple[np.ndarray, list[float], list[str]]:
    """Reads a scan.

    Args:
        scan: The scan.
        orientation: See :func:`orientation_of`.

    Returns:
        ``c d h w``, float32; the distance of voxels along ``d h w`` in mm; and what was decided while reading.

    Raises:
        Unreadable: It is damaged, in colour, or its channels do not lie on one grid.
    """
    arrays: list[np.ndarray] = []
    spacings: list[list[float]] = []
    notes: list[str] = []
    for item in scan.channels:
        volume = read_volume(item)
        if volume.values.ndim != 3 or volume.is_inverted:
            raise Unreadable("required grey values of which high ones are bright, has others")
        values = volume.values.astype(np.float32)
        if volume.padding is not None:
            is_padding = (values >= volume.padding[0]) & (values <= volume.padding[1])
            if is_padding.any() and not is_padding.all():
                values[is_padding] = values[~is_padding].min()
        image = sitk.GetImageFromArray(values)
        image.SetSpacing(volume.spacing_mm[::-1])
        image = sitk.DICOMOrient(image, orientation)
        arrays.append(sitk.GetArrayFromImage(image))
        spacings.append(list(image.GetSpacing()[::-1]))
        notes += volume.notes
    _check_one_grid(arrays, spacings)
    return np.stack(arrays), spacings[0], notes


def _check_one_grid(arrays: Sequence[np.ndarray], spacings: Sequence[Sequence[float]]) -> None:
    for array, spacing in zip(arrays, spacings, strict=True):
        if array.shape != arrays[0].shape or not np.allclose(spacing, spacings[0], atol=SAME_MM):
            raise Unreadable(f"required channels on one grid, has {arrays[0].shape} and {array.shape} voxels")
