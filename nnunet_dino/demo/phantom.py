"""A CT phantom: four organs of the same mean intensity, which only their shape and their texture tell apart.

One axial slice, not to scale::

        air −1000 HU
       ╭──────────────────╮
      ╱   ○ smooth   ░      ╲       ○  smooth ellipsoid          label 1
     │    ellipsoid  ░ tube   │     ░  smooth, bent tube along z  label 2
     │  ▓▓▓                   │     ▓  ellipsoid with spots       label 3
     │  ▓▓▓ spots  ≡≡≡≡       │     ≡  ellipsoid with stripes     label 4
      ╲            ≡≡≡≡      ╱      ■  bone, not labelled
       ╰───────■──────────╯
        body −60 HU, all organs +100 HU on average

Arrays and coordinates are ordered ``d h w`` (SimpleITK's array order), in millimetres from the centre of the volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

LABELS = {"background": 0, "ellipsoid": 1, "tube": 2, "spots": 3, "stripes": 4}
SHAPE = (12, 64, 64)
SPACING_MM = (3.0, 1.0, 1.0)
AIR_HU, BODY_HU, ORGAN_HU, BONE_HU = -1000.0, -60.0, 100.0, 500.0
TEXTURE_HU = 90.0
NOISE_HU = 15.0
STRIPE_PERIOD_MM = 5.0
SPOT_SIZE_MM = 1.2
GAP_MM = 2.0
SUBSAMPLES = (3, 2, 2)
MAX_TRIES = 400

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
Volume = NDArray[np.float64]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Phantom:
    """One simulated scan.

    Attributes:
        image_hu: Intensities in Hounsfield units, int16, ``d h w``.
        labels: Values of :data:`LABELS`, uint8, ``d h w``.
        spacing_mm: Size of a voxel along ``d h w``.
    """

    image_hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with axes along ``d h w``."""

    centre_mm: Vector
    radii_mm: Vector

    def contains(self, points_mm: Volume, margin_mm: float = 0.0) -> NDArray[np.bool_]:
        """Returns which points lie inside, or less than ``margin_mm`` outside."""
        scaled = (points_mm - self.centre_mm[:, None, None, None]) / (self.radii_mm + margin_mm)[:, None, None, None]
        return np.square(scaled).sum(0) <= 1


@dataclass(frozen=True)
class Tube:
    """A tube along ``d`` whose centre line swings in the ``h w`` plane."""

    centre_mm: Vector
    radius_mm: float
    length_mm: float
    swing_mm: Vector
    wavelength_mm: float

    def contains(self, points_mm: Volume, margin_mm: float = 0.0) -> NDArray[np.bool_]:
        """Returns which points lie inside, or less than ``margin_mm`` outside."""
        d, h, w = points_mm - self.centre_mm[:, None, None, None]
        swing = np.sin(2 * np.pi * d / self.wavelength_mm)
        from_axis_mm = np.hypot(h - self.swing_mm[0] * swing, w - self.swing_mm[1] * swing)
        return (from_axis_mm <= self.radius_mm + margin_mm) & (np.abs(d) <= self.length_mm / 2 + margin_mm)


def make_phantom(seed: int, index: int, shape: Shape = SHAPE, spacing_mm: Spacing = SPACING_MM) -> Phantom:
    """Simulates one scan; the same arguments give the same scan.

    Everything is drawn on a finer grid and averaged, so that surfaces show the partial volume effect; a voxel carries the
    label that fills most of it. Then noise is added.

    Args:
        seed: Of the data set.
        index: Of the case.
        shape: Voxels along ``d h w``.
        spacing_mm: Size of a voxel along ``d h w``.
    """
    random = np.random.default_rng([seed, index])
    points_mm = _grid(shape, spacing_mm)
    extent_mm = np.array(shape) * spacing_mm
    body_radii_mm = extent_mm[1:] * random.uniform((0.40, 0.44), (0.44, 0.48))
    fine_hu = np.full(points_mm.shape[1:], AIR_HU)
    fine_hu[np.square(points_mm[1:] / body_radii_mm[:, None, None, None]).sum(0) <= 1] = BODY_HU

    bone = Tube(np.array([0, 0.72 * body_radii_mm[0], 0]), 0.055 * extent_mm[1:].min(), 2 * extent_mm[0], np.zeros(2), np.inf)
    taken = bone.contains(points_mm)
    fine_hu[taken] = BONE_HU
    fractions = [np.zeros(shape)]
    every = tuple(slice(None, None, parts) for parts in SUBSAMPLES)
    on_coarse_grid = (slice(None), *every)  # enough to look for a place
    for name in list(LABELS)[1:]:
        organ = _place(random, name, points_mm[on_coarse_grid], taken[every], extent_mm, body_radii_mm)
        inside = organ.contains(points_mm)
        taken |= inside
        fine_hu[inside] = ORGAN_HU + _texture(random, name, points_mm, spacing_mm, inside)
        fractions.append(_averaged(inside, shape))
    fractions[0] = 1 - np.sum(fractions, axis=0)

    noise = gaussian_filter(random.standard_normal(shape), (0, 0.6, 0.6))
    image = _averaged(fine_hu, shape) + noise / noise.std() * NOISE_HU
    labels = np.argmax(fractions, axis=0).astype(np.uint8)
    return Phantom(np.clip(np.rint(image), -1024, 3071).astype(np.int16), labels, spacing_mm)


