"""Whole slides: the tiles on tissue, by OpenSlide."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.features.items import Item, Source, Unreadable, decoding
from nnunet_dino.features.pixels import Placement, Preprocessing, fit_square, shows_image
from nnunet_dino.features.tissue import REFERENCE_PX, TISSUE_RULES, tile_corners, tissue_mask, tissue_rule

if TYPE_CHECKING:
    from openslide import AbstractSlide

MASK_DOWNSAMPLE = 32
MAX_OVERVIEW_PIXELS = 200_000_000
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Tiling:
    """How a slide is cut.

    Attributes:
        tissue: Name of a rule in :data:`nnunet_dino.features.tissue.TISSUE_RULES`.
        mpp: Micrometres per pixel at which tiles are shown; None for the slide's full resolution.

    Raises:
        UserError: A value is none of these.
    """

    tissue: str = "default"
    mpp: float | None = None

    def __post_init__(self) -> None:
        tissue_rule(self.tissue)
        if self.mpp is not None and not self.mpp > 0:
            raise UserError(f"--mpp: required a positive number of micrometres · got {self.mpp:g}")


def require_openslide() -> None:
    """Refuses slides where OpenSlide is missing.

    Raises:
        UserError: It is missing.
    """
    try:
        import openslide  # noqa: F401
    except ImportError as error:
        raise UserError("slides: required OpenSlide · got none · pip install 'nnunet-dino[wsi]'") from error


def open_slide(item: Item, preprocessing: Preprocessing, tiling: Tiling) -> Source:
    """Finds the tiles of a slide; they are read on demand.

    Raises:
        Unreadable: The file is missing or no slide, its resolution is asked for and not known, or no tissue is found.
    """
    slide = slide_of(item.path)
    try:
        return _tiles_of(slide, preprocessing, tiling)
    except BaseException:
        slide.close()
        raise


def _tiles_of(slide: AbstractSlide, preprocessing: Preprocessing, tiling: Tiling) -> Source:
    tile_px = _tile_px(slide, preprocessing.size_px, tiling.mpp)
    overview, downsample = read_overview(slide, MASK_DOWNSAMPLE)
    rule = tissue_rule(tiling.tissue)
    corners = tile_corners(tissue_mask(overview, downsample, rule), downsample, slide.dimensions, tile_px)
    if not len(corners):
        least = min(TISSUE_RULES, key=lambda name: TISSUE_RULES[name].min_area)
        hint = f" · try --tissue {least}" if TISSUE_RULES[least].min_area < rule.min_area else ""
        raise Unreadable(
            f"no tissue found with --tissue {tiling.tissue}, whose smallest piece is {rule.min_area:g} squares of "
            f"{REFERENCE_PX} px; the slide has {slide.dimensions[0] * slide.dimensions[1] / REFERENCE_PX**2:.3g}{hint}"
        )

    def images(start: int, stop: int) -> Tensor:
        tiles = [_read_tile(slide, x, y, tile_px, preprocessing.size_px) for x, y in corners[start:stop].tolist()]
        return torch.stack(tiles)

    width, height = slide.dimensions
    facts = {"shape": f"{height} × {width}", "tile_px": tile_px, "mpp": slide.properties.get("openslide.mpp-x", "")}
    all_tokens = shows_image(Placement(0, 0, preprocessing.size_px, preprocessing.size_px), preprocessing.size_px)
    return Source(len(corners), images, facts, all_tokens, torch.from_numpy(corners), slide.close)


def slide_of(path: str) -> AbstractSlide:
    """Opens a slide.

    Raises:
        Unreadable: The file is missing or no slide.
    """
    import openslide

    if not os.path.isfile(path):
        raise Unreadable("no such file")
    try:
        with decoding():
            return openslide.open_slide(path)
    except Unreadable as error:
        raise Unreadable(f"no slide that OpenSlide can read: {error}") from error


def read_overview(slide: AbstractSlide, downsample: float) -> tuple[np.ndarray, float]:
    """Returns the whole slide as a small picture, ``h w 3``, and how many pixels of the slide each of its pixels covers.

    Raises:
        Unreadable: The smallest suitable level does not fit into memory.
    """
    level = slide.get_best_level_for_downsample(downsample)
    width, height = slide.level_dimensions[level]
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


def _tile_px(slide: AbstractSlide, size_px: int, mpp: float | None) -> int:
    if mpp is None:
        return size_px
    try:
        own = float(slide.properties["openslide.mpp-x"])
    except (KeyError, ValueError):
        raise Unreadable(f"required the slide's resolution for --mpp {mpp:g}, its file does not say") from None
    return max(1, round(size_px * mpp / own))


def _read_tile(slide: AbstractSlide, x: int, y: int, tile_px: int, size_px: int) -> Tensor:
    """Returns a tile ``3 s s``, 0..1, read at the level next to the wanted resolution."""
    level = slide.get_best_level_for_downsample(tile_px / size_px)
    edge = max(1, round(tile_px / slide.level_downsamples[level]))
    with decoding():
        pixels = np.asarray(on_white(slide.read_region((x, y), level, (edge, edge))))
    tile = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    return fit_square(tile, size_px, "stretch")[0]
