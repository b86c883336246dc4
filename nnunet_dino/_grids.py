"""Whether two images have their voxels in the same places, and how that is told."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# How much two headers may differ by rounding.
SPACING_RATIO, ORIGIN_VOXELS, DIRECTION = 1e-3, 0.1, 1e-3
MM = {"mm": 1.0, "µm": 1e-3, "μm": 1e-3, "um": 1e-3, "microns": 1e-3, "nm": 1e-6, "cm": 10.0, "m": 1e3}  # two letters µ
NRRD_UNITS = re.compile(r"^(?:space )?units:(.*)", re.MULTILINE)
MAX_HEADER_BYTES = 2**16


class Grid(NamedTuple):
    """Where the voxels of an image lie, as ITK says it: mm, first axis first."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: Any, mm: float = 1.0) -> Grid:
        """Takes what an image of SimpleITK, or a reader that has read a header, says; ``mm`` is the length it counts in."""
        spacing, origin = (tuple(mm * length for length in lengths) for lengths in (image.GetSpacing(), image.GetOrigin()))
        return cls(image.GetSize(), spacing, origin, image.GetDirection())


def head_of(path: str | Path, *endings: str) -> str:
    """Returns the beginning of a file with one of these endings; nothing of another."""
    if not str(path).lower().endswith(endings):
        return ""
    with open(path, "rb") as file:
        return file.read(MAX_HEADER_BYTES).decode(errors="replace")


def unit_of(path: str | Path) -> str:
    """Returns the unit that a NRRD counts in, which ITK passes over; nothing where it says none, or of another format."""
    found = NRRD_UNITS.search(head_of(path, ".nrrd", ".nhdr").split("\n\n")[0])
    return ", ".join(dict.fromkeys(unit for unit in re.findall('"([^"]*)"', found[1]) if unit)) if found else ""


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


def itk_reason(error: Exception, most: int = 200) -> str:
    """Returns the last line of what a reader says of a file, without where in ITK's code that is, at most ``most`` letters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Reason: ")]
    return lines[-1].split("): ", 1)[-1][:most] if lines else type(error).__name__
