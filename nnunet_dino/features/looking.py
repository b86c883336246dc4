"""What ``nnunet-dino look`` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino._files import write_atomically
from nnunet_dino.features.encoder import Features, FrozenEncoder, default_batch, pick_device
from nnunet_dino.features.inputs import IMAGES, SLIDES, find_items
from nnunet_dino.features.items import Item, Source, Unreadable
from nnunet_dino.features.look import Seen, pca_colours, similarity
from nnunet_dino.features.look_picture import gradient, look_html, look_png
from nnunet_dino.features.picture import open_image, read_pixels
from nnunet_dino.features.pixels import Preprocessing, placement
from nnunet_dino.features.slide import Tiling, open_slide, read_overview, require_openslide, slide_of
from nnunet_dino.features.tile_map import colour_tiles, draw_tiles, png
from nnunet_dino.features.volume import Slicing, read_volume, show_slices, take_plane

ENDINGS = (".png", ".html")
OVERVIEW_PX = 1200


def run(
    echo: Callable[[str], object],
    *,
    image: str,
    output: str,
    at: str | None,
    slices: Sequence[int],
    backbone: str,
    kind: str,
    size_px: int,
    fit: str,
    window: str,
    plane: str,
    tissue: str,
    mpp: float | None,
    device: str,
) -> None:
    """Draws what the patch tokens of one image, of slices of a volume, or of the tiles of a slide see.

    Raises:
        UserError: The input or an option cannot be used.
    """
    target = Path(output)
    if target.suffix.lower() not in ENDINGS:
        raise UserError(f"-o: required a file ending in .png or .html · got {output}")
    preprocessing, slicing, tiling = Preprocessing(size_px, fit, window), Slicing(plane), Tiling(tissue, mpp)
    point = _point(at)
    found, items = find_items([image], kind)
    if len(items) != 1:
        raise UserError(f"required one image, volume or slide · got {image} with {len(items)}")
    if found == SLIDES and target.suffix.lower() == ".html":
        raise UserError(f"-o: required a .png file for slides · got {output}")
    encoder = FrozenEncoder(backbone, pick_device(device))
    try:
        if found == SLIDES:
            content = _slide(items[0], preprocessing, tiling, encoder, point)
        else:
            content = _grid(items[0], found, preprocessing, slicing, slices, encoder, point, target)
    except Unreadable as error:
        raise UserError(f"required a readable input · got {image}: {error}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(str(target), lambda path: Path(path).write_bytes(content))
    echo(f"written: {target}")
    for note in _notes(encoder):
        echo(f"Note: {note}")


def _point(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--at: required X,Y in pixels, for example 120,80 · got {text!r}") from None
    return x, y


def _notes(encoder: FrozenEncoder) -> list[str]:
    return (
        ["The backbone's weights are random. What is seen here says nothing about DINOv3."]
        if encoder.weights_are_random
        else []
    )


def _grid(
    item: Item,
    kind: str,
    preprocessing: Preprocessing,
    slicing: Slicing,
    chosen: Sequence[int],
    encoder: FrozenEncoder,
    point: tuple[float, float] | None,
    target: Path,
) -> bytes:
    pixel_hw = (1.0, 1.0)
    if kind == IMAGES:
        if chosen:
            raise UserError(f"--slice: required a volume with it · got the picture {item.path}")
        source, names, numbers = open_image(item, preprocessing), [item.id], [0]
        shape = read_pixels(item.path)[0].shape[:2]
    else:
        volume = read_volume(item)
        whole, pixel_hw = take_plane(volume, slicing.plane)
        numbers, shape = _numbers(chosen, len(whole)), whole.shape[1:]
        source = show_slices(volume, preprocessing, slicing)
        names = [f"{slicing.plane} slice {number} of {len(whole)}" for number in numbers]
    images = torch.cat([source.images(number, number + 1) for number in numbers]).expand(-1, 3, -1, -1)
    tokens = _encoded(images, encoder, preprocessing.size_px, lambda features: features.patch_map).movedim(1, -1)
    seen = Seen(names, images.movedim(1, -1).numpy(), tokens.numpy())
    title = f"{item.id}: patch tokens of {encoder.name}"
    grid = tokens.shape[1:3]
    place = None if point is None else _token_at(point, shape, preprocessing, pixel_hw, grid)
    if target.suffix.lower() == ".png":
        return look_png(seen, None if place is None else (0, *place), " · ".join([title, *_notes(encoder)]))
    start = place or (grid[0] // 2, grid[1] // 2)
    return look_html(seen, (0, *start), title, _notes(encoder)).encode("utf-8")


def _numbers(chosen: Sequence[int], count: int) -> list[int]:
    """Returns the slices that are drawn: those asked for, else the middle one."""
    for number in chosen:
        if not 0 <= number < count:
            raise UserError(f"--slice: required a number from 0 to {count - 1} · got {number}")
    return list(chosen) or [count // 2]


def _token_at(
    point: tuple[float, float],
    shape: tuple[int, ...],
    preprocessing: Preprocessing,
    pixel_hw: tuple[float, float],
    grid: Sequence[int],
) -> tuple[int, int]:
    """Returns row and column of the token that shows a pixel of the image."""
    height, width = shape
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(f"--at: required a pixel of the image, 0,0 to {width - 1},{height - 1} · got {x:g},{y:g}")
    where = placement((height, width), preprocessing.size_px, preprocessing.fit, pixel_hw)
    row = (where.top + (y + 0.5) / height * where.height) / preprocessing.size_px
    column = (where.left + (x + 0.5) / width * where.width) / preprocessing.size_px
    if not (0 <= row < 1 and 0 <= column < 1):
        raise UserError(f"--at: required a pixel that is shown · got {x:g},{y:g}, which --fit {preprocessing.fit} cuts off")
    return int(row * grid[0]), int(column * grid[1])


def _encoded(images: Tensor, encoder: FrozenEncoder, size_px: int, pick: Callable[[Features], Tensor]) -> Tensor:
    return torch.cat([pick(encoder(part)).cpu() for part in images.split(default_batch(size_px))])


def _slide(
    item: Item, preprocessing: Preprocessing, tiling: Tiling, encoder: FrozenEncoder, point: tuple[float, float] | None
) -> bytes:
    """Draws a slide's tiles: their outlines, their colours, and their similarity to the tile at a point."""
    require_openslide()
    source = open_slide(item, preprocessing, tiling)
    features = _tile_features(source, encoder, preprocessing.size_px)
    source.close()
    slide = slide_of(item.path)
    overview, downsample = read_overview(slide, max(1.0, max(slide.dimensions) / OVERVIEW_PX))
    slide.close()
    corners, tile_px = source.coordinates.numpy(), int(source.facts["tile_px"])
    panels = [
        draw_tiles(overview, downsample, corners, tile_px),
        colour_tiles(overview, downsample, corners, tile_px, pca_colours(features)),
    ]
    if point is not None:
        inside = ((corners <= point) & (np.array(point) < corners + tile_px)).all(1)
        if not inside.any():
            raise UserError(f"--at: required a point on a tile, in pixels at full resolution · got {point[0]:g},{point[1]:g}")
        cosines = similarity(features, (int(inside.argmax()),))
        panels.append(colour_tiles(overview, downsample, corners, tile_px, gradient(cosines)))
    return png(*panels)


def _tile_features(source: Source, encoder: FrozenEncoder, size_px: int) -> np.ndarray:
    batch = default_batch(size_px)
    parts = [
        encoder(source.images(start, min(start + batch, source.num_images))) for start in range(0, source.num_images, batch)
    ]
    return torch.cat([features.patch_mean.cpu() for features in parts]).numpy()