def _grid(shape: Shape, spacing_mm: Spacing) -> Volume:
    axes = [
        (np.arange(size * parts) + 0.5) * spacing / parts - size * spacing / 2
        for size, spacing, parts in zip(shape, spacing_mm, SUBSAMPLES, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _averaged(fine: NDArray, shape: Shape) -> Volume:
    d, h, w = shape
    return fine.reshape(d, SUBSAMPLES[0], h, SUBSAMPLES[1], w, SUBSAMPLES[2]).mean((1, 3, 5))


def _place(
    random: np.random.Generator,
    name: str,
    points_mm: Volume,
    taken: NDArray[np.bool_],
    extent_mm: Vector,
    body_radii_mm: Vector,
) -> Ellipsoid | Tube:
    """Finds a place for an organ, inside the body and apart from what is there."""
    for attempt in range(MAX_TRIES):
        shrink = 0.5 ** (attempt / MAX_TRIES)  # a crowded body gets smaller organs rather than none
        organ = _draw(random, name, extent_mm, body_radii_mm, shrink)
        inside = organ.contains(points_mm, GAP_MM)
        in_body = np.square(points_mm[1:, inside] / (0.93 * body_radii_mm[:, None])).sum(0) <= 1
        if in_body.all() and not taken[inside].any():
            return organ
    raise RuntimeError(f"no place for the organ {name!r} in a body of {tuple(extent_mm)} mm")


def _draw(random: np.random.Generator, name: str, extent_mm: Vector, body_radii_mm: Vector, shrink: float) -> Ellipsoid | Tube:
    size_mm = extent_mm[1:].min()
    centre_mm = random.uniform(-0.3, 0.3, 3) * (extent_mm[0], 2 * body_radii_mm[0], 2 * body_radii_mm[1])
    if name != "tube":
        return Ellipsoid(centre_mm, shrink * random.uniform(0.13, 0.18, 3) * (1.4 * extent_mm[0], size_mm, size_mm))
    angle = random.uniform(0, 2 * np.pi)
    length_mm, wavelength_mm = random.uniform((0.6, 0.9), (0.8, 1.6)) * extent_mm[0]
    swing_mm = 0.07 * size_mm * np.array([np.sin(angle), np.cos(angle)])
    return Tube(centre_mm, shrink * 0.065 * size_mm, length_mm, swing_mm, wavelength_mm)


def _texture(
    random: np.random.Generator, name: str, points_mm: Volume, spacing_mm: Spacing, inside: NDArray[np.bool_]
) -> Vector:
    """Returns the texture of an organ at its points: zero on average, so that all organs have the same mean intensity."""
    if name == "stripes":
        angle = random.uniform(0, np.pi)
        along_mm = points_mm[1, inside] * np.sin(angle) + points_mm[2, inside] * np.cos(angle)
        texture = np.sign(np.sin(2 * np.pi * along_mm / STRIPE_PERIOD_MM + random.uniform(0, 2 * np.pi)))
    elif name == "spots":
        sigma = [SPOT_SIZE_MM * parts / spacing for parts, spacing in zip(SUBSAMPLES, spacing_mm, strict=True)]
        texture = np.sign(gaussian_filter(random.standard_normal(inside.shape), sigma)[inside])
    else:
        return np.zeros(np.count_nonzero(inside))
    return TEXTURE_HU * (texture - texture.mean())
