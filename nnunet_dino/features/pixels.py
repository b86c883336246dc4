"""From intensities of any range and images of any shape to squares of 0..1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.backbones.rgb import through_windows
from nnunet_dino.backbones.spec import PATCH_PX, BackboneSpec
from nnunet_dino.backbones.weights.model_config import Statistics
from nnunet_dino.features.items import Unreadable

# Low and high end in HU, from the usual centre and width.
WINDOWS_HU: dict[str, tuple[float, float]] = {
    "lung": (-1350, 150),
    "mediastinum": (-125, 225),
    "soft-tissue": (-160, 240),
    "liver": (-45, 105),
    "bone": (-450, 1050),
    "brain": (0, 80),
    "stroke": (15, 55),
    "wide": (-1000, 1000),
}
AUTO = "auto"
NUM_COLOURS = 3
MAX_OF_SKULL_STRIPPED_HU = 500  # CT in Hounsfield units without air, which has been cut away
OWN, BILINEAR = "own", "bilinear"
FITS = ("pad", "stretch", "crop", OWN)
PERCENTILES = (0.5, 99.5)
NUM_FOR_PERCENTILES, NUM_FOR_NOTES = 2_000_000, 20_011  # of a large array; a prime keeps off the rows
NEARLY, MUCH = 0.1, 0.95  # the tenth of the range next to its end, and the share of values in it that is worth a word


@dataclass(frozen=True)
class Preprocessing:
    """How images are shown to the backbone.

    Attributes:
        size_px: Edge of the square, a multiple of ``patch_px``.
        fit: What becomes of images that are not square: ``pad`` with black, ``stretch``, or ``crop`` the middle; or ``own``, by
            which the configuration of a model of timm resizes and crops all images.
        window: ``auto``, a name of :data:`WINDOWS_HU`, or ``LOW,HIGH``; or three of them with commas between (as ``LOW:HIGH``),
            which become red, green and blue.
        statistics: Mean and deviation of red, green and blue; by default what the weights came with, else ImageNet's.
        patch_px: Pixels along a token of the backbone.
        interpolation: ``bilinear`` or ``bicubic``, with antialiasing.
        own_input: See :class:`nnunet_dino.backbones.spec.BackboneSpec`.

    Raises:
        UserError: A value is none of these.
    """

    size_px: int = 224
    fit: str = "pad"
    window: str = AUTO
    statistics: Statistics | None = None
    patch_px: int = PATCH_PX
    interpolation: str = BILINEAR
    own_input: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: BackboneSpec, size_px: int | None = None, fit: str = "pad", *more: Any, **options: Any) -> Preprocessing:
        """Returns what a backbone is shown, by default squares of its own size.

        Raises:
            UserError: A value cannot be used, or the backbone takes another size only.
        """
        size_px = spec.input_px if size_px is None else size_px
        if not spec.takes_any_size and size_px != spec.input_px:
            raise UserError(f"--size: required {spec.input_px}, the only one that {spec.name} takes · got {size_px}")
        options |= {"patch_px": spec.patch_px, "interpolation": spec.interpolation, "own_input": spec.own_input}
        return cls(size_px, fit, *more, **options)

    def __post_init__(self) -> None:
        patch_px = self.patch_px
        if self.size_px < patch_px or self.size_px % patch_px:
            lower = max(patch_px, self.size_px // patch_px * patch_px)
            raise UserError(f"--size: required a multiple of {patch_px} · got {self.size_px} · for example {lower}")
        if self.fit not in FITS:
            raise UserError(f"--fit: required one of {', '.join(FITS)} · got {self.fit!r}{nearest(self.fit, FITS)}")
        if self.fit == OWN and not self.own_input:
            raise UserError("--fit: required pad, stretch or crop for a backbone without a configuration of timm · got own")
        if self.interpolation not in (BILINEAR, "bicubic") and self.fit != OWN:
            raise UserError(f"--fit: required own for a model that resizes with {self.interpolation} · got {self.fit}")
        self.range()

    def range(self) -> tuple[float, float] | None:
        """Returns the low and the high end of the window, of three the outermost; None for ``auto``."""
        if self.window == AUTO:
            return None
        ends = self.three_windows() or (_ends(self.window),)
        return min(low for low, _ in ends), max(high for _, high in ends)

    def three_windows(self) -> tuple[tuple[float, float], ...]:
        """Returns the windows that become red, green and blue; none where one is shown."""
        parts = self.window.split(",")
        return tuple(_ends(part.strip()) for part in parts) if len(parts) == NUM_COLOURS else ()

    def record(self) -> dict[str, Any]:
        """Returns all that changes the pixels, for the store, but for what the backbone or its weights bring."""
        window = self.three_windows() or self.range()
        of_backbone: dict[str, Any] = {"patch_px": self.patch_px, "interpolation": self.interpolation}
        if self.fit == OWN:
            of_backbone[OWN] = {name: self.own_input[name] for name in ("crop_pct", "crop_mode")}
        usual = {"patch_px": PATCH_PX, "interpolation": BILINEAR}  # not in stores of earlier releases
        return {
            **{"size_px": self.size_px, "fit": self.fit, "window": self.window},
            **{name: value for name, value in of_backbone.items() if usual.get(name) != value},
            "window_low_high": list(window) if window else None,
            "grey": "replicated",
            "patch_mean": "of tokens that show the image",
        }


def _ends(window: str) -> tuple[float, float]:
    """Returns the low and the high end of a window by its name, or as ``LOW,HIGH`` or ``LOW:HIGH``."""
    if window in WINDOWS_HU:
        return WINDOWS_HU[window]
    try:
        low, high = (float(end) for end in window.replace(":", ",").split(","))
    except ValueError:
        known = (AUTO, *WINDOWS_HU)
        raise UserError(
            f"--window: required LOW,HIGH, one of {', '.join(known)}, or three of them · got {window!r}{nearest(window, known)}"
        ) from None
    if not low < high:
        raise UserError(f"--window: required LOW below HIGH · got {window!r}")
    return low, high


def require_finite(values: np.ndarray) -> None:
    """Refuses values that cannot be shown.

    Raises:
        Unreadable: Some are not finite.
    """
    parts = values.T if values.flags.f_contiguous else values  # one at a time, to save memory
    if values.dtype.kind == "f" and not all(np.isfinite(part).all() for part in parts):
        raise Unreadable("required finite values, holds NaN or infinity · save it again with numbers in their place")


def as_torch_type(values: np.ndarray) -> np.ndarray:
    """Returns values of a type that torch calculates with, in the machine's byte order.

    Raises:
        Unreadable: They are too large for float32.
    """
    if values.dtype == np.uint16:
        return values.astype(np.int32)
    if values.dtype in (np.uint8, np.int8, np.int16, np.int32):
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    with np.errstate(over="ignore"):
        result = values.astype(np.float32, copy=False)
    if values.itemsize > result.itemsize and values.dtype.kind == "f" and np.isinf(result).any():
        raise Unreadable(f"required values below {np.finfo(np.float32).max:.2g}, has larger ones · save it in another unit")
    return result


def shown_range(
    values: np.ndarray,
    window: tuple[float, float] | None,
    padding: tuple[float, float] | None = None,
    is_inverted: bool = False,
    is_picture: bool = False,
) -> tuple[tuple[float, float], list[str]]:
    """Returns the range in which values are shown, and what must be known of it.

    Where no window is named, eight bits of a picture or of colours are shown as they are, everything else from its 0.5 to its
    99.5 percentile, or from its lowest to its highest value where these two are the same. Of a large array only every n-th
    value is looked at.

    Args:
        values: Of a picture, or of a volume.
        window: Low and high end that a user or the file's header names.
        padding: Range of values that stand for nothing and do not count.
        is_inverted: Whether high values are dark.
        is_picture: Whether eight bits are shown as they are.
    """
    if window is not None:
        return window, _notes_on_range(values, window, "window", is_inverted)
    notes: list[str] = []
    found = (0.0, 255.0)
    if values.dtype != np.uint8 or not (is_picture or values.ndim == 4):
        found, notes = _range_of(values, padding)
    return found, notes + _notes_on_range(values, found, "range", is_inverted)


def notes_on_units(values: np.ndarray, preprocessing: Preprocessing) -> list[str]:
    """Returns that values cannot be Hounsfield units, where the window asked for is one of them."""
    window, lowest = preprocessing.range(), float(values.min())
    if window is None or lowest < 0:
        return []
    names = {part.strip() for part in preprocessing.window.split(",")} & WINDOWS_HU.keys()
    if window[0] < 0 or (names and values.max() > MAX_OF_SKULL_STRIPPED_HU):
        return [f"no value is below 0, as air is in the units of the window (lowest {lowest:g}): a CT may be stored + 1024"]
    return []


def _range_of(values: np.ndarray, padding: tuple[float, float] | None) -> tuple[tuple[float, float], list[str]]:
    sample = _sample(values, NUM_FOR_PERCENTILES)
    if padding is not None and ((sample < padding[0]) | (sample > padding[1])).any():
        sample = sample[(sample < padding[0]) | (sample > padding[1])]
    low, high = (float(end) for end in np.percentile(sample, PERCENTILES))
    if high > low:
        return (low, high), []
    low, high = float(values.min()), float(values.max())
    if high > low:
        note = f"both percentiles are the same: shown from the lowest to the highest value, {low:g} to {high:g}"
    else:
        note = f"constant: every value is {low:g}, shown as black"
    return (low, high), [note]


def _notes_on_range(values: np.ndarray, ends: tuple[float, float], source: str, is_inverted: bool) -> list[str]:
    """Returns what must be known of values of which nearly all are shown as black or as white."""
    low, high = ends
    if not high > low:
        return []
    sample = _sample(values, NUM_FOR_NOTES)
    notes = []
    margin = NEARLY * (high - low)
    dark, bright = float((sample <= low + margin).mean()), float((sample >= high - margin).mean())
    for share, end in ((dark, "white" if is_inverted else "black"), (bright, "black" if is_inverted else "white")):
        if share > MUCH:
            outside = float(((sample < low) | (sample > high)).mean())
            notes.append(
                f"the {source} {low:g} to {high:g} shows {share:.1%} of the values nearly {end} ({outside:.1%} are cut off)"
            )
    return notes


def _sample(values: np.ndarray, count: int) -> np.ndarray:
    """Returns about as many values, spread evenly."""
    flat = values.reshape(-1) if values.flags.c_contiguous else values.ravel(order="K")
    return flat[:: max(1, flat.size // count)]


def to_unit(values: Tensor, low: float, high: float, is_inverted: bool = False) -> Tensor:
    """Maps ``low..high`` to 0..1, or to 1..0, and cuts off what lies outside; an empty range gives zeros."""
    if not high > low:
        return torch.zeros_like(values, dtype=torch.float32)
    unit = ((values.float() - low) / (high - low)).clamp_(0, 1)
    return 1 - unit if is_inverted else unit


def shown_unit(values: Tensor, ends: tuple[float, float], preprocessing: Preprocessing, is_inverted: bool = False) -> Tensor:
    """Maps intensities ``n c h w`` to what is shown, 0..1: from ``ends``, or through three windows, then ``n 3 h w``.

    Raises:
        Unreadable: Three windows are asked for and there are colours already.
    """
    windows = preprocessing.three_windows()
    if not windows:
        return to_unit(values, *ends, is_inverted)
    if values.shape[1] > 1:
        raise Unreadable(f"required one channel for the windows {preprocessing.window}, has {values.shape[1]}")
    unit = through_windows(values.float(), windows)
    return 1 - unit if is_inverted else unit


class Placement(NamedTuple):
    """Where a resized image lies in its square, in pixels of the square; outside of it where it is cropped."""

    top: int
    left: int
    height: int
    width: int


def placement(shape_hw: tuple[int, int], size_px: int, fit: str, pixel_hw: tuple[float, float] = (1.0, 1.0)) -> Placement:
    """Returns where an image comes to lie.

    Args:
        shape_hw: Of the image.
        size_px: Edge of the square.
        fit: See :class:`Preprocessing`.
        pixel_hw: Height and width of a pixel, in any unit; without effect on ``stretch``.
    """
    if fit in ("stretch", OWN):
        return Placement(0, 0, size_px, size_px)
    lengths = [count * pixel for count, pixel in zip(shape_hw, pixel_hw, strict=True)]
    scale = size_px / (max(lengths) if fit == "pad" else min(lengths))
    height, width = (max(1, round(length * scale)) for length in lengths)
    return Placement((size_px - height) // 2, (size_px - width) // 2, height, width)


def shows_image(shape_hw: tuple[int, int], preprocessing: Preprocessing, pixel_hw: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Returns which tokens show some of an image and not only padding, ``gh gw``; arguments as for :func:`placement`."""
    patch_px, place = preprocessing.patch_px, placement(shape_hw, preprocessing.size_px, preprocessing.fit, pixel_hw)
    starts = patch_px * torch.arange(preprocessing.size_px // patch_px)
    rows, columns = (
        (starts < begin + length) & (starts + patch_px > begin)
        for begin, length in ((place.top, place.height), (place.left, place.width))
    )
    return rows[:, None] & columns


def show_square(images: Tensor, preprocessing: Preprocessing, pixel_hw: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Resizes images ``n c h w``, 0..1, to squares as is asked for."""
    if preprocessing.fit != OWN:
        return fit_square(images, preprocessing.size_px, preprocessing.fit, pixel_hw, preprocessing.interpolation)
    upright = [max(1, round(count * pixel / min(pixel_hw))) for count, pixel in zip(images.shape[2:], pixel_hw, strict=True)]
    return own_transform(preprocessing)(_resized(images, (upright[0], upright[1]), BILINEAR)).clamp_(0, 1)


def fit_square(
    images: Tensor, size_px: int, fit: str, pixel_hw: tuple[float, float] = (1.0, 1.0), mode: str = BILINEAR
) -> Tensor:
    """Resizes images to squares, with regard to pixels that are not square themselves.

    Args:
        images: ``n c h w``, float.
        size_px: Edge of the square.
        fit: See :class:`Preprocessing`.
        pixel_hw: See :func:`placement`.
        mode: Of interpolation.

    Returns:
        ``n c size_px size_px``.
    """
    top, left, height, width = placement(tuple(images.shape[2:]), size_px, fit, pixel_hw)
    resized = _resized(images, (height, width), mode)
    return F.pad(resized, (left, size_px - width - left, top, size_px - height - top))  # negative where it is cropped


def own_transform(preprocessing: Preprocessing) -> Callable[[Any], Tensor]:
    """Returns timm's own resizing and cropping, of pictures of Pillow or of ``n c h w``, to 0..1."""
    from nnunet_dino.backbones.quiet_timm import timm

    own = {**preprocessing.own_input, "input_size": (3, preprocessing.size_px, preprocessing.size_px)}
    return timm.data.create_transform(**own, mean=(0.0,), std=(1.0,))  # one number each fits grey and colours


def _resized(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size, mode=mode, antialias=True, align_corners=False).clamp_(0, 1)
