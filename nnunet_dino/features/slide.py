"""Whole slides: the tiles on tissue, by OpenSlide."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nnunet_dino._packages import require
from nnunet_dino.features.items import Item, Source, Unreadable, decoding, with_notes
from nnunet_dino.features.ome import ome_overview
from nnunet_dino.features.pixels import BILINEAR, Preprocessing, fit_square, shows_image
from nnunet_dino.features.slide_resolution import own_mpp, tile_edge_px
from nnunet_dino.features.tiling import Tiling
from nnunet_dino.features.tissue import REFERENCE_PX, TISSUE_RULES, sharpness, tile_corners, tissue_mask, tissue_rule

if TYPE_CHECKING:
    from openslide import AbstractSlide

MASK_DOWNSAMPLE = 32
MAX_OVERVIEW_PIXELS = 200_000_000
WHITE = (255, 255, 255)
OPENSLIDE = ("openslide", "wsi", "slides")  # as it is required


def require_openslide() -> None:
    """Refuses slides where OpenSlide is missing.

    Raises:
        UserError: It is missing.
    """
    require(*OPENSLIDE)


def open_slide(item: Item, preprocessing: Preprocessing, tiling: Tiling) -> Source:
    """Finds the tiles of a slide; they are read on demand.

    Raises:
        Unreadable: The file is missing or no slide, its resolution is asked for and not known, or no tissue is found.
    """
    slide = slide_of(item.path)
    try:
        return _tiles_of(slide, item.path, preprocessing, tiling)
    except BaseException:
        slide.close()
        raise


@dataclass(frozen=True)
class SlideTiles:
    """Where a slide is cut.

    Attributes:
        corners: x and y of the upper left corners at full resolution, ``n 2``.
        tile_px: Edge of a tile at full resolution.
        mpp: Micrometres per pixel of the slide; None where nobody knows them.
        mask: Tissue, ``h w``.
        downsample: Pixels at full resolution per pixel of the mask.
        note: What had to be decided.
    """

    corners: np.ndarray
    tile_px: int
    mpp: float | None
    mask: np.ndarray
    downsample: float
    note: str


def find_tiles(slide: AbstractSlide, path: str, size_px: int, tiling: Tiling) -> SlideTiles:
    """Finds the tiles of an opened slide; only to drop blurred ones they are read.

    Args:
        slide: The slide.
        path: Its file.
        size_px: Edge of a tile as it is shown.
        tiling: How to cut.

    Raises:
        Unreadable: As for :func:`open_slide`, or all tiles are blurred.
    """
    mpp, note = own_mpp(slide, path, tiling)
    tile_px = tile_edge_px(size_px, tiling, mpp)
    overview, downsample = read_overview(slide, path, MASK_DOWNSAMPLE)

    def cut(rule: str) -> tuple[np.ndarray, np.ndarray]:
        mask = tissue_mask(overview, downsample, tissue_rule(rule), tiling.drop_pen)
        where = (tiling.grid, tiling.overlap, tiling.min_tissue)
        return mask, tile_corners(mask, downsample, slide.dimensions, tile_px, *where)

    mask, corners = cut(tiling.tissue)
    if len(corners) and tiling.drop_blur:
        corners, left_out = _sharp(slide, corners, tile_px, size_px, tiling.drop_blur)
        note = "; ".join(filter(None, (note, left_out)))
    if len(corners):
        return SlideTiles(corners, tile_px, mpp, mask, downsample, note)
    rule = tissue_rule(tiling.tissue)
    if (overview.max(2) - overview.min(2)).max() <= rule.saturation:
        raise Unreadable("no tissue found: the slide has no colour, by which tissue is told from glass · scan it in colour")
    if tiling.min_tissue and mask.any():
        raise Unreadable(f"no tile is filled to {tiling.min_tissue:g} with tissue · give a smaller --min-tissue")
    others = {name: len(cut(name)[1]) for name in TISSUE_RULES if name != tiling.tissue}
    hint = ", ".join(f"--tissue {name} ({count} tiles)" for name, count in others.items() if count)
    raise Unreadable(
        f"no tissue found with --tissue {tiling.tissue}, whose smallest piece is {rule.min_area:g} squares of {REFERENCE_PX} "
        f"px; the slide has {slide.dimensions[0] * slide.dimensions[1] / REFERENCE_PX**2:.3g}{f' · try {hint}' if hint else ''}"
    )


def _sharp(slide: AbstractSlide, corners: np.ndarray, tile_px: int, size_px: int, least: float) -> tuple[np.ndarray, str]:
    """Returns the tiles that are not blurred, and how many of them are."""
    tiles = (read_tile(slide, x, y, tile_px, size_px) for x, y in corners.tolist())
    found = np.array([sharpness(255 * tile.permute(1, 2, 0).numpy()) for tile in tiles])
    if found.max() < least:
        raise Unreadable(
            f"all {len(found)} tiles are blurred, the sharpest with {found.max():.3g} · give a smaller --drop-blur"
        )
    count = int((found < least).sum())
    return corners[found >= least], f"{count} of {len(found)} tiles were left out as blurred" if count else ""


def _tiles_of(slide: AbstractSlide, path: str, preprocessing: Preprocessing, tiling: Tiling) -> Source:
    tiles = find_tiles(slide, path, preprocessing.size_px, tiling)
    corners, tile_px = tiles.corners, tiles.tile_px
    size_px, mode = preprocessing.size_px, preprocessing.interpolation

    def images(start: int, stop: int) -> Tensor:
        shown = [read_tile(slide, x, y, tile_px, size_px, mode) for x, y in corners[start:stop].tolist()]
        return torch.stack(shown)

    width, height = slide.dimensions
    facts = {"shape": f"{height} × {width}", "tile_px": tile_px, "mpp": tiles.mpp or ""}
    facts = with_notes(facts, [tiles.note] if tiles.note else [])
    all_tokens = shows_image((tile_px, tile_px), preprocessing)
    return Source(len(corners), images, facts, all_tokens, torch.from_numpy(corners), slide.close)


def slide_of(path: str) -> AbstractSlide:
    """Opens a slide.

    Raises:
        UserError: OpenSlide is missing.
        Unreadable: The file is missing or no slide.
    """
    openslide = require(*OPENSLIDE)
    if not os.path.isfile(path):
        raise Unreadable("no such file")
    try:
        with decoding():
            return openslide.open_slide(path)
    except Unreadable as error:
        raise Unreadable(f"no slide that OpenSlide can read: {error}") from error


def read_overview(slide: AbstractSlide, path: str, downsample: float) -> tuple[np.ndarray, float]:
    """Returns the whole slide as a small picture, ``h w 3``, and how many pixels of the slide each of its pixels covers.

    Args:
        slide: The slide.
        path: Its file.
        downsample: About how many pixels each pixel is to cover.

    Raises:
        Unreadable: The smallest suitable level does not fit into memory.
    """
    level = slide.get_best_level_for_downsample(downsample)
    width, height = slide.level_dimensions[level]
    picture = ome_overview(path, slide.dimensions, downsample) if slide.level_count == 1 else None
    if picture is None:
        if width * height > MAX_OVERVIEW_PIXELS:
            raise Unreadable(f"required a level of at most {MAX_OVERVIEW_PIXELS // 10**6} megapixels, has {width} × {height}")
        with decoding():
            picture = on_white(slide.read_region((0, 0), level, (width, height)))
    wide = max(1, round(slide.dimensions[0] / downsample))
    scale = slide.dimensions[0] / wide
    size = (wide, max(1, round(slide.dimensions[1] / scale)))
    return np.asarray(picture.resize(size, Image.Resampling.BOX, reducing_gap=None)), scale


def on_white(tile: Image.Image) -> Image.Image:
    """Lays a picture with holes on white, as OpenSlide leaves out what was not scanned."""
    if tile.mode != "RGBA":
        return tile.convert("RGB")
    ground = Image.new("RGB", tile.size, WHITE)
    ground.paste(tile, mask=tile.getchannel("A"))
    return ground


def read_tile(slide: AbstractSlide, x: int, y: int, tile_px: int, size_px: int, mode: str = BILINEAR) -> Tensor:
    """Returns a tile ``3 s s``, 0..1, read at the level next to the wanted resolution."""
    level = slide.get_best_level_for_downsample(tile_px / size_px)
    edge = max(1, round(tile_px / slide.level_downsamples[level]))
    with decoding():
        pixels = np.asarray(on_white(slide.read_region((x, y), level, (edge, edge))))
    tile = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    return fit_square(tile, size_px, "stretch", mode=mode)[0]
