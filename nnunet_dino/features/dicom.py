"""Single DICOM images: rescaled once, dark is low, shown in the window that the header asks for."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from nnunet_dino.features.items import Unreadable, decoding

PHOTOMETRIC, CENTER, WIDTH = "0028|0004", "0028|1050", "0028|1051"
BITS_STORED, IS_SIGNED, INTERCEPT, SLOPE = "0028|0101", "0028|0103", "0028|1052", "0028|1053"


def is_dicom(path: str) -> bool:
    """Returns whether a file carries the mark of DICOM."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom_image(path: str) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Returns ``h w c`` intensities after slope and intercept, and the range of the first window in the header.

    MONOCHROME1, where high values are dark, is turned over by ITK, which takes stored values from the highest possible one; the
    window follows.

    Raises:
        Unreadable: The file is damaged, compressed in a way unknown here, or holds several frames.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    reader.SetImageIO("GDCMImageIO")
    with decoding():
        image = reader.Execute()
        size = image.GetSize()
        if len(size) == 3 and size[2] > 1:
            raise Unreadable(f"required one picture, has {size[2]} frames (read it with --kind volumes)")
        pixels = sitk.GetArrayFromImage(image)
        pixels = pixels[0] if len(size) == 3 else pixels
        if pixels.ndim == 3:
            return pixels[:, :, :3], None
        header_range = _window(reader)
        if header_range and _header(reader, PHOTOMETRIC) == "MONOCHROME1":
            turned = _sum_with_turned(reader)
            header_range = turned - header_range[1], turned - header_range[0]
        return pixels[:, :, None].astype(np.float32), header_range


def _window(reader: sitk.ImageFileReader) -> tuple[float, float] | None:
    """Returns the ends of the linear window of DICOM PS3.3 C.11.2.1.2.1."""
    try:
        center, width = (float(_header(reader, key).split("\\")[0]) for key in (CENTER, WIDTH))
    except ValueError:
        return None
    if width <= 1:
        return None
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2


def _sum_with_turned(reader: sitk.ImageFileReader) -> float:
    """Returns what a rescaled value and the same value turned over by ITK add up to."""
    highest = -1 if _header(reader, IS_SIGNED) == "1" else 2 ** int(_header(reader, BITS_STORED)) - 1
    return float(_header(reader, SLOPE) or 1) * highest + 2 * float(_header(reader, INTERCEPT) or 0)


def _header(reader: sitk.ImageFileReader, key: str) -> str:
    return reader.GetMetaData(key).strip() if reader.HasMetaDataKey(key) else ""
