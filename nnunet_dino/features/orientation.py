"""Volumes in patient orientation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_dino.features.items import Unreadable

MAX_SHEAR_DEGREES = 2.0
NOTED_SHEAR_DEGREES = 0.02


@dataclass(frozen=True)
class Volume:
    """A volume in patient orientation.

    ::

        values d h w:  d from the feet to the head,  h from the front to the back,  w from the patient's right to the left

    Attributes:
        values: Intensities, slope and intercept applied; in colour ``d h w 3``. A flat image is one slice.
        spacing_mm: Distance of voxels along ``d h w``.
        is_oriented: Whether the directions above hold; not for flat images.
        notes: What had to be decided while it was read.
        is_inverted: Whether high values are dark.
        padding: Range of values that stand for nothing.
    """

    values: np.ndarray
    spacing_mm: tuple[float, float, float]
    is_oriented: bool = True
    notes: tuple[str, ...] = ()
    is_inverted: bool = False
    padding: tuple[float, float] | None = None


def chosen_volume(number: int | None, count: int, otherwise: str) -> int:
    """Returns which of ``count`` volumes to take.

    Raises:
        Unreadable: ``otherwise``, as none is chosen or there is none of that number.
    """
    if number is None or not 0 <= number < count:
        got = "" if number is None else f", --volume is {number}"
        raise Unreadable(f"{otherwise}{got} · choose one with --volume 0 to {count - 1}")
    return number


def refuse_further_volumes(number: int | None, because: str = "there is one volume") -> None:
    """Refuses any number but the first.

    Raises:
        Unreadable: It is another one.
    """
    if number not in (None, 0):
        raise Unreadable(f"--volume: required 0, as {because}, got {number}")


def notes_on_shear(directions: np.ndarray) -> list[str]:
    """Returns what is left out where three unit vectors, the columns, are not quite at right angles.

    Raises:
        Unreadable: They are far from it.
    """
    cosines = np.abs(directions.T @ directions - np.eye(3))
    shear = float(np.degrees(np.arcsin(min(1.0, cosines.max()))))
    if shear > MAX_SHEAR_DEGREES:
        raise Unreadable(
            f"required axes at right angles, has a shear of {shear:.3g} degrees, more than {MAX_SHEAR_DEGREES:g} · resample "
            "it, for example with nibabel.processing.resample_to_output"
        )
    if shear > NOTED_SHEAR_DEGREES:
        return [f"a shear of {shear:.2g} degrees is left out: the nearest axes are shown"]
    return []


def in_patient_axes(values: np.ndarray, directions: np.ndarray, spacing_mm: tuple[float, ...]) -> Volume:
    """Turns a volume to the nearest axes of the patient.

    Args:
        values: With three axes in any order, and perhaps colours.
        directions: Unit vectors of the three axes as columns, in LPS.
        spacing_mm: Along the three axes.
    """
    from nibabel.orientations import io_orientation

    affine = np.eye(4)
    affine[:3, :3] = directions
    order = io_orientation(affine)
    if np.isnan(order).any():
        raise Unreadable("required three directions, has an orientation that is flat · correct the header")
    for axis, (_, sign) in enumerate(order):
        if sign < 0:
            values = np.flip(values, axis)
    axes = [int(np.flatnonzero(order[:, 0] == patient_axis)[0]) for patient_axis in (2, 1, 0)]
    values = np.transpose(values, (*axes, *range(3, values.ndim)))
    depth_mm, height_mm, width_mm = (float(spacing_mm[axis]) for axis in axes)
    return Volume(values, (depth_mm, height_mm, width_mm))
