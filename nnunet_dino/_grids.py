"""Whether two images have their voxels in the same places, and how that is told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

# How much two headers may differ by rounding.
SPACING_RATIO, ORIGIN_VOXELS, DIRECTION = 1e-3, 0.1, 1e-3


class Grid(NamedTuple):
    """Where the voxels of an image lie, as ITK says it: mm, first axis first."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: Any) -> Grid:
        """Takes what an image of SimpleITK, or a reader that has read a header, says."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def difference(grid: Grid, other: Grid) -> tuple[str, str, str] | None:
    """Returns what differs first between two grids, and what both have of it; None if their voxels meet.

    Origins are compared in voxels, so that it does not matter how far away they are nor how small voxels are.
    """
    odd = ""
    if grid.size != other.size:
        odd = "size"
    elif not np.allclose(grid.spacing, other.spacing, rtol=SPACING_RATIO, atol=0):
        odd = "spacing"
    elif np.abs(np.subtract(grid.origin, other.origin) @ _axes(other) / other.spacing).max() > ORIGIN_VOXELS:
        odd = "origin"
    elif not np.allclose(grid.direction, other.direction, rtol=0, atol=DIRECTION):
        odd = "direction"
    return (odd, by(getattr(grid, odd)), by(getattr(other, odd))) if odd else None


def _axes(grid: Grid) -> np.ndarray:
    return np.reshape(grid.direction, (len(grid.size), -1))


def by(values: Iterable[float]) -> str:
    """Returns numbers as ``1 × 2 × 3``."""
    return " × ".join(f"{value:.4g}" for value in values)


def itk_reason(error: Exception, most: int) -> str:
    """Returns what ITK says of a file, without where in its code it says so: the last ``most`` letters, in one line."""
    return " ".join(str(error).split()).rpartition("ITK ERROR: ")[2][-most:]
