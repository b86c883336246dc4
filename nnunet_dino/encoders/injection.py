"""Adds tokens to the feature maps of a convolutional stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Averages where the target is coarser, interpolates linearly where it is finer, axis by axis.

    Args:
        maps: ``b k d gh gw`` or ``b k gh gw``.
        size: Target size of the spatial axes.
    """
    size = tuple(size)
    coarse = tuple(min(have, want) for have, want in zip(maps.shape[2:], size, strict=True))
    if coarse != tuple(maps.shape[2:]):
        pool = F.adaptive_avg_pool3d if maps.ndim == 5 else F.adaptive_avg_pool2d
        maps = pool(maps, coarse)
    if coarse != size:
        maps = F.interpolate(maps, size, mode="trilinear" if maps.ndim == 5 else "bilinear", align_corners=False)
    return maps


class TokenInjection(nn.Module):
    """``features + gate · resample(project(tokens))``, one gate per feature channel.

    Args:
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        width: Width ``k`` of the tokens.
        num_features: Channels ``f`` of the stage.
        gate_start: Value of every gate before training; at zero the stage is as if there were no tokens.
    """

    def __init__(self, conv_op: type[nn.Module], width: int, num_features: int, gate_start: float) -> None:
        super().__init__()
        self.project = conv_op(width, num_features, kernel_size=1)
        self.gate = nn.Parameter(torch.full((num_features,), float(gate_start)))

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Returns features of the same shape ``b f d h w``, given tokens ``b k d gh gw`` (both without ``d`` in 2D)."""
        size = features.shape[2:]
        coarse = [min(have, want) for have, want in zip(tokens.shape[2:], size, strict=True)]
        projected = resample(self.project(resample(tokens, coarse)), size)
        return features + projected * self.gate.view(1, -1, *(1 for _ in size))
