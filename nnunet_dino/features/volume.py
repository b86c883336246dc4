"""Volumes: NIfTI, NRRD, MetaImage and DICOM series, as slices in patient orientation."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_dino._errors import UserError, nearest
from nnunet_dino._grids import MM, head_of, unit_of
from nnunet_dino.features.dicom import is_dicom
from nnunet_dino.features.items import Item, Source, Unreadable, decoding, with_notes
from nnunet_dino.features.nifti import ENDINGS as OF_NIFTI
from nnunet_dino.features.nifti import read_flat, read_nifti
from nnunet_dino.features.orientation import Volume, chosen_volume, in_patient_axes, notes_on_shear, refuse_further_volumes
from nnunet_dino.features.pixels import (
    WINDOWS_HU,
    Preprocessing,
    as_torch_type,
    notes_on_units,
    require_finite,
    show_square,
    shown_range,
    shown_unit,
    shows_image,
)
from nnunet_dino.features.series import read_file, read_folder

NRRD_SPACE = "NRRD_space"  # ITK turns others that say directions into left-posterior-superior
NRRD_BZIP2 = re.compile(r"^encoding:[ \t]*bz", re.MULTILINE)
MHD_DATA = re.compile(r"^ElementDataFile[ \t]*=[ \t]*(\S[^\r\n]*)", re.MULTILINE)  # which ITK does not name in its errors
AIR_HU = -900  # no other modality has values so far below zero
PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}
OF_ITK_IN_ANY_CASE = {(".nrrd", ".nhdr"): "NrrdImageIO", (".mha", ".mhd"): "MetaImageIO"}
OF_ITK = tuple(ending for endings in OF_ITK_IN_ANY_CASE for ending in endings)
# What lies at the left and at the top edge of a slice: the patient's right, front (anterior), head (superior).
OPPOSITE = {"R": "L", "A": "P", "S": "I"}
EDGES = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}


@dataclass(frozen=True)
class Slicing:
    """Which slices of a volume are shown.

    Attributes:
        plane: ``axial``, ``coronal`` or ``sagittal``, by the patient's axes and not by the order in the file.
        every: Every n-th slice.
        volume: Which of several volumes in an input, from 0; None where there is one.

    Raises:
        UserError: A value is none of these.
    """

    plane: str = "axial"
    every: int = 1
    volume: int | None = None

    def __post_init__(self) -> None:
        if self.plane not in PLANES:
            raise UserError(f"--plane: required one of {', '.join(PLANES)} · got {self.plane!r}{nearest(self.plane, PLANES)}")
        if self.every < 1:
            raise UserError(f"--every: required a number from 1 · got {self.every}")
        if self.volume is not None and self.volume < 0:
            raise UserError(f"--volume: required a number from 0 · got {self.volume}")


def open_volume(item: Item, preprocessing: Preprocessing, slicing: Slicing) -> Source:
    """Reads a volume; its slices are prepared on demand.

    Raises:
        Unreadable: The file is missing, damaged, not three-dimensional, or not finite.
    """
    return show_slices(read_volume(item, slicing.volume), preprocessing, slicing)


def show_slices(volume: Volume, preprocessing: Preprocessing, slicing: Slicing) -> Source:
    """Returns the slices of a volume as images; they are prepared on demand."""
    slices, pixel_hw = take_plane(volume, slicing.plane)
    slices = slices[:: slicing.every]
    ends, notes = shown_range(volume.values, preprocessing.range(), volume.padding, volume.is_inverted)

    def images(start: int, stop: int) -> Tensor:
        part = torch.from_numpy(np.array(slices[start:stop], order="C"))  # torch knows no negative strides
        part = part[:, None] if part.ndim == 3 else part.movedim(-1, 1)
        unit = shown_unit(part, ends, preprocessing, volume.is_inverted)
        return show_square(unit, preprocessing, pixel_hw)

    facts = {
        "shape": " × ".join(map(str, volume.values.shape)),
        "spacing_mm": " × ".join(f"{length:g}" for length in volume.spacing_mm),
    }
    if preprocessing.range() is None and volume.values.ndim == 3 and volume.values.min() <= AIR_HU:
        notes = [*notes, f"looks like CT in Hounsfield units, but has no --window; there are {', '.join(WINDOWS_HU)}"]
    facts = with_notes(facts, [*volume.notes, *notes, *notes_on_units(volume.values, preprocessing)])
    height, width = slices.shape[1:3]
    return Source(len(slices), images, facts, shows_image((height, width), preprocessing, pixel_hw))


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


def read_volume(item: Item, number: int | None = None) -> Volume:
    """Reads a volume and turns it into patient orientation; oblique ones to the nearest axes.

    Args:
        item: A file, or the folder of a DICOM series.
        number: Which of several volumes in it, from 0.

    Raises:
        Unreadable: See :func:`open_volume`.
    """
    if os.path.isdir(item.path):
        with decoding():
            return read_folder(item, number)
    if not os.path.isfile(item.path):
        raise Unreadable("no such file")
    if item.path.lower().endswith(OF_NIFTI):
        return read_nifti(item.path, number)
    if not item.path.lower().endswith(OF_ITK) and is_dicom(item.path):
        with decoding():
            return read_file(item.path, number)
    if not item.path.lower().endswith(OF_ITK):
        raise Unreadable("required NIfTI, NRRD, MetaImage or DICOM, has another format · convert it to NIfTI")
    image = read_by_itk(item.path)
    notes = []
    if (count := image.GetNumberOfComponentsPerPixel()) > 1:
        number = chosen_volume(number, count, f"required one channel, has {count}")
        image, number, notes = sitk.VectorIndexSelectionCast(image, number), None, [f"volume {number} of {count}"]
    shape = " × ".join(map(str, image.GetSize()))
    if image.GetDimension() == 4 and image.GetSize()[3] > 1:
        count = image.GetSize()[3]
        number = chosen_volume(number, count, f"required three axes, has 4 ({shape})")
        image = sitk.Extract(image, [*image.GetSize()[:3], 0], [0, 0, 0, number])
        number, notes = None, [f"volume {number} of {count}"]
    elif image.GetDimension() == 4:
        image = sitk.Extract(image, [*image.GetSize()[:3], 0], [0, 0, 0, 0])
    refuse_further_volumes(number)
    if image.GetDimension() != 3:
        raise Unreadable(f"required three axes, has {image.GetDimension()} ({shape})")
    if (unit := unit_of(item.path)) and unit not in MM:
        notes.append(f"its unit {unit!r} is not known: taken as millimetres")
    volume = _oriented(image)
    return replace(volume, notes=(*notes, *volume.notes))


def read_to_compare(path: str) -> Volume:
    """Reads an image or a segmentation, flat or not, of several channels the first.

    Raises:
        Unreadable: See :func:`open_volume`; here four axes are too many.
    """
    if not os.path.isfile(path):
        raise Unreadable("no such file")
    if path.lower().endswith(OF_NIFTI):
        values, spacing = read_flat(path)
        if values.ndim == 3 and len(values) > 1:
            return read_nifti(path)
    else:
        image = read_by_itk(path)
        if image.GetNumberOfComponentsPerPixel() > 1:
            image = sitk.VectorIndexSelectionCast(image, 0)
        if image.GetDimension() == 3 and image.GetSize()[2] > 1:
            return _oriented(image)
        values, spacing = _plain(sitk.GetArrayFromImage(image)), image.GetSpacing()[::-1]
    if values.ndim > 3:
        raise Unreadable(f"required 2 or 3 axes, has {values.ndim}: {path}")
    height_mm, width_mm = spacing[-2:]
    return Volume(values.reshape(1, *values.shape[-2:]), (1.0, height_mm, width_mm), is_oriented=False)


def read_by_itk(path: str) -> sitk.Image:
    """Returns an image of a NRRD, a MetaImage or another format that ITK knows, with its spacing in mm.

    Raises:
        Unreadable: It is damaged, not whole, or packed in a way that ITK does not know.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    for endings, name in OF_ITK_IN_ANY_CASE.items():
        if path.lower().endswith(endings):
            reader.SetImageIO(name)
    if NRRD_BZIP2.search(head_of(path, ".nrrd", ".nhdr").split("\n\n")[0]):
        raise Unreadable("is packed with bzip2, which ITK does not read · save it with the encoding gzip")
    data = MHD_DATA.search(head_of(path, ".mhd"))
    with decoding("damaged or not whole" + (f", with its data file {data[1].strip()}: " if data else ": ")):
        image = reader.Execute()
    image.SetSpacing([length * MM.get(unit_of(path), 1.0) for length in image.GetSpacing()])
    return image


def _oriented(image: sitk.Image) -> Volume:
    directions = np.array(image.GetDirection()).reshape(3, 3)
    notes = notes_on_shear(directions)
    is_nrrd = any(key.startswith("NRRD_") for key in image.GetMetaDataKeys())
    space = image.GetMetaData(NRRD_SPACE) if image.HasMetaDataKey(NRRD_SPACE) else ""
    if is_nrrd and not space.startswith("left-posterior-superior"):
        notes.append(f"its space ({space or 'none'}) says no directions of the patient: taken as left-posterior-superior")
    volume = in_patient_axes(_plain(sitk.GetArrayFromImage(image)), directions[:, ::-1], image.GetSpacing()[::-1])
    return replace(volume, notes=tuple(notes))


def _plain(values: np.ndarray) -> np.ndarray:
    """Returns finite values of a type that torch has."""
    require_finite(values)
    return as_torch_type(values)
