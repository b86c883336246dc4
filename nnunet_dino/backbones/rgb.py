"""From image channels to the three that a vision transformer sees.

The rule is fixed, not learned, so that the tokens of a slice are the same in every fold.

``repeat``: channels are shown three at a time::

    channels   images shown to the transformer (red, green, blue)
    1          (0, 0, 0)
    2          (0, 1, mean of 0 and 1)
    3          (0, 1, 2)
    4          (0, 1, 2) and (3, 3, 3)
    5          (0, 1, 2) and (3, 4, mean of 3 and 4)

``windows``: every channel by itself, through a wide, a medium and a narrow window of its intensities.
``neighbours``: every channel by itself, as slices d − 1, d and d + 1 of its volume; at the ends the last slice repeats.

No channel is dropped or mixed away. The tokens of several images of one slice are concatenated along ``e``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

from nnunet_dino.backbones.rgb_names import NEIGHBOURS as NEIGHBOURS
from nnunet_dino.backbones.rgb_names import REPEAT as REPEAT
from nnunet_dino.backbones.rgb_names import RGB as RGB
from nnunet_dino.backbones.rgb_names import WINDOWS as WINDOWS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True)
class ChannelView:
    """How the intensities of one channel are shown.

    Attributes:
        mean: Subtracted from the intensities as they arrive.
        std: Divided by, so that zero mean and unit variance are shown, as backbones were trained with.
        windows: Three pairs of a low and a high end, in intensities as they arrive; empty if ``windows`` is not asked for.
    """

    mean: float = 0.0
    std: float = 1.0
    windows: tuple[tuple[float, float], ...] = ()


def num_images(num_channels: int, rgb: str = REPEAT) -> int:
    """Returns how many three-channel images show ``num_channels`` channels."""
    return -(-num_channels // 3) if rgb == REPEAT else num_channels


def with_neighbours(volume: Tensor) -> Tensor:
    """Returns ``b 3·c d h w`` for ``b c d h w``: of every channel the slice before, the slice itself, the slice after."""
    before = torch.cat([volume[:, :, :1], volume[:, :, :-1]], dim=2)
    after = torch.cat([volume[:, :, 1:], volume[:, :, -1:]], dim=2)
    return torch.stack([before, volume, after], dim=2).flatten(1, 2)


def standardised(slices: Tensor, channels: Sequence[ChannelView]) -> Tensor:
    """Returns ``(slices − mean) / std`` channel by channel; slices ``n c h w``, or ``n 3·c h w`` with neighbours."""
    if all((view.mean, view.std) == (0, 1) for view in channels):
        return slices
    repeats = slices.shape[1] // len(channels)
    mean, std = (
        slices.new_tensor([value for value in values for _ in range(repeats)]).view(-1, 1, 1)
        for values in zip(*((view.mean, view.std) for view in channels), strict=True)
    )
    return (slices - mean) / std


def in_statistics(channels: Sequence[ChannelView], statistics: Sequence[Sequence[float]]) -> tuple[ChannelView, ...]:
    """Returns ``channels`` for a backbone that was trained with other statistics than ImageNet's.

    Those of ImageNet, by colour or their mean, are what options give a channel of intensities from 0 to 1.

    Args:
        channels: How the intensities of each channel are shown.
        statistics: Mean and deviation of red, green and blue.
    """
    if statistics == IMAGENET:
        return tuple(channels)
    own = dict(zip(_colours_and_grey(IMAGENET), _colours_and_grey(statistics), strict=True))
    pairs = [own.get((view.mean, view.std), (view.mean, view.std)) for view in channels]
    return tuple(replace(view, mean=mean, std=std) for view, (mean, std) in zip(channels, pairs, strict=True))


def _colours_and_grey(statistics: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return [*zip(*statistics, strict=True), tuple(map(fmean, statistics))]


def shown(
    slices: Tensor,
    channels: Sequence[ChannelView],
    rgb: str = REPEAT,
    statistics: Sequence[Sequence[float]] = IMAGENET,
) -> list[Tensor]:
    """Returns the images of slices by the rule ``rgb``, each ``n 3 h w``.

    Args:
        slices: ``n c h w``; ``n 3·c h w`` with neighbours.
        channels: How the intensities of each channel are shown.
        rgb: One of ``RGB``.
        statistics: Mean and deviation of red, green and blue that the backbone was trained with.
    """
    if rgb == WINDOWS:
        return windows_to_images(slices, [view.windows for view in channels], statistics)
    return channels_to_images(standardised(slices, in_statistics(channels, statistics)))


def channels_to_images(slices: Tensor) -> list[Tensor]:
    """Shows channels three at a time.

    Args:
        slices: ``n c h w``, with any number of channels.

    Returns:
        ``num_images(c)`` tensors ``n 3 h w``.
    """
    return [_three_channels(group) for group in slices.split(3, dim=1)]


def windows_to_images(
    slices: Tensor, windows: Sequence[Sequence[tuple[float, float]]], statistics: Sequence[Sequence[float]] = IMAGENET
) -> list[Tensor]:
    """Shows every channel through three windows, each from 0 to 1 and then by the backbone's statistics.

    Args:
        slices: ``n c h w``.
        windows: Per channel three pairs of a low and a high end.
        statistics: Mean and deviation of red, green and blue.

    Returns:
        ``c`` tensors ``n 3 h w``.
    """
    mean, std = (slices.new_tensor(values).view(-1, 1, 1) for values in statistics)
    images = []
    for channel, ends in zip(slices.split(1, dim=1), windows, strict=True):
        images.append((through_windows(channel, ends) - mean) / std)
    return images


def through_windows(channel: Tensor, windows: Sequence[tuple[float, float]]) -> Tensor:
    """Returns one channel, ``n 1 h w``, through ``k`` windows, pairs of a low and a high end: ``n k h w``, 0 to 1."""
    low, high = (channel.new_tensor(side).view(-1, 1, 1) for side in zip(*windows, strict=True))
    return ((channel - low) / (high - low)).clamp(0, 1)


def _three_channels(group: Tensor) -> Tensor:
    count = group.shape[1]
    if count == 1:
        return group.expand(-1, 3, -1, -1)
    if count == 2:
        return torch.cat([group, group.mean(dim=1, keepdim=True)], dim=1)
    return group
