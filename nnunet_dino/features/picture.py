"""Pictures: PNG, JPEG, TIFF and single DICOM images."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from nnunet_dino.features import dicom
from nnunet_dino.features.items import Item, Source, Unreadable, decoding, with_notes
from nnunet_dino.features.pixels import (
    OWN,
    Preprocessing,
    as_torch_type,
    notes_on_units,
    own_transform,
    require_finite,
    show_square,
    shown_range,
    shown_unit,
    shows_image,
)

Image.MAX_IMAGE_PIXELS = None
PNG, JPEG, TIFFS = b"\x89PNG", b"\xff\xd8\xff", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_COLOURS_WITH_SEVERAL_SAMPLES = (2, 4, 6)
MAX_STRETCH = 4 / 3  # of pixels shown as squares: a limit chosen, not measured
ORIENTATION = 274  # EXIF and TIFF
EXIF, MAX_EXIF_BYTES = b"Exif\0\0", 2**16
MASK = 4  # a page that says where the picture is transparent
# How to lay a picture h w right, by the number of its orientation.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: p.swapaxes(0, 1)[:, ::-1],
    7: lambda p: p.swapaxes(0, 1)[::-1, ::-1],
    8: lambda p: p.swapaxes(0, 1)[::-1],
}


@dataclass(frozen=True)
class Picture:
    """A picture as it was read.

    Attributes:
        values: Intensities ``h w c``, ``c`` 1 or 3, slope and intercept applied.
        as_header_asks: The values and their range as the file's own header asks to show them; None where it does not.
        pixel_hw: Height and width of a pixel.
        is_inverted: Whether high values are dark.
        padding: Range of values that stand for nothing.
        notes: What had to be decided.
    """

    values: np.ndarray
    as_header_asks: dicom.Shown | None = None
    pixel_hw: tuple[float, float] = (1.0, 1.0)
    is_inverted: bool = False
    padding: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def open_image(item: Item, preprocessing: Preprocessing) -> Source:
    """Reads and resizes a picture.

    Raises:
        Unreadable: The file is missing, damaged, not one picture, or not finite.
    """
    return show_picture(read_picture(item.path), preprocessing)


def show_picture(picture: Picture, preprocessing: Preprocessing) -> Source:
    """Returns a picture as one resized image."""
    window, values = preprocessing.range(), picture.values
    if window is None and picture.as_header_asks is not None:
        values, window = picture.as_header_asks
    ends, notes = shown_range(values, window, picture.padding, picture.is_inverted, is_picture=True)
    pixels = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)[None]
    image = shown_unit(pixels, ends, preprocessing, picture.is_inverted)
    is_plain = values.dtype == np.uint8 and ends == (0.0, 255.0) and not preprocessing.three_windows()
    if preprocessing.fit == OWN and is_plain and picture.pixel_hw == (1.0, 1.0):
        upright = 255 - values if picture.is_inverted else values
        square = own_transform(preprocessing)(Image.fromarray(upright.squeeze(2) if image.shape[1] == 1 else upright))[None]
    else:
        square = show_square(image, preprocessing, picture.pixel_hw)
    height, width = values.shape[:2]
    facts = with_notes({"shape": f"{height} × {width}"}, [*picture.notes, *notes, *notes_on_units(values, preprocessing)])
    shown = shows_image((height, width), preprocessing, picture.pixel_hw)
    return Source(1, lambda start, stop: square[start:stop], facts, shown)


def read_picture(path: str) -> Picture:
    """Reads a picture.

    Raises:
        Unreadable: See :func:`open_image`.
    """
    if not os.path.isfile(path):
        raise Unreadable("no such file")
    with decoding():
        picture = _read_dicom(path) if dicom.is_dicom(path) or path.lower().endswith(".dcm") else _read_other(path)
    require_finite(picture.values)
    return picture


def _read_dicom(path: str) -> Picture:
    data = dicom.read_header(path)
    dicom.require_image(data)
    if (count := dicom.num_frames(data)) > 1:
        raise Unreadable(f"required one picture, has {count} frames (read it with --kind volumes)")
    pixels = dicom.decoded(data)[0]
    pixel_hw, notes = _shape_of_pixels(dicom.pixel_size(data) or (1.0, 1.0))
    if pixels.ndim == 3:
        is_palette = data.PhotometricInterpretation == "PALETTE COLOR"
        highest = float(np.iinfo(pixels.dtype).max if is_palette else 2 ** int(data.BitsStored) - 1)
        return Picture(pixels, dicom.Shown(as_torch_type(pixels), (0.0, highest)), pixel_hw, notes=tuple(notes))
    values = dicom.rescaled(pixels, data)[:, :, None]
    is_inverted = data.PhotometricInterpretation == "MONOCHROME1"
    return Picture(values, dicom.as_header_asks(values, data), pixel_hw, is_inverted, dicom.padding_of(data), tuple(notes))


def _shape_of_pixels(pixel_hw: tuple[float, float]) -> tuple[tuple[float, float], list[str]]:
    """Returns the height and width of pixels as they are to be shown: as squares, or stretched where they are far from it."""
    stretch = max(pixel_hw) / min(pixel_hw)
    if stretch < 1.01:
        return (1.0, 1.0), []
    size = f"pixels are not square, {pixel_hw[0]:g} × {pixel_hw[1]:g}"
    if stretch <= MAX_STRETCH:
        return (1.0, 1.0), [f"{size}: shown as squares"]
    return pixel_hw, [f"{size}: shown in their true shape"]


def _read_other(path: str) -> Picture:
    with open(path, "rb") as file:
        head = file.read(26)
    if head[:4] == PNG and head[24:25] == b"\x10" and head[25:26] in map(bytes, zip(PNG_COLOURS_WITH_SEVERAL_SAMPLES)):
        import imagecodecs  # Pillow keeps the upper byte only

        values = imagecodecs.png_decode(Path(path).read_bytes())
        with Image.open(path) as image:
            number = image.getexif().get(ORIENTATION, 1)
        return _turned(_one_or_three(as_torch_type(values), num_alphas=int(values.shape[-1] in (2, 4))), number)
    if head[:4] in TIFFS and (picture := _read_deep_tiff(path)):
        return picture
    try:
        return _read_with_pillow(path)
    except UnidentifiedImageError as error:
        if head[:3] == JPEG and (picture := _read_odd_jpeg(path)):
            return picture
        raise Unreadable("cannot identify the picture: damaged or unknown to Pillow · save it as PNG") from error


def _read_odd_jpeg(path: str) -> Picture | None:
    """Reads a JPEG of 12 bits or without loss, which Pillow does not know; None where it is damaged or cut off."""
    content, exif = Path(path).read_bytes(), Image.Exif()
    with contextlib.suppress(RuntimeError, ValueError):
        values = dicom.jpeg(content)
        exif.load(content[content.find(EXIF) :] if EXIF in content[:MAX_EXIF_BYTES] else b"")
        return _turned(_one_or_three(as_torch_type(values), 0), exif.get(ORIENTATION, 1))
    return None


def _read_deep_tiff(path: str) -> Picture | None:
    """Reads a TIFF, but for one of unsigned samples of at most 8 bits: for these Pillow knows more colours, yet not of many
    channels."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
        colours = tifffile.PHOTOMETRIC(page.photometric).name
        num_colours = 3 if colours == "RGB" else 1
        num_alphas = page.samplesperpixel - 3 if colours == "RGB" else sum(kind > 0 for kind in page.extrasamples)
        is_plain = colours not in ("MINISBLACK", "RGB") or page.samplesperpixel - num_alphas == num_colours
        if page.imagedepth > 1 or not all(other.subfiletype & MASK for other in file.pages[1:]):
            raise Unreadable(_pages(len(file.pages) * page.imagedepth))
        if bits <= 8 and page.sampleformat == 1 and is_plain and not (file.is_bigtiff and file.byteorder == ">"):
            return None
        values = page.asarray()
        if values.dtype.kind not in "iuf" or colours not in ("MINISBLACK", "MINISWHITE", "RGB"):
            raise Unreadable(f"required grey or RGB values, has {colours} of {values.dtype} · save it as RGB")
        if page.planarconfig == 2 and values.ndim == 3:
            values = np.moveaxis(values, 0, -1)
        values = _one_or_three(as_torch_type(values), num_alphas)
        tag = page.tags.get(ORIENTATION)
    return _turned(values, int(tag.value) if tag else 1, is_inverted=colours == "MINISWHITE")


