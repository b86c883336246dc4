"""Shows every slice of a volume to a 2D backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_dino.backbones.adapted import AdaptedBackbone
from nnunet_dino.backbones.vit import PATCH_PX
from nnunet_dino.encoders.channels import channels_to_images, num_images

NUM_PREFIX_TOKENS = 5
CHUNK_TOKENS = 16384


def token_grid(size_px: Sequence[int], token_stride_px: int) -> tuple[int, int]:
    """Returns ``(gh, gw)``: how many tokens cover a slice of ``size_px = (h, w)`` at one token per ``token_stride_px``."""
    height, width = size_px
    return math.ceil(height / token_stride_px), math.ceil(width / token_stride_px)


def fold_slices(volume: Tensor) -> Tensor:
    """Turns ``b c d h w`` into slices ``(b·d) c h w``; a batch of images ``b c h w`` passes unchanged."""
    return volume if volume.ndim == 4 else volume.movedim(2, 1).flatten(0, 1)


def unfold_slices(maps: Tensor, batch: int, num_spatial_axes: int) -> Tensor:
    """Turns maps ``(b·d) e gh gw`` of slices into ``b e d gh gw``; for two spatial axes they pass unchanged."""
    return maps if num_spatial_axes == 2 else maps.unflatten(0, (batch, -1)).movedim(1, 2)


class SliceEncoder(nn.Module):
    """Encodes every slice of a volume by itself.

    ::

        b c d h w ─► (b·d) c h w ─► resize ─► (b·d) 3 16·gh 16·gw ─► backbone ─► per tap (b·d) e gh gw

    A slice is resized so that one token covers ``token_stride_px`` pixels of the input, which enlarges small slices: at a
    stride of 8 a 56 × 40 slice is seen as 112 × 80 pixels and gives 7 × 5 tokens. Intensities are passed on as nnU-Net
    normalised them (zero mean, unit variance, as the backbone was trained with); slices are never normalised one by one.

    Args:
        backbone: The backbone.
        num_image_channels: Leading channels that are images. Further ones (the one-hot labels of a cascade) are not shown.
        token_stride_px: Pixels of the input per token along ``h`` and ``w``.
    """

    def __init__(self, backbone: AdaptedBackbone, num_image_channels: int, token_stride_px: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_image_channels = num_image_channels
        self.token_stride_px = token_stride_px
        self.num_maps = backbone.num_taps * num_images(num_image_channels)

    def forward(self, volume: Tensor) -> tuple[Tensor, ...]:
        """Encodes slices in chunks, so that memory does not grow with their number.

        Args:
            volume: ``b c d h w`` or ``b c h w``.

        Returns:
            ``num_maps`` maps, each ``(b·d) e gh gw`` (or ``b e gh gw``).
        """
        slices = fold_slices(volume[:, : self.num_image_channels])
        gh, gw = token_grid(slices.shape[2:], self.token_stride_px)
        chunk = max(1, CHUNK_TOKENS // (gh * gw + NUM_PREFIX_TOKENS))
        parts = [self._encode(part, (gh * PATCH_PX, gw * PATCH_PX)) for part in slices.split(chunk)]
        return tuple(torch.cat(maps) if len(maps) > 1 else maps[0] for maps in zip(*parts, strict=True))

    def _encode(self, slices: Tensor, size_px: tuple[int, int]) -> list[Tensor]:
        if slices.shape[2:] != size_px:
            slices = F.interpolate(slices.float(), size_px, mode="bilinear", antialias=False)
        return [tap for image in channels_to_images(slices) for tap in self.backbone(image)]
