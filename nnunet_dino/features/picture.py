"""Pictures: PNG, JPEG, TIFF and single DICOM images."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nnunet_dino.features.dicom import is_dicom, read_dicom_image
from nnunet_dino.features.items import Item, Source, Unreadable
from nnunet_dino.features.pixels import Preprocessing, fit_square, robust_range, to_unit

Image.MAX_IMAGE_PIXELS = None


def open_image(item: Item, preprocessing: Preprocessing) -> Source:
    """Reads and resizes a picture.

    Raises:
        Unreadable: The file is missing, damaged, not one picture, or not finite.
    """
    pixels, header_range = read_pixels(item.path)
    low, high = preprocessing.range() or header_range or _full_range(pixels)
    image = to_unit(torch.from_numpy(pixels).permute(2, 0, 1)[None], low, high)
    square = fit_square(image, preprocessing.size_px, preprocessing.fit)
    return Source(1, lambda start, stop: square[start:stop], {"shape": " × ".join(map(str, pixels.shape[:2]))})


def read_pixels(path: str) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Returns ``h w c`` intensities, ``c`` 1 or 3, and the range that the file's own header asks to show, if any.

    Raises:
        Unreadable: See :func:`open_image`.
    """
    if not Path(path).is_file():
        raise Unreadable("no such file")
    if is_dicom(path):
        pixels, header_range = read_dicom_image(path)
    else:
        pixels, header_range = _read_with_pillow(path), None
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise Unreadable("holds values that are not finite (NaN or infinite)")
    return pixels, header_range


def _read_with_pillow(path: str) -> np.ndarray:
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            if getattr(image, "n_frames", 1) > 1 and image.format in ("TIFF", "GIF", "WEBP"):
                raise Unreadable(f"required one picture, has {image.n_frames} pages")
            values = np.array(_in_one_or_three_channels(image))
    except Unreadable:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise Unreadable(_reason(error)) from error
    values = values.astype(np.float32) if values.dtype in (np.uint32, np.int32, np.float64) else values
    values = values.astype(np.int32) if values.dtype == np.uint16 else values
    return values[:, :, None] if values.ndim == 2 else values


def _in_one_or_three_channels(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "I", "F", "RGB") or image.mode.startswith("I;16"):
        return image
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _full_range(pixels: np.ndarray) -> tuple[float, float]:
    return (0.0, 255.0) if pixels.dtype == np.uint8 else robust_range(pixels)
