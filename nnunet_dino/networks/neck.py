"""Aggregates the tokens of several depths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MapNorm(nn.LayerNorm):
    """A LayerNorm that computes in the precision of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class TokenNeck(nn.Module):
    """Mixes the patch maps of several blocks into one map (multi-scale token aggregation, Li et al. 2025, sec. 3.2).

    Args:
        num_maps: Number of maps.
        embed_dim: Width ``e`` of each.
        width: Width ``k`` of the result.
        normalise: Give every map a LayerNorm of its own first; needed where the backbone's final norm was not applied.
    """

    def __init__(self, num_maps: int, embed_dim: int, width: int, normalise: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(MapNorm(embed_dim) if normalise else nn.Identity() for _ in range(num_maps))
        self.mix = nn.Linear(num_maps * embed_dim, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns ``n gh gw k`` for ``num_maps`` maps ``n gh gw e``."""
        side_by_side = torch.cat([norm(m) for norm, m in zip(self.norms, maps, strict=True)], dim=-1)
        if not torch.is_autocast_enabled(side_by_side.device.type):  # autocast casts both, without a float32 copy in between
            side_by_side = side_by_side.to(self.mix.weight.dtype)
        return F.gelu(self.norm(self.mix(side_by_side)))
