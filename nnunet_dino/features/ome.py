"""What OpenSlide does not read of an OME-TIFF: its resolution, and its smaller levels."""

from __future__ import annotations

import re

from PIL import Image

from nnunet_dino._grids import MM
from nnunet_dino.features.items import decoding

UM_PER_MM = 1e3


def mpp_of_ome(path: str) -> tuple[float, float]:
    """Returns the resolution of an OME-TIFF, which OpenSlide does not read.

    Raises:
        ValueError: There is none.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            text = file.ome_metadata or ""
    except OSError as error:  # tifffile's own error is a ValueError
        raise ValueError(str(error)) from error
    x, y = (_um(text, f"PhysicalSize{axis}") for axis in "XY")
    return x, y


def _um(text: str, name: str) -> float:
    size, unit = (re.search(rf'{attribute}="([^"]+)"', text) for attribute in (name, f"{name}Unit"))
    mm = MM.get(unit[1] if unit else "um")
    if size is None or mm is None:
        raise ValueError(f"no {name}")
    return float(size[1]) * mm * UM_PER_MM


def ome_overview(path: str, size: tuple[int, int], downsample: float) -> Image.Image | None:
    """Returns the smallest level of a slide in colour that is at least as fine as ``downsample``; None where there is none.

    Args:
        path: The file.
        size: Width and height of the slide.
        downsample: Pixels of the slide for one of the level.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            levels = file.series[0].levels[1:] if file.is_ome and file.series else []
            fine = [level for level in levels if level.axes == "YXS" and size[0] / level.shape[1] <= downsample * 1.01]
            if not fine:
                return None
            with decoding():
                pixels = fine[-1].asarray()
    except (OSError, ValueError):  # no TIFF
        return None
    return Image.fromarray(pixels[..., :3]) if pixels.dtype == "uint8" else None
