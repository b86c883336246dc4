"""Whole slides: the tiles on tissue, by OpenSlide."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.features.items import Item, Source, Unreadable, decoding, with_notes
from nnunet_dino.features.pixels import Placement, Preprocessing, fit_square, shows_image
from nnunet_dino.features.tissue import REFERENCE_PX, TISSUE_RULES, tile_corners, tissue_mask, tissue_rule

if TYPE_CHECKING:
    from openslide import AbstractSlide

MASK_DOWNSAMPLE = 32
MAX_OVERVIEW_PIXELS = 200_000_000
WHITE = (255, 255, 255)
PLAUSIBLE_MPP = (0.05, 4.0)
MAX_STRETCH = 0.02
MAX_UPSAMPLING = 0.1  # slides of 0.25 and of 0.2527 are both called 40x


@dataclass(frozen=True)
class Tiling:
    """How a slide is cut.

    Attributes:
        tissue: Name of a rule in :data:`nnunet_dino.features.tissue.TISSUE_RULES`.
        mpp: Micrometres per pixel at which tiles are shown; None for the slide's full resolution.
        slide_mpp: Micrometres per pixel of the slides themselves, where their files are wrong or silent.

    Raises:
        UserError: A value is none of these.
    """

    tissue: str = "default"
    mpp: float | None = None
    slide_mpp: float | None = None

    def __post_init__(self) -> None:
        tissue_rule(self.tissue)
        for option, number in (("--mpp", self.mpp), ("--slide-mpp", self.slide_mpp)):
            if number is not None and not 0 < number < float("inf"):
                raise UserError(f"{option}: required a positive number of micrometres · got {number:g}")


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
        return _tiles_of(slide, item.path, preprocessing, tiling)
    except BaseException:
        slide.close()
        raise


def _tiles_of(slide: AbstractSlide, path: str, preprocessing: Preprocessing, tiling: Tiling) -> Source:
    own_mpp, note = _own_mpp(slide, path, tiling)
    tile_px = _tile_px(preprocessing.size_px, tiling.mpp, own_mpp)
    overview, downsample = read_overview(slide, MASK_DOWNSAMPLE)
    rule = tissue_rule(tiling.tissue)
    corners = tile_corners(tissue_mask(overview, downsample, rule), downsample, slide.dimensions, tile_px)
    if not len(corners):
        least = min(TISSUE_RULES, key=lambda name: TISSUE_RULES[name].min_area)
        if (overview.max(2) - overview.min(2)).max() <= rule.saturation:
            raise Unreadable("no tissue found: the slide has no colour, by which tissue is told from glass · scan it in colour")
        hint = f" · try --tissue {least}" if TISSUE_RULES[least].min_area < rule.min_area else ""
        raise Unreadable(
            f"no tissue found with --tissue {tiling.tissue}, whose smallest piece is {rule.min_area:g} squares of "
            f"{REFERENCE_PX} px; the slide has {slide.dimensions[0] * slide.dimensions[1] / REFERENCE_PX**2:.3g}{hint}"
        )

    def images(start: int, stop: int) -> Tensor:
        tiles = [_read_tile(slide, x, y, tile_px, preprocessing) for x, y in corners[start:stop].tolist()]
        return torch.stack(tiles)

    width, height = slide.dimensions
    facts = {"shape": f"{height} × {width}", "tile_px": tile_px, "mpp": own_mpp or ""}
    facts = with_notes(facts, [note] if note else [])
    all_tokens = shows_image(Placement(0, 0, preprocessing.size_px, preprocessing.size_px), preprocessing)
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


def _own_mpp(slide: AbstractSlide, path: str, tiling: Tiling) -> tuple[float | None, str]:
    """Returns the slide's micrometres per pixel, and what is to be said of them.

    Raises:
        Unreadable: They are needed and not known, or no microscope has them, or pixels are not square.
    """
    if tiling.slide_mpp is not None:
        return tiling.slide_mpp, ""
    named = [slide.properties.get(f"openslide.mpp-{axis}", "") for axis in "xy"]
    try:
        x, y = (float(text) for text in (named if all(named) else _mpp_of_ome(path)))
    except ValueError:
        if tiling.mpp is None:
            return None, ""
        raise Unreadable(
            f"required the slide's resolution for --mpp {tiling.mpp:g}, its file does not say · state it with --slide-mpp"
        ) from None
    low, high = PLAUSIBLE_MPP
    if not low <= min(x, y) <= max(x, y) <= high:
        odd = f"{x:g} micrometres per pixel, which is not between {low:g} and {high:g} as of microscopes"
        if tiling.mpp is None:
            return None, f"its file says {odd}; full resolution was taken"
        raise Unreadable(
            f"required a plausible resolution for --mpp {tiling.mpp:g}, has {odd} · state the right one with --slide-mpp"
        )
    if abs(x / y - 1) > MAX_STRETCH:
        raise Unreadable(f"required square pixels, has {x:g} × {y:g} micrometres · resample the slide, or state --slide-mpp")
    return x, ""


def _mpp_of_ome(path: str) -> tuple[str, str]:
    """Returns the resolution of an OME-TIFF, which OpenSlide does not read; empty texts where there is none."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            text = file.ome_metadata or ""
    except (OSError, ValueError):  # tifffile's own error is a ValueError
        return "", ""
    found = [re.search(rf'PhysicalSize{axis}="([^"]+)"', text) for axis in "XY"]
    units = [re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', text) for axis in "XY"]
    if any(unit and unit[1] not in ("µm", "μm", "um") for unit in units):
        return "", ""
    x, y = (match[1] if match else "" for match in found)
    return x, y


def _tile_px(size_px: int, mpp: float | None, own_mpp: float | None) -> int:
    if mpp is None or own_mpp is None:
        return size_px
    if mpp < own_mpp * (1 - MAX_UPSAMPLING):
        raise Unreadable(
            f"required --mpp of at least the slide's own {own_mpp:g}, has {mpp:g}, for which pixels would be invented "
            "· give a coarser --mpp, or the right resolution of the slide with --slide-mpp"
        )
    return max(1, round(size_px * mpp / own_mpp))


def _read_tile(slide: AbstractSlide, x: int, y: int, tile_px: int, preprocessing: Preprocessing) -> Tensor:
    """Returns a tile ``3 s s``, 0..1, read at the level next to the wanted resolution."""
    level = slide.get_best_level_for_downsample(tile_px / preprocessing.size_px)
    edge = max(1, round(tile_px / slide.level_downsamples[level]))
    with decoding():
        pixels = np.asarray(on_white(slide.read_region((x, y), level, (edge, edge))))
    tile = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    return fit_square(tile, preprocessing.size_px, "stretch", mode=preprocessing.interpolation)[0]
