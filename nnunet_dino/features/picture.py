"""Pictures: PNG, JPEG, TIFF and single DICOM images."""

from __future__ import annotations

import os
import warnings

import numpy as np
import torch
from PIL import Image

from nnunet_dino.features.dicom import is_dicom, read_dicom_image
from nnunet_dino.features.items import Item, Source, Unreadable, decoding
from nnunet_dino.features.pixels import Preprocessing, fit_square, placement, robust_range, shows_image, to_unit

Image.MAX_IMAGE_PIXELS = None


def open_image(item: Item, preprocessing: Preprocessing) -> Source:
    """Reads and resizes a picture.

    Raises:
        Unreadable: The file is missing, damaged, not one picture, or not finite.
    """
    return show_picture(*read_pixels(item.path), preprocessing)


def show_picture(pixels: np.ndarray, header_range: tuple[float, float] | None, preprocessing: Preprocessing) -> Source:
    """Returns what :func:`read_pixels` gave as one resized image."""
    low, high = preprocessing.range() or header_range or _full_range(pixels)
    image = to_unit(torch.from_numpy(pixels).permute(2, 0, 1)[None], low, high)
    square = fit_square(image, preprocessing.size_px, preprocessing.fit)
    height, width = pixels.shape[:2]
    place = placement((height, width), preprocessing.size_px, preprocessing.fit)
    return Source(
        1,
        lambda start, stop: square[start:stop],
        {"shape": f"{height} × {width}"},
        shows_image(place, preprocessing.size_px),
    )


def read_pixels(path: str) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Returns ``h w c`` intensities, ``c`` 1 or 3, and the range that the file's own header asks to show, if any.

    Raises:
        Unreadable: See :func:`open_image`.
    """
    if not os.path.isfile(path):
        raise Unreadable("no such file")
    with decoding():
        pixels, header_range = read_dicom_image(path) if is_dicom(path) else (_read_with_pillow(path), None)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise Unreadable("required finite values, holds NaN or infinity · save it again with numbers in their place")
    return pixels, header_range


def _read_with_pillow(path: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            num_pages = getattr(image, "n_frames", 1)
            if num_pages > 1 and image.format in ("TIFF", "GIF", "WEBP"):
                raise Unreadable(f"required one picture, has {num_pages} pages (a whole slide is read with --kind slides)")
            values = np.array(_in_one_or_three_channels(image))
    values = values.astype(np.float32) if values.dtype in (np.uint32, np.int32, np.float64) else values
    values = values.astype(np.int32) if values.dtype == np.uint16 else values
    return values[:, :, None] if values.ndim == 2 else values


def _in_one_or_three_channels(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "I", "F", "RGB") or image.mode.startswith("I;16"):
        return image
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    return image.convert("RGB")


def _full_range(pixels: np.ndarray) -> tuple[float, float]:
    return (0.0, 255.0) if pixels.dtype == np.uint8 else robust_range(pixels)
