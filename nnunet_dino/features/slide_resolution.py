"""How many micrometres a pixel of a slide has, and how many pixels a tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunet_dino.features.items import Unreadable
from nnunet_dino.features.ome import mpp_of_ome
from nnunet_dino.features.tiling import UM_TIMES_MAG, Tiling

if TYPE_CHECKING:
    from openslide import AbstractSlide

PLAUSIBLE_MPP = (0.05, 4.0)
MAX_DISAGREEMENT = 3  # between resolution and magnification: names of objectives are rough
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
    own_mag, note = _own_mag(slide), ""
    try:
        x, y = (float(text) for text in named) if all(named) else mpp_of_ome(path)
    except ValueError:
        if not is_wanted:
            return None, ""
        if tiling.mag is None or own_mag is None:
            raise Unreadable(
                f"required the slide's resolution for {tiling.asked}, its file does not say · state it with --slide-mpp"
            ) from None
        x = y = UM_TIMES_MAG / own_mag
        note = f"its file does not say the resolution; it was taken from its magnification, {own_mag:g}x"
    (low, high), odd = PLAUSIBLE_MPP, ""
    if not low <= min(x, y) <= max(x, y) <= high:
        odd = f"{x:g} micrometres per pixel, which is not between {low:g} and {high:g} as of microscopes"
    elif own_mag is not None and not 1 / MAX_DISAGREEMENT <= x * own_mag / UM_TIMES_MAG <= MAX_DISAGREEMENT:
        odd = f"{x:g} micrometres per pixel, which does not go with its magnification of {own_mag:g}x"
    if odd:
        if not is_wanted:
            return None, f"its file says {odd}; full resolution was taken"
        raise Unreadable(
            f"required a plausible resolution for {tiling.asked}, has {odd} · state the right one with --slide-mpp"
        )
    if abs(x / y - 1) > MAX_STRETCH:
        raise Unreadable(f"required square pixels, has {x:g} × {y:g} micrometres · resample the slide, or state --slide-mpp")
    return x, note


def _own_mag(slide: AbstractSlide) -> float | None:
    """Returns the magnification of the scan, if its file says one."""
    try:
        own_mag = float(slide.properties.get("openslide.objective-power", ""))
    except ValueError:
        return None
    return own_mag if own_mag > 0 else None


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
