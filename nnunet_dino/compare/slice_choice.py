"""Which slice of a case is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_dino.features.volume import PLANES, Volume

ANISOTROPIC = 1.5
"""From this ratio of spacings on, slices are taken across the axis with the largest one."""


@dataclass(frozen=True)
class SliceChoice:
    """Which slice is shown: one of :data:`PLANES`, the position across it, and why this one."""

    plane: str
    index: int
    reason: str


def choose_slice(reference: Volume, first: np.ndarray, second: np.ndarray) -> SliceChoice:
    """Chooses the slice in which two predictions ``d h w`` disagree most, else the one with the largest labelled area."""
    spacing = reference.spacing_mm
    plane = "axial"
    if reference.is_oriented and max(spacing) > ANISOTROPIC * min(spacing):
        plane = max(PLANES, key=lambda name: spacing[PLANES[name]])
    others = tuple(axis for axis in range(3) if axis != PLANES[plane])
    changed = (first != second).sum(axis=others)
    if changed.any():
        index = int(changed.argmax())
        pixels = int(changed[index])
        area = pixels * np.prod([spacing[axis] for axis in others])
        where = f"{pixels} pixel{'s' if pixels > 1 else ''}" + (f", {area:.0f} mm²" if reference.is_oriented else "")
        return SliceChoice(plane, index, f"largest disagreement of the two results ({where})")
    labelled = (reference.values > 0).sum(axis=others)
    return SliceChoice(plane, int(labelled.argmax()), "largest labelled area, as the two results agree in every voxel")
