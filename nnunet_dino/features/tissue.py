"""Where a slide shows tissue, and which tiles lie on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunet_dino._errors import UserError, nearest

REFERENCE_PX = 512  # areas are counted in squares of this edge at full resolution


@dataclass(frozen=True)
class TissueRule:
    """When a pixel counts as tissue, and when a piece of it counts.

    Attributes:
        saturation: Saturation (0..255, of HSV) above which a pixel is tissue.
        median_px: Edge of the median filter on the saturation.
        closing_px: Edge of the square that closes gaps.
        min_area: Smallest piece, in squares of 512 pixels at full resolution, holes not counted.
        min_hole: Smallest hole that is kept open, likewise.
        max_holes: Holes kept open per piece, the largest.
    """

    saturation: int = 8
    median_px: int = 7
    closing_px: int = 4
    min_area: float = 100
    min_hole: float = 16
    max_holes: int = 8


# CLAM (github.com/mahmoodlab/CLAM at 53e2409): defaults of create_patches_fp.py; presets/bwh_biopsy, bwh_resection, tcga.csv.
TISSUE_RULES: dict[str, TissueRule] = {
    "default": TissueRule(),
    "biopsy": TissueRule(saturation=15, median_px=11, closing_px=2, min_area=1, min_hole=1, max_holes=2),
    "resection": TissueRule(saturation=15, median_px=11, closing_px=4, min_area=100, min_hole=16, max_holes=8),
    "tcga": TissueRule(saturation=8, median_px=7, closing_px=4, min_area=16, min_hole=4, max_holes=8),
}


def tissue_rule(name: str) -> TissueRule:
    """Returns the rule called ``name``.

    Raises:
        UserError: There is none.
    """
    if name not in TISSUE_RULES:
        raise UserError(f"--tissue: required one of {', '.join(TISSUE_RULES)} · got {name!r}{nearest(name, TISSUE_RULES)}")
    return TISSUE_RULES[name]


def tissue_mask(rgb: np.ndarray, downsample: float, rule: TissueRule) -> np.ndarray:
    """Returns where a small picture of a slide shows tissue.

    Args:
        rgb: ``h w 3``, 0..255.
        downsample: Pixels at full resolution per pixel of the picture.
        rule: See :class:`TissueRule`.

    Returns:
        ``h w``, bool.
    """
    high, low = rgb.max(2).astype(np.float32), rgb.min(2).astype(np.float32)
    saturation = np.where(high > 0, 255 * (high - low) / np.maximum(high, 1), 0)
    mask = ndimage.median_filter(saturation, size=rule.median_px, mode="nearest") > rule.saturation
    padded = np.pad(mask, rule.closing_px)  # so that closing does not eat tissue at the edge
    closed = ndimage.binary_closing(padded, np.ones((rule.closing_px, rule.closing_px), bool))
    mask = closed[rule.closing_px : -rule.closing_px, rule.closing_px : -rule.closing_px]
    pixels_per_square = (REFERENCE_PX / downsample) ** 2
    pieces, count = ndimage.label(mask, np.ones((3, 3), bool))
    result = np.zeros_like(mask)
    for number, place in enumerate(ndimage.find_objects(pieces), 1):
        piece = pieces[place] == number
        if piece.sum() < rule.min_area * pixels_per_square:
            continue
        result[place] |= _with_large_holes(piece, rule, pixels_per_square)
    return result if count else mask


def _with_large_holes(piece: np.ndarray, rule: TissueRule, pixels_per_square: float) -> np.ndarray:
    """Fills the holes of a piece, but for the largest of those that are large enough."""
    filled = ndimage.binary_fill_holes(piece)
    holes, count = ndimage.label(filled & ~piece)
    areas = np.bincount(holes.ravel(), minlength=count + 1)[1:]
    large = [
        number for number in np.argsort(-areas, kind="stable") + 1 if areas[number - 1] >= rule.min_hole * pixels_per_square
    ]
    return filled & ~np.isin(holes, large[: rule.max_holes])


def tile_corners(mask: np.ndarray, downsample: float, size_px: tuple[int, int], tile_px: int) -> np.ndarray:
    """Returns the tiles on tissue: a grid without overlap over the tissue's bounding box, row by row.

    A tile is taken if tissue lies at one of four points, each a quarter of the tile's edge from its centre along both axes:

    ::

        ┌───────────┐
        │  ·     ·  │
        │     +     │
        │  ·     ·  │
        └───────────┘

    Args:
        mask: Tissue, ``h w``.
        downsample: Pixels at full resolution per pixel of the mask.
        size_px: Width and height of the slide at full resolution; tiles at its right and lower edge reach beyond it.
        tile_px: Edge of a tile at full resolution.

    Returns:
        x and y of the upper left corners at full resolution, ``n 2``.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((0, 2), np.int32)
    starts = [int(edge[0] * downsample) for edge in (columns, rows)]
    ends = [min(int((edge[-1] + 1) * downsample), size) for edge, size in zip((columns, rows), size_px, strict=True)]
    xs, ys = (start + tile_px * np.arange(-(-(end - start) // tile_px)) for start, end in zip(starts, ends, strict=True))
    y, x = (axis.ravel() for axis in np.meshgrid(ys, xs, indexing="ij"))
    on_tissue = np.zeros(len(x), bool)
    for dx in (0.25, 0.75):
        for dy in (0.25, 0.75):
            column, row = (((start + part * tile_px) / downsample).astype(int) for start, part in ((x, dx), (y, dy)))
            is_inside = (column < mask.shape[1]) & (row < mask.shape[0])
            on_tissue[is_inside] |= mask[row[is_inside], column[is_inside]]
    return np.stack([x, y], axis=1)[on_tissue].astype(np.int32)
