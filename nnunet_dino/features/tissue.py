"""Where a slide shows tissue, and which tiles lie on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import rgb_to_hsv
from scipy import ndimage

from nnunet_dino._errors import UserError, nearest

REFERENCE_PX = 512  # areas are counted in squares of this edge at full resolution
TISSUE, SLIDE = "tissue", "slide"
GRIDS = (TISSUE, SLIDE)
PEN_HUES, PEN_SATURATION, BLACK = (60, 245), 64, 60  # degrees, and 0..255; haematoxylin and eosin are bluish violet to red
GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
PEN_EDGE_PX = 3  # the faint edge of a stroke on the overview


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


def tissue_mask(rgb: np.ndarray, downsample: float, rule: TissueRule, without_pen: bool = False) -> np.ndarray:
    """Returns where a small picture of a slide shows tissue.

    Args:
        rgb: ``h w 3``, 0..255.
        downsample: Pixels at full resolution per pixel of the picture.
        rule: See :class:`TissueRule`.
        without_pen: Whether strokes of a pen are left out; see :func:`pen_mask`.

    Returns:
        ``h w``, bool.
    """
    high, low = rgb.max(2).astype(np.float32), rgb.min(2).astype(np.float32)
    saturation = np.where(high > 0, 255 * (high - low) / np.maximum(high, 1), 0)
    mask = ndimage.median_filter(saturation, size=rule.median_px, mode="nearest") > rule.saturation
    if without_pen:
        mask &= ~pen_mask(rgb)
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


def pen_mask(rgb: np.ndarray) -> np.ndarray:
    """Returns where a small picture of a slide in haematoxylin and eosin is green, blue or black, ``h w``, as pens are.

    A red pen cannot be told from eosin, and in other stains (haematoxylin with a brown one) tissue itself is blue.

    Args:
        rgb: ``h w 3``, 0..255.
    """
    hue, saturation, value = np.moveaxis(rgb_to_hsv(rgb / 255), 2, 0)
    is_coloured = (hue * 360 >= PEN_HUES[0]) & (hue * 360 < PEN_HUES[1]) & (saturation * 255 > PEN_SATURATION)
    strokes = ndimage.binary_opening(is_coloured | (value * 255 < BLACK), np.ones((2, 2), bool))
    return ndimage.binary_dilation(strokes, iterations=PEN_EDGE_PX) if strokes.any() else strokes


def sharpness(rgb: np.ndarray) -> float:
    """Returns the variance of the Laplacian of a tile's grey levels (0..255), which is small where it is out of focus.

    Args:
        rgb: ``h w 3``, 0..255.

    Source: Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy (ICPR 2000), with the kernel of four neighbours.
    """
    return float(ndimage.laplace(rgb @ GREY)[1:-1, 1:-1].var())


def tile_corners(
    mask: np.ndarray,
    downsample: float,
    size_px: tuple[int, int],
    tile_px: int,
    grid: str = TISSUE,
    overlap: float = 0.0,
    min_tissue: float = 0.0,
) -> np.ndarray:
    """Returns the tiles on tissue, row by row.

    A tile is taken if tissue fills ``min_tissue`` of it or, if that is 0, lies at one of four points, each a quarter of the
    tile's edge from its centre along both axes:

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
        grid: Where the tiles begin: at the corner of the tissue's bounding box, or of the slide.
        overlap: Of a tile with the next one along each axis, as a share of its edge, from 0 to below 1.
        min_tissue: Share of a tile's area.

    Returns:
        x and y of the upper left corners at full resolution, ``n 2``.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((0, 2), np.int32)
    starts, ends = (0, 0), size_px
    if grid == TISSUE:
        starts = (int(columns[0] * downsample), int(rows[0] * downsample))
        ends = (min(int((columns[-1] + 1) * downsample), size_px[0]), min(int((rows[-1] + 1) * downsample), size_px[1]))
    xs, ys = (_starts(start, end, tile_px, overlap) for start, end in zip(starts, ends, strict=True))
    y, x = (axis.ravel() for axis in np.meshgrid(ys, xs, indexing="ij"))
    if min_tissue:
        is_taken = _share_of_tissue(mask, x / downsample, y / downsample, tile_px / downsample) >= min_tissue
    else:
        is_taken = _has_tissue_at_a_point(mask, downsample, x, y, tile_px)
    return np.stack([x, y], axis=1)[is_taken].astype(np.int32)


def _starts(start: int, end: int, tile_px: int, overlap: float) -> np.ndarray:
    """Returns where tiles begin along an axis, so many that they cover it."""
    step = max(1, round(tile_px * (1 - overlap)))
    return start + step * np.arange(1 + max(0, -(-(end - start - tile_px) // step)))


def _has_tissue_at_a_point(mask: np.ndarray, downsample: float, x: np.ndarray, y: np.ndarray, tile_px: int) -> np.ndarray:
    on_tissue = np.zeros(len(x), bool)
    for dx in (0.25, 0.75):
        for dy in (0.25, 0.75):
            column, row = (((start + part * tile_px) / downsample).astype(int) for start, part in ((x, dx), (y, dy)))
            is_inside = (column < mask.shape[1]) & (row < mask.shape[0])
            on_tissue[is_inside] |= mask[row[is_inside], column[is_inside]]
    return on_tissue


def _share_of_tissue(mask: np.ndarray, x: np.ndarray, y: np.ndarray, edge: float) -> np.ndarray:
    """Returns how much of squares is tissue, 0..1, exactly: parts of the mask's pixels count as parts."""
    area = np.pad(mask.cumsum(0).cumsum(1).astype(np.float64), ((1, 0), (1, 0)))  # of all above and left of a corner

    def above_left(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(area, [y, x], order=1, mode="nearest")

    return (above_left(x + edge, y + edge) - above_left(x, y + edge) - above_left(x + edge, y) + above_left(x, y)) / edge**2
