"""From any number of image channels to the three that a vision transformer sees.

The rule is fixed, not learned, so that the tokens of a slice are the same in every fold. Channels are shown three at a time:

    channels   images shown to the transformer (red, green, blue)
    1          (0, 0, 0)
    2          (0, 1, mean of 0 and 1)
    3          (0, 1, 2)
    4          (0, 1, 2) and (3, 3, 3)
    5          (0, 1, 2) and (3, 4, mean of 3 and 4)

No channel is dropped or mixed away. The tokens of several images of one slice are concatenated along ``e``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def num_images(num_channels: int) -> int:
    """Returns how many three-channel images show ``num_channels`` channels."""
    return -(-num_channels // 3)


def channels_to_images(slices: Tensor) -> list[Tensor]:
    """Maps slices with any number of channels to three-channel images.

    Args:
        slices: ``n c h w``.

    Returns:
        ``num_images(c)`` tensors ``n 3 h w``.
    """
    return [_three_channels(group) for group in slices.split(3, dim=1)]


def _three_channels(group: Tensor) -> Tensor:
    count = group.shape[1]
    if count == 1:
        return group.expand(-1, 3, -1, -1)
    if count == 2:
        return torch.cat([group, group.mean(dim=1, keepdim=True)], dim=1)
    return group