def _turned(values: np.ndarray, number: int, is_inverted: bool = False) -> Picture:
    """Returns a picture laid right by the number of its orientation."""
    notes = (f"turned as its orientation {number} says",) if number in TURNS else ()
    return Picture(TURNS.get(number, lambda p: p)(values), is_inverted=is_inverted, notes=notes)


def _pages(count: int) -> str:
    return f"required one picture, has {count} pages (a whole slide is read with --kind slides)"


def _one_or_three(values: np.ndarray, num_alphas: int) -> np.ndarray:
    """Returns ``h w c`` without transparency, which comes last."""
    values = values[:, :, None] if values.ndim == 2 else values
    count = values.shape[2] - num_alphas
    if count not in (1, 3):
        raise Unreadable(f"required 1 or 3 channels, has {count} · save one of them, or three as RGB")
    return values[:, :, :count]


def _read_with_pillow(path: str) -> Picture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            # Further pictures of a camera's MPO are previews; pages of a TIFF were counted before.
            if image.format not in ("MPO", "TIFF") and (num_pages := getattr(image, "n_frames", 1)) > 1:
                raise Unreadable(_pages(num_pages))
            number = image.getexif().get(ORIENTATION, 1)
            values = np.array(_in_one_or_three_channels(image))
    values = as_torch_type(values) if values.dtype not in (np.int32, np.bool_) else values.astype(np.float32)
    return _turned(values[:, :, None] if values.ndim == 2 else values, number)


def _in_one_or_three_channels(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "I", "F", "RGB") or image.mode.startswith("I;16"):
        return image
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    return image.convert("RGB")
