"""Reading an image or a segmentation for display: oriented, with its spacing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

PLANES = ("axial", "coronal", "sagittal")
ANISOTROPIC = 1.5
"""From this ratio of spacings on, slices are taken across the axis with the largest one."""


@dataclass(frozen=True)
class Volume:
    """A volume in the order a reader of medical images expects.

    Axes of a volume with a known orientation; the arrows show the direction of growing index::

        axis 0 (d): feet -> head     axis 1 (h): front -> back     axis 2 (w): patient's right -> left

    Attributes:
        values: Shape ``d h w``; ``d`` is 1 for a 2D image.
        spacing_mm: Distance of neighbours along ``d``, ``h`` and ``w``. Files that store no unit are taken as millimetres, as
            NIfTI, MetaImage and NRRD do; for photographs it is 1.
        oriented: Whether the directions above hold; False for 2D images.
    """

    values: np.ndarray
    spacing_mm: tuple[float, float, float]
    oriented: bool


def read_volume(file: Path) -> Volume:
    """Reads a 2D or 3D image, of several channels the first one.

    Raises:
        RuntimeError: SimpleITK cannot read the file.
        ValueError: It has four dimensions.
    """
    import SimpleITK as sitk

    image = sitk.ReadImage(str(file))
    if image.GetNumberOfComponentsPerPixel() > 1:
        image = sitk.VectorIndexSelectionCast(image, 0)
    if image.GetDimension() == 3 and image.GetSize()[2] > 1:
        image = sitk.DICOMOrient(image, "LPS")
        return Volume(sitk.GetArrayFromImage(image), tuple(image.GetSpacing()[::-1]), oriented=True)
    values = sitk.GetArrayFromImage(image)
    if values.ndim > 3:
        raise ValueError(f"2 or 3 dimensions required · got {values.ndim} in {file}")
    width, height = image.GetSpacing()[:2]
    return Volume(values.reshape(1, *values.shape[-2:]), (1.0, height, width), oriented=False)


@dataclass(frozen=True)
class SliceChoice:
    """Which slice of a volume is shown, and why.

    Attributes:
        axis: Axis the slice is taken across: 0, 1 or 2.
        index: Position on that axis.
        reason: What makes this slice the one.
    """

    axis: int
    index: int
    reason: str


def choose_slice(reference: Volume, first: np.ndarray, second: np.ndarray) -> SliceChoice:
    """Chooses the slice in which two predictions disagree most, else the one with the largest labelled area.

    Args:
        reference: Reference segmentation.
        first: One prediction, shape ``d h w``.
        second: The other, same shape.
    """
    spacing = reference.spacing_mm
    axis = int(np.argmax(spacing)) if reference.oriented and max(spacing) > ANISOTROPIC * min(spacing) else 0
    others = tuple(a for a in range(3) if a != axis)
    changed = (first != second).sum(axis=others)
    if changed.any():
        index = int(changed.argmax())
        pixels = int(changed[index])
        area = pixels * np.prod([spacing[a] for a in others])
        where = f"{pixels} pixel{'s' if pixels > 1 else ''}" + (f", {area:.0f} mm²" if reference.oriented else "")
        return SliceChoice(axis, index, f"largest disagreement of the two results ({where})")
    labelled = (reference.values > 0).sum(axis=others)
    return SliceChoice(axis, int(labelled.argmax()), "largest labelled area, as the two results agree in every voxel")


def take_slice(values: np.ndarray, choice: SliceChoice, oriented: bool) -> np.ndarray:
    """Returns the chosen slice with the head (coronal, sagittal) or the front (axial) on top."""
    plane = np.take(values, choice.index, axis=choice.axis)
    return plane[::-1] if oriented and choice.axis > 0 else plane


def edge_letters(choice: SliceChoice) -> tuple[str, str]:
    """Returns what lies at the left and at the top edge: R right, A front, S head."""
    return (("R", "A"), ("R", "S"), ("A", "S"))[choice.axis]
