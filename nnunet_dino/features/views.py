"""A look at what patch tokens see in one image, in slices of a volume, or in the tiles of a slide."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino._files import write_atomically
from nnunet_dino.backbones.image_encoder import FoundBackbone, find_backbone
from nnunet_dino.backbones.spec import PATCH_PX
from nnunet_dino.backbones.weights.model_config import Statistics
from nnunet_dino.features.encoder import Features, FrozenEncoder, default_batch, pick_device
from nnunet_dino.features.inputs import IMAGES, SLIDES, find_items
from nnunet_dino.features.items import Item, Source, Unreadable
from nnunet_dino.features.memory import check_memory
from nnunet_dino.features.picture import read_picture, show_picture
from nnunet_dino.features.pixels import OWN, Preprocessing, placement
from nnunet_dino.features.progress import Meter
from nnunet_dino.features.slide_view import slide_shapes, slide_view
from nnunet_dino.features.tiling import Tiling
from nnunet_dino.features.view_page import view_page
from nnunet_dino.features.view_png import TokenView, view_png
from nnunet_dino.features.volume import EDGES, OPPOSITE, Slicing, read_volume, show_slices, take_plane

ENDINGS = (".png", ".html")
SHAPES_ENDINGS = (".png", ".geojson")  # of tiles alone
MIN_TOKENS, MAX_TOKENS = 48, 64  # along the edge: fewer show no shapes, more take long
RANDOM = "The backbone's weights are random. What is seen here says nothing about DINOv3."
Point = tuple[float, float]


def look(
    image: str,
    output: str | Path,
    backbone: str | FoundBackbone = "dinov3_vits16",
    *,
    at: Point | None = None,
    slices: Sequence[int] = (),
    kind: str = "auto",
    size_px: int | None = None,
    fit: str = "pad",
    window: str = "auto",
    statistics: Statistics | None = None,
    plane: str = "axial",
    volume: int | None = None,
    tiling: Tiling | None = None,
    tiles_only: bool = False,
    device: str = "auto",
    show_progress: bool = False,
) -> list[str]:
    """Draws what the patch tokens of one image, of slices of a volume, or of the tiles of a slide see.

    Args:
        image: A picture, volume or slide.
        output: A ``.png`` file, or an ``.html`` page to click on.
        backbone: See :func:`nnunet_dino.backbones.image_encoder.find_backbone`.
        at: x and y of the pixel whose token all others are compared with; of a slide at full resolution.
        slices: Of a volume, from 0; by default the middle one.
        kind: ``images``, ``volumes``, ``slides`` or ``auto``.
        size_px: Edge of the square shown to the backbone; by default as many pixels as the image has, within 48 to 64 tokens,
            and 224 for tiles.
        fit: See :class:`nnunet_dino.features.Preprocessing`.
        window: Likewise.
        statistics: Likewise.
        plane: Of volumes.
        volume: Which of several volumes in an input, from 0.
        tiling: How a slide is cut.
        tiles_only: Draw tissue and tiles of a slide without encoding them, or write them as ``.geojson``.
        device: Where to compute.
        show_progress: Draw a bar on standard error, or print a line a minute where that is no terminal.

    Returns:
        What a reader must know.

    Raises:
        UserError: The input or an option cannot be used.
    """
    target, tiling = Path(output), tiling or Tiling()
    _check_target(target, SHAPES_ENDINGS if tiles_only else ENDINGS)
    slicing = Slicing(plane, volume=volume)

    found_backbone = find_backbone(backbone)
    spec = found_backbone.spec
    if fit == OWN:
        raise UserError("--fit: required pad, stretch or crop to look at an image · got own")

    def prepared(num_tokens: int) -> Preprocessing:
        size = num_tokens * spec.patch_px if spec.takes_any_size and size_px is None else size_px
        return Preprocessing.of(spec, size, fit, window, statistics)

    prepared(1)
    found, items = find_items([image], kind)
    if len(items) != 1:
        raise UserError(f"required one image, volume or slide · got {image} with {len(items)} · name one file")
    if found == SLIDES and target.suffix.lower() == ".html":
        raise UserError(f"-o: required a .png file for slides · got {output}")
    if found == IMAGES and slices:
        raise UserError(f"--slice: required a volume with it · got the picture {image}")
    if tiles_only and found != SLIDES:
        raise UserError(
            f"--tiles-only: required a slide · got {image}, which is taken for {found} · --kind slides says it is one"
        )
    notes: list[str] = []
    try:
        if tiles_only:
            content = slide_shapes(items[0], prepared(224 // spec.patch_px).size_px, tiling, target.suffix == ".geojson", notes)
        else:
            encoder = FrozenEncoder(found_backbone, pick_device(device), statistics)
            if size_px is not None:  # before an image is made so large
                check_memory(1, size_px, encoder.patch_px, encoder.embed_dim, encoder.device)
            notes += [RANDOM if encoder.weights_are_random else f"Licence of the weights: {encoder.licence}"]
            encode = partial(_encoded, encoder=encoder, show_progress=show_progress)
            if found == SLIDES:
                content = slide_view(items[0], prepared(224 // spec.patch_px), tiling, encode, at, notes)
            else:
                opened = _picture(items[0], prepared) if found == IMAGES else _volume(items[0], prepared, slicing, slices)
                notes += opened.source.notes
                place = None if at is None else (0, *_token_at(at, opened))
                view = _view(opened, f"{items[0].id}: patch tokens of {encoder.name}", notes, encode)
                content = _drawn(view, place, target)
    except Unreadable as error:
        raise UserError(f"required a readable input · got {image}: {error}") from error
    write_atomically(target, content)
    return notes


def _check_target(target: Path, endings: Sequence[str]) -> None:
    """Refuses what could not be written, before anything is computed."""
    if target.suffix.lower() not in endings:
        raise UserError(f"-o: required a file ending in {' or '.join(endings)} · got {str(target)!r}")
    above = next(folder for folder in target.parents if os.path.lexists(folder))
    if os.path.isdir(target) or not os.path.isdir(above):
        raise UserError(f"-o: required a file in a folder · got {target} · name another")


@dataclass(frozen=True)
class _Opened:
    """What of an input is looked at: some images of ``source``, whose pixels have the shape and size ``h w``."""

    source: Source
    numbers: Sequence[int]
    names: list[str]
    shape_hw: tuple[int, int]
    pixel_hw: tuple[float, float]
    preprocessing: Preprocessing
    letters: tuple[str, ...] = ()


def _picture(item: Item, prepared: Callable[[int], Preprocessing]) -> _Opened:
    picture = read_picture(item.path)
    shape_hw, pixel_hw = (picture.values.shape[0], picture.values.shape[1]), picture.pixel_hw
    preprocessing = prepared(_num_tokens(shape_hw, pixel_hw))
    return _Opened(show_picture(picture, preprocessing), [0], [item.id], shape_hw, pixel_hw, preprocessing)


def _volume(item: Item, prepared: Callable[[int], Preprocessing], slicing: Slicing, chosen: Sequence[int]) -> _Opened:
    volume = read_volume(item, slicing.volume)
    slices, pixel_hw = take_plane(volume, slicing.plane)
    count, *shape = slices.shape[:3]
    for number in chosen:
        if not 0 <= number < count:
            raise UserError(f"--slice: required a number from 0 to {count - 1} · got {number}")
    numbers, shape_hw = chosen or [count // 2], (shape[0], shape[1])
    preprocessing = prepared(_num_tokens(shape_hw, pixel_hw))
    names = [f"{slicing.plane} slice {number} of {count}" for number in numbers]
    left, top = EDGES[slicing.plane]
    letters = (left, top, OPPOSITE[left], OPPOSITE[top]) if volume.is_oriented else ()
    return _Opened(show_slices(volume, preprocessing, slicing), numbers, names, shape_hw, pixel_hw, preprocessing, letters)


def _num_tokens(shape_hw: tuple[int, int], pixel_hw: tuple[float, float]) -> int:
    """Returns how many tokens of 16 pixels along the edge of a square keep the pixels of an image, within bounds."""
    longest = max(count * pixel for count, pixel in zip(shape_hw, pixel_hw, strict=True)) / min(pixel_hw)
    return min(max(math.ceil(longest / PATCH_PX), MIN_TOKENS), MAX_TOKENS)


def _token_at(point: Point, opened: _Opened) -> tuple[int, int]:
    """Returns row and column of the token that shows a pixel of the image."""
    (height, width), (x, y) = opened.shape_hw, point
    fit, size_px = opened.preprocessing.fit, opened.preprocessing.size_px
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(f"--at: required a pixel of the image, 0,0 to {width - 1},{height - 1} · got {x:g},{y:g}")
    where = placement(opened.shape_hw, size_px, fit, opened.pixel_hw)
    row = where.top + (y + 0.5) / height * where.height
    column = where.left + (x + 0.5) / width * where.width
    if not (0 <= row < size_px and 0 <= column < size_px):
        raise UserError(f"--at: required a pixel that is shown · got {x:g},{y:g}, which --fit {fit} cuts off")
    patch_px = opened.preprocessing.patch_px
    return int(row / patch_px), int(column / patch_px)


def _encoded(
    source: Source, size_px: int, pick: Callable[[Features], Tensor], encoder: FrozenEncoder, show_progress: bool
) -> Tensor:
    """Returns some feature of all images of a source."""
    batch, count = default_batch(size_px, encoder.patch_px), source.num_images
    check_memory(min(batch, count), size_px, encoder.patch_px, encoder.embed_dim, encoder.device)
    with Meter(count, "image", show_progress) as meter:
        parts = []
        for start in range(0, count, batch):
            images = source.images(start, min(start + batch, count))
            parts.append(pick(encoder(images)).cpu())
            meter.update(len(images))
    return torch.cat(parts)


def _view(opened: _Opened, title: str, notes: list[str], encode: Callable[..., Tensor]) -> TokenView:
    images = torch.cat([opened.source.images(number, number + 1) for number in opened.numbers])
    shown = replace(opened.source, num_images=len(images), images=lambda start, stop: images[start:stop])
    tokens = encode(shown, opened.preprocessing.size_px, lambda features: features.patch_map).movedim(1, -1)
    pixels = images.expand(-1, 3, -1, -1).movedim(1, -1)
    shows = opened.source.shows_image.numpy()
    return TokenView(title, notes, opened.names, pixels.numpy(), tokens.numpy(), shows, opened.letters)


def _drawn(view: TokenView, place: tuple[int, int, int] | None, target: Path) -> bytes:
    if target.suffix.lower() == ".png":
        return view_png(view, place)
    gh, gw = view.tokens.shape[1:3]
    return view_page(view, place or (0, gh // 2, gw // 2)).encode("utf-8")
