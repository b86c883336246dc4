"""Where crops lie in a slice, and what they show.

::

    slice h w (pixels)                  a scene is the part of a slice that global crops of the recipe's size would show at the
    ┌──────────────────────────┐        trainers' token stride if they showed most of it; areas of crops are shares of it
    │      ┌───── scene ─────┐ │
    │      │ ┌─global──┐     │ │        global_px = 256 and a stride of 8: 128 pixels fill 256; a global crop shows on average
    │      │ │   ┌local┐     │ │        0.8 of a scene's edge, so a scene has an edge of 128 / 0.8 = 160 pixels
    │      │ └───┴─────┘     │ │
    │      └─────────────────┘ │        pixels that are not square: a scene, and a crop of aspect 1, is square in millimetres
    └──────────────────────────┘
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nnunet_dino.backbones.spec import PATCH_PX

ASPECTS = (3 / 4, 4 / 3)
AIR_BELOW, BODY_SHARE = 0.2, 0.05
LOWEST_PERCENTILE, SPARSE = 1, 4  # a few odd pixels are not air


class Box(NamedTuple):
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int


class Crop(NamedTuple):
    """A box, and whether it is mirrored left to right."""

    box: Box
    flipped: bool


def body_of(pixels: Tensor) -> NDArray[np.bool_]:
    """Returns where a slice ``c h w`` is more than air, ``h w``: well above its lowest values in any channel.

    Values that are not finite count as body, so that they are seen and named rather than passed over.
    """
    body = np.zeros(pixels.shape[1:], dtype=bool)
    for channel in pixels.numpy():
        some = channel[::SPARSE, ::SPARSE]
        finite = some[np.isfinite(some)]
        lowest = np.percentile(finite, LOWEST_PERCENTILE) if finite.size else -np.inf
        body |= ~(channel <= lowest + AIR_BELOW)
    return body


def scene_size(
    size: Sequence[int], global_px: int, global_area: tuple[float, float], token_stride_px: int, pixel_aspect: float
) -> tuple[int, int]:
    """Returns height and width of a scene in pixels of a slice ``size = (h, w)``."""
    edge = global_px * token_stride_px / PATCH_PX / math.sqrt((global_area[0] + global_area[1]) / 2)
    height, width = edge / max(1.0, pixel_aspect), edge * min(1.0, pixel_aspect)
    shrink = min(1.0, size[0] / height, size[1] / width)
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def draw_scene(rng: np.random.Generator, body: NDArray[np.bool_], size: tuple[int, int]) -> Box | None:
    """Returns a scene around a pixel of the body, inside the slice; None for a slice with too little in it."""
    inside = np.flatnonzero(body)
    if len(inside) < BODY_SHARE * size[0] * size[1]:
        return None
    centre = np.unravel_index(inside[rng.integers(len(inside))], body.shape)
    top, left = (
        int(min(max(middle - length // 2, 0), whole - length))
        for middle, length, whole in zip(centre, size, body.shape, strict=True)
    )
    return Box(top, left, *size)


def draw_crop(rng: np.random.Generator, scene: Box, area: tuple[float, float], flips: bool) -> Crop:
    """Returns a random crop of a scene, with an area between two shares of it."""
    share = rng.uniform(*area)
    stretch = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])) / 2)
    height = min(scene.height, max(1, round(scene.height * math.sqrt(share) / stretch)))
    width = min(scene.width, max(1, round(scene.width * math.sqrt(share) * stretch)))
    top = scene.top + int(rng.integers(scene.height - height + 1))
    left = scene.left + int(rng.integers(scene.width - width + 1))
    return Crop(Box(top, left, height, width), flips and bool(rng.integers(2)))


def render(pixels: Tensor, crop: Crop, edge_px: int) -> Tensor:
    """Returns what a crop of ``c h w`` shows, ``c edge_px edge_px``."""
    (top, left, height, width), flipped = crop
    part = pixels[None, :, top : top + height, left : left + width]
    shrinks = max(height, width) > edge_px
    part = F.interpolate(part, (edge_px, edge_px), mode="bilinear", antialias=shrinks)[0]
    return part.flip(2) if flipped else part


def has_body(body: NDArray[np.bool_], crop: Crop, edge_px: int) -> Tensor:
    """Returns which patches of a rendered crop show any of the body, ``gh gw``."""
    view = render(torch.from_numpy(body[None].astype(np.float32)), crop, edge_px)
    return F.max_pool2d(view, PATCH_PX)[0] > 0


def with_other_intensities(
    rng: np.random.Generator, pixels: Tensor, deviations: Sequence[float], scale: float, shift: float, noise: float
) -> Tensor:
    """Returns a slice with another contrast, brightness and noise.

    Args:
        rng: Source of chance.
        pixels: ``c h w``.
        deviations: Standard deviation of each channel's intensities.
        scale: Largest relative change of contrast.
        shift: Largest change of brightness, in standard deviations.
        noise: Largest standard deviation of noise, in those of the intensities.
    """
    per_channel = len(pixels) // len(deviations)
    unit = torch.tensor([value for value in deviations for _ in range(per_channel)], dtype=torch.float32).view(-1, 1, 1)
    contrast, brightness, level = 1 + rng.uniform(-scale, scale), rng.uniform(-shift, shift), rng.uniform(0, noise)
    added = torch.from_numpy(rng.standard_normal(tuple(pixels.shape), dtype=np.float32))
    return pixels * contrast + unit * (brightness + level * added)
