"""Aggregates the tokens of several depths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) if normalise else nn.Identity() for _ in range(num_maps))
        self.mix = nn.Linear(num_maps * embed_dim, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns ``n k gh gw`` for ``num_maps`` maps ``n e gh gw``."""
        last = [norm(m.movedim(1, -1).to(self.mix.weight.dtype)) for norm, m in zip(self.norms, maps, strict=True)]
        return F.gelu(self.norm(self.mix(torch.cat(last, dim=-1)))).movedim(-1, 1)
