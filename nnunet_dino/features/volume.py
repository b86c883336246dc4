"""Volumes: NIfTI, NRRD, MetaImage and DICOM series, as slices in patient orientation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.features import nifti
from nnunet_dino.features.items import Item, Source, Unreadable, decoding
from nnunet_dino.features.pixels import Preprocessing, fit_square, placement, robust_range, shows_image, to_unit

PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}
# What lies at the left and at the top edge of a slice: the patient's right, front (anterior), head (superior).
EDGES = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}


@dataclass(frozen=True)
class Slicing:
    """Which slices of a volume are shown.

    Attributes:
        plane: ``axial``, ``coronal`` or ``sagittal``, by the patient's axes and not by the order in the file.
        every: Every n-th slice.

    Raises:
        UserError: A value is none of these.
    """

    plane: str = "axial"
    every: int = 1

    def __post_init__(self) -> None:
        if self.plane not in PLANES:
            raise UserError(f"--plane: required one of {', '.join(PLANES)} · got {self.plane!r}{nearest(self.plane, PLANES)}")
        if self.every < 1:
            raise UserError(f"--every: required a number from 1 · got {self.every}")


@dataclass(frozen=True)
class Volume:
    """A volume in patient orientation.

    ::

        values d h w:  d from the feet to the head,  h from the front to the back,  w from the patient's right to the left

    Attributes:
        values: Intensities, slope and intercept applied. A flat image is one slice.
        spacing_mm: Distance of voxels along ``d h w``.
        is_oriented: Whether the directions above hold; not for flat images.
    """

    values: np.ndarray
    spacing_mm: tuple[float, float, float]
    is_oriented: bool = True


def open_volume(item: Item, preprocessing: Preprocessing, slicing: Slicing) -> Source:
    """Reads a volume; its slices are prepared on demand.

    Raises:
        Unreadable: The file is missing, damaged, not three-dimensional, or not finite.
    """
    return show_slices(read_volume(item), preprocessing, slicing)


def show_slices(volume: Volume, preprocessing: Preprocessing, slicing: Slicing) -> Source:
    """Returns the slices of a volume as images; they are prepared on demand."""
    slices, pixel_hw = take_plane(volume, slicing.plane)
    slices = slices[:: slicing.every]
    low, high = preprocessing.range() or robust_range(volume.values)

    def images(start: int, stop: int) -> Tensor:
        part = torch.from_numpy(np.ascontiguousarray(slices[start:stop]))[:, None]
        return fit_square(to_unit(part, low, high), preprocessing.size_px, preprocessing.fit, pixel_hw)

    facts = {
        "shape": " × ".join(map(str, volume.values.shape)),
        "spacing_mm": " × ".join(f"{length:g}" for length in volume.spacing_mm),
    }
    height, width = slices.shape[1:]
    place = placement((height, width), preprocessing.size_px, preprocessing.fit, pixel_hw)
    return Source(len(slices), images, facts, shows_image(place, preprocessing.size_px))


def take_plane(volume: Volume, plane: str) -> tuple[np.ndarray, tuple[float, float]]:
    """Returns all slices of a plane as they are usually looked at, and the size of their pixels in mm.

    Axial slices have the front on top, coronal and sagittal ones the head; axial and coronal ones show the patient's right on
    the left, sagittal ones the front.

    Returns:
        ``n h w``, and the height and width of a pixel.
    """
    row_mm, column_mm = (length for axis, length in enumerate(volume.spacing_mm) if axis != PLANES[plane])
    return as_shown(volume.values, plane), (row_mm, column_mm)


def as_shown(values: np.ndarray, plane: str) -> np.ndarray:
    """Returns all slices ``n h w`` of a plane of a volume ``d h w``, as :func:`take_plane` does."""
    slices = np.moveaxis(values, PLANES[plane], 0)
    return slices if plane == "axial" else slices[:, ::-1]


def read_volume(item: Item) -> Volume:
    """Reads a volume and turns it into patient orientation; oblique ones to the nearest axes.

    Raises:
        Unreadable: See :func:`open_volume`.
    """
    image = _read(item)
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise Unreadable(f"required one channel, has {image.GetNumberOfComponentsPerPixel()}")
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = sitk.Extract(image, [*image.GetSize()[:3], 0])
    if image.GetDimension() != 3:
        raise Unreadable(f"required three axes, has {image.GetDimension()} ({' × '.join(map(str, image.GetSize()))})")
    return _oriented(image)


def read_to_compare(path: str) -> Volume:
    """Reads an image or a segmentation, flat or not, of several channels the first.

    Raises:
        Unreadable: See :func:`open_volume`; here four axes are too many.
    """
    image = _read(Item(path, path))
    if image.GetNumberOfComponentsPerPixel() > 1:
        image = sitk.VectorIndexSelectionCast(image, 0)
    if image.GetDimension() == 3 and image.GetSize()[2] > 1:
        return _oriented(image)
    values = _plain(sitk.GetArrayFromImage(image))
    if values.ndim > 3:
        raise Unreadable(f"required 2 or 3 axes, has {values.ndim}: {path}")
    width_mm, height_mm = image.GetSpacing()[:2]
    return Volume(values.reshape(1, *values.shape[-2:]), (1.0, height_mm, width_mm), is_oriented=False)


def _oriented(image: sitk.Image) -> Volume:
    image = sitk.DICOMOrient(image, "LPS")
    width_mm, height_mm, depth_mm = image.GetSpacing()
    return Volume(_plain(sitk.GetArrayFromImage(image)), (depth_mm, height_mm, width_mm))


def _plain(values: np.ndarray) -> np.ndarray:
    """Returns finite values of a type that torch has."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Unreadable("required finite values, holds NaN or infinity · save it again with numbers in their place")
    values = values.astype(np.int32) if values.dtype == np.uint16 else values
    return values.astype(np.float32) if values.dtype in (np.uint32, np.float64, np.int64, np.uint64) else values


def _read(item: Item) -> sitk.Image:
    if not os.path.isdir(item.path):
        if not os.path.isfile(item.path):
            raise Unreadable("no such file")
        if item.path.lower().endswith(nifti.ENDINGS):
            nifti.check_nifti(item.path)
        with decoding():
            return sitk.ReadImage(item.path)
    with decoding():
        known = sitk.ImageSeriesReader.GetGDCMSeriesIDs(item.path)
        if not known:
            raise Unreadable("folder without a DICOM series")
        if not item.series and len(known) > 1:
            raise Unreadable(f"required one DICOM series, has {len(known)}")
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(item.path, item.series or known[0])
        return sitk.ReadImage(files[0]) if len(files) == 1 else sitk.ReadImage(files)


def with_series(items: Sequence[Item]) -> list[Item]:
    """Replaces folders by the DICOM series in them; a folder with several gives an item for each."""
    result: list[Item] = []
    for item in items:
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(item.path) if os.path.isdir(item.path) else ()
        if len(series) > 1:
            result += [Item(f"{item.id}/{uid}", item.path, uid) for uid in sorted(series)]
        else:
            result.append(item)
    return result
