"""How many micrometres a pixel of a slide has, and how many pixels a tile."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nnunet_dino.features.items import Unreadable
from nnunet_dino.features.tiling import UM_TIMES_MAG, Tiling

if TYPE_CHECKING:
    from openslide import AbstractSlide

PLAUSIBLE_MPP = (0.05, 4.0)
MAX_STRETCH = 0.02
MAX_UPSAMPLING = 0.1  # slides of 0.25 and of 0.2527 are both called 40x


def own_mpp(slide: AbstractSlide, path: str, tiling: Tiling) -> tuple[float | None, str]:
    """Returns the slide's micrometres per pixel, and what is to be said of them.

    Raises:
        Unreadable: They are needed and not known, or no microscope has them, or pixels are not square.
    """
    if tiling.slide_mpp is not None:
        return tiling.slide_mpp, ""
    named, is_wanted = [slide.properties.get(f"openslide.mpp-{axis}", "") for axis in "xy"], tiling.wanted_mpp is not None
    try:
        x, y = (float(text) for text in (named if all(named) else _mpp_of_ome(path)))
    except ValueError:
        if not is_wanted:
            return None, ""
        if tiling.mag is not None and (own_mag := _own_mag(slide)):
            note = f"its file does not say the resolution; it was taken from its magnification, {own_mag:g}x"
            return UM_TIMES_MAG / own_mag, note
        raise Unreadable(
            f"required the slide's resolution for {tiling.asked}, its file does not say · state it with --slide-mpp"
        ) from None
    low, high = PLAUSIBLE_MPP
    if not low <= min(x, y) <= max(x, y) <= high:
        odd = f"{x:g} micrometres per pixel, which is not between {low:g} and {high:g} as of microscopes"
        if not is_wanted:
            return None, f"its file says {odd}; full resolution was taken"
        raise Unreadable(
            f"required a plausible resolution for {tiling.asked}, has {odd} · state the right one with --slide-mpp"
        )
    if abs(x / y - 1) > MAX_STRETCH:
        raise Unreadable(f"required square pixels, has {x:g} × {y:g} micrometres · resample the slide, or state --slide-mpp")
    return x, ""


def _own_mag(slide: AbstractSlide) -> float | None:
    """Returns the magnification of the scan, if its file says one."""
    try:
        own_mag = float(slide.properties.get("openslide.objective-power", ""))
    except ValueError:
        return None
    return own_mag if own_mag > 0 else None


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


def tile_edge_px(size_px: int, tiling: Tiling, own_mpp: float | None) -> int:
    """Returns the edge at full resolution of a tile that is shown with ``size_px``.

    Raises:
        Unreadable: More is asked for than the slide has.
    """
    wanted = tiling.wanted_mpp
    if wanted is None or own_mpp is None:
        return size_px
    if wanted < own_mpp * (1 - MAX_UPSAMPLING):
        raise Unreadable(
            f"required --mpp of at least the slide's own {own_mpp:g} (--mag {UM_TIMES_MAG / own_mpp:.3g}), has {tiling.asked}, "
            "for which pixels would be invented · ask for less, or give the right resolution of the slide with --slide-mpp"
        )
    return max(1, round(size_px * wanted / own_mpp))
