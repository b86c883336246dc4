"""Rotary position embedding in bfloat16, as MedDINOv3's trainer left it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nnunet_dino.backbones.quiet_timm import timm


def periods_in_bfloat16(count: int, temperature: float) -> Tensor:
    """Returns periods whose exponents are rounded too; of heads 64 wide they are those of float32, rounded."""
    return temperature ** (torch.arange(count, dtype=torch.bfloat16) / count)


class RopeInBfloat16(timm.layers.RotaryEmbeddingDinoV3):
    """Computes coordinates, angles, sines and cosines in bfloat16.

    DINOv3's ``vit_base`` does so unless its hub entry sets float32 (``RopePositionEmbedding`` of
    https://github.com/facebookresearch/dinov3). timm rounds later.
    """

    def __init__(self, head_dim: int, temperature: float) -> None:
        super().__init__(head_dim, temperature=temperature, rotate_half=True, dtype=torch.bfloat16)
        self.periods = periods_in_bfloat16(head_dim // 4, temperature)

    def get_embed(self, shape: tuple[int, int]) -> Tensor:
        """Returns sines and cosines ``(gh·gw) 2·head_dim`` for a grid of ``shape = (gh, gw)``."""
        axes = [torch.arange(0.5, n, device=self.periods.device, dtype=torch.bfloat16) / n for n in shape]
        coordinates = 2.0 * torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1) - 1.0
        angles = (2 * math.pi * coordinates[:, :, None] / self.periods).flatten(1).tile(2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class _ToBfloat16(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16)


def rotate_in_bfloat16(vit: nn.Module) -> None:
    """Makes ``vit``, timm's ``Eva`` in its DINOv3 form, rotate queries and keys in bfloat16; prefix tokens are rounded too.

    timm casts them back to the type of the values.
    """
    vit.rope = RopeInBfloat16(vit.rope.dim, vit.rope.temperature)
    for block in vit.blocks:
        block.attn.q_norm = _ToBfloat16()
        block.attn.k_norm = _ToBfloat16()
