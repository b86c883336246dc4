"""A look at a slide: its tissue and tiles, and what the tiles' features say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.features.items import Item
from nnunet_dino.features.pixels import Preprocessing
from nnunet_dino.features.slide import find_tiles, open_slide, read_overview, slide_of
from nnunet_dino.features.slide_shapes import geojson, tissue_polygons
from nnunet_dino.features.tile_map import colour_tiles, draw_tiles, outline, png
from nnunet_dino.features.tiling import Tiling
from nnunet_dino.features.token_colours import gradient, pca_colours, similarity

OVERVIEW_PX = 1200


def slide_shapes(item: Item, size_px: int, tiling: Tiling, as_geojson: bool, notes: list[str]) -> bytes:
    """Returns the outlines of tissue and tiles, drawn as PNG or as GeoJSON; tiles are read only to drop blurred ones.

    Raises:
        UserError: OpenSlide is missing.
        Unreadable: The slide cannot be used.
    """
    with slide_of(item.path) as slide:
        tiles = find_tiles(slide, item.path, size_px, tiling)
        size, overview, downsample = slide.dimensions, *_overview(slide, item.path)
    notes += [_count(len(tiles.corners), tiles.tile_px), *([tiles.note] if tiles.note else [])]
    if as_geojson:
        return geojson(tissue_polygons(tiles.mask, tiles.downsample, size), tiles.corners, tiles.tile_px).encode("utf-8")
    drawn = outline(draw_tiles(overview, downsample, tiles.corners, tiles.tile_px), tiles.mask, tiles.downsample / downsample)
    return png(overview, drawn)


def slide_view(
    item: Item,
    preprocessing: Preprocessing,
    tiling: Tiling,
    encode: Callable[..., Tensor],
    point: tuple[float, float] | None,
    notes: list[str],
) -> bytes:
    """Draws a slide's tiles: their outlines, their colours, and their similarity to the tile at a point.

    Raises:
        UserError: OpenSlide is missing, or no tile is at the point.
        Unreadable: The slide cannot be used.
    """
    source = open_slide(item, preprocessing, tiling)
    assert source.coordinates is not None
    corners, tile_px = source.coordinates.numpy(), int(source.facts["tile_px"])
    notes += [_count(len(corners), tile_px), *source.notes]
    place = None
    if point is not None:
        inside = ((corners <= point) & (np.array(point) < corners + tile_px)).all(1)
        if not inside.any():
            raise UserError(f"--at: required a point on a tile, in pixels at full resolution · got {point[0]:g},{point[1]:g}")
        place = int(inside.argmax())
    features = encode(source, preprocessing.size_px, lambda features: features.patch_mean).numpy()
    source.close()
    with slide_of(item.path) as slide:
        overview, downsample = _overview(slide, item.path)
    panels = [
        draw_tiles(overview, downsample, corners, tile_px),
        colour_tiles(overview, downsample, corners, tile_px, pca_colours(features)),
    ]
    if place is not None:
        panels.append(colour_tiles(overview, downsample, corners, tile_px, gradient(similarity(features, (place,)))))
    return png(*panels)


def _overview(slide, path: str) -> tuple[np.ndarray, float]:
    return read_overview(slide, path, max(1.0, max(slide.dimensions) / OVERVIEW_PX))


def _count(count: int, tile_px: int) -> str:
    return f"{count:,} tiles, each {tile_px} px of the slide's full resolution"
