"""A slide's overview with its tiles drawn on it."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

LINE = (30, 90, 200)
BORDER = (0, 130, 60)
TITLE_PX = 72
FONT_PX = 22  # a page shows pictures at half their size


def draw_tiles(overview: np.ndarray, downsample: float, corners: np.ndarray, tile_px: int) -> np.ndarray:
    """Draws the outline of every tile.

    Args:
        overview: The slide, ``h w 3``.
        downsample: Pixels at full resolution per pixel of the overview.
        corners: Upper left corners at full resolution, x and y, ``n 2``.
        tile_px: Edge of a tile at full resolution.

    Returns:
        ``h w 3``.
    """
    picture = Image.fromarray(overview)
    pen = ImageDraw.Draw(picture)
    for x, y in corners.tolist():
        pen.rectangle(
            [x / downsample, y / downsample, (x + tile_px) / downsample - 1, (y + tile_px) / downsample - 1], outline=LINE
        )
    return np.asarray(picture)


def outline(picture: np.ndarray, mask: np.ndarray, scale: float) -> np.ndarray:
    """Draws the border of tissue.

    Args:
        picture: ``h w 3``.
        mask: Tissue, ``h w``.
        scale: Pixels of the picture per pixel of the mask.

    Returns:
        ``h w 3``.
    """
    rows, columns = ((np.arange(length) / scale).astype(int) for length in picture.shape[:2])
    large = np.pad(mask, 1)[np.minimum(rows, mask.shape[0]) + 1][:, np.minimum(columns, mask.shape[1]) + 1]
    border = large & ~ndimage.binary_erosion(large, iterations=2, border_value=0)
    return np.where(border[..., None], np.array(BORDER, np.uint8), picture)


def colour_tiles(
    overview: np.ndarray, downsample: float, corners: np.ndarray, tile_px: int, colours: np.ndarray, opacity: float = 0.6
) -> np.ndarray:
    """Lays a colour over every tile; where tiles overlap, their mean.

    Args:
        overview: The slide, ``h w 3``.
        downsample: Pixels at full resolution per pixel of the overview.
        corners: As for :func:`draw_tiles`.
        tile_px: Edge of a tile at full resolution.
        colours: ``n 3``, 0..1.
        opacity: Of the colours.

    Returns:
        ``h w 3``.
    """
    total, count = np.zeros(overview.shape, np.float32), np.zeros((*overview.shape[:2], 1), np.float32)
    for (x, y), colour in zip(corners.tolist(), colours, strict=True):
        rows = slice(round(y / downsample), round((y + tile_px) / downsample))
        columns = slice(round(x / downsample), round((x + tile_px) / downsample))
        total[rows, columns] += colour
        count[rows, columns] += 1
    laid = (1 - opacity) * overview + opacity * 255 * total / np.maximum(count, 1)
    return np.where(count > 0, laid.round(), overview).astype(np.uint8)


def colour_bar(height: int, colours: np.ndarray, labels: Sequence[str], width_px: int = 18) -> np.ndarray:
    """Draws a bar of colours with labels at even distances, on white.

    Args:
        height: Of the picture, in pixels.
        colours: From the lowest to the highest, ``n 3``, 0..1.
        labels: From the lowest to the highest.
        width_px: Of the bar itself.

    Returns:
        ``height w 3``.
    """
    picture = Image.new("RGB", (width_px + 4 + 3 * FONT_PX, height), "white")
    top, bottom = min(12, height // 4), height - min(12, height // 4) - 1
    pen = ImageDraw.Draw(picture)
    for y in range(top, bottom + 1):
        place = round((bottom - y) / max(1, bottom - top) * (len(colours) - 1))
        pen.line([0, y, width_px - 1, y], fill=tuple((255 * colours[place]).round().astype(int).tolist()))
    for place, label in enumerate(labels):
        y = bottom - round(place / (len(labels) - 1) * (bottom - top))
        pen.text((width_px + 4, y), label, fill="black", anchor="lm", font=ImageFont.load_default(FONT_PX))
    return np.asarray(picture)


def tile_row(title: str, tiles: Sequence[np.ndarray], labels: Sequence[str]) -> np.ndarray:
    """Draws tiles of one size in a row behind a title, each with a label below, on white.

    Args:
        title: One word.
        tiles: Each ``h w 3``.
        labels: One per tile, in ASCII, as Pillow's font has little else.

    Returns:
        ``h w 3``.
    """
    (height, width), font = tiles[0].shape[:2], ImageFont.load_default(FONT_PX)
    picture = Image.new("RGB", (TITLE_PX + len(tiles) * (width + 6), height + FONT_PX + 8), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((0, height // 2), title, fill="black", anchor="lm", font=font)
    for place, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        left = TITLE_PX + place * (width + 6)
        picture.paste(Image.fromarray(tile), (left, 0))
        pen.text((left + width // 2, height + 3), label, fill="black", anchor="mt", font=font)
    return np.asarray(picture)


def side_by_side(*pictures: np.ndarray, gap_px: int = 12) -> np.ndarray:
    """Returns pictures next to each other on white, ``h w 3``, their upper edges at one height."""
    height = max(picture.shape[0] for picture in pictures)
    width = sum(picture.shape[1] for picture in pictures) + gap_px * (len(pictures) - 1)
    canvas, left = np.full((height, width, 3), 255, np.uint8), 0
    for picture in pictures:
        canvas[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + gap_px
    return canvas


def above_each_other(*pictures: np.ndarray) -> np.ndarray:
    """Returns pictures below each other on white, ``h w 3``, their left edges in one line."""
    return side_by_side(*(picture.swapaxes(0, 1) for picture in pictures)).swapaxes(0, 1)


def png(*pictures: np.ndarray) -> bytes:
    """Returns pictures side by side, as PNG."""
    return as_png(side_by_side(*pictures))


def as_png(picture: np.ndarray) -> bytes:
    """Returns a picture ``h w`` or ``h w 3``, 0..255, as PNG."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()
