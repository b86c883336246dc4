"""What a token's cell holds: the share of every class, and the raw pixels.

::

    slice h w                          grid gh gw, here 3 × 4
    ┌──────┬──────┬──────┬──────┐      every token has the share of each class in its cell;
    │      │   ▒▒▒│▒     │      │      a border of a cell may lie within a pixel, which then counts in part
    ├──────┼──────┼──────┼──────┤
    │      │  ▒▒▒▒│▒▒    │      │
    ├──────┼──────┼──────┼──────┤
    │      │      │      │      │
    └──────┴──────┴──────┴──────┘
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CELL_PX = 8


def cell_shares(labels: Tensor, classes: Sequence[Collection[int]], grid: tuple[int, int]) -> Tensor:
    """Returns which share of every cell each class fills.

    Args:
        labels: ``d h w``.
        classes: The labels of each of ``k`` classes.
        grid: ``(gh, gw)``.

    Returns:
        ``d gh gw k``, 0..1, float32.
    """
    rows, columns = (_overlap(size, count) for size, count in zip(labels.shape[1:], grid, strict=True))
    shares = []
    for values in classes:
        inside = torch.isin(labels, torch.tensor(sorted(values), dtype=labels.dtype))
        shares.append(rows @ inside.float() @ columns.T)
    return torch.stack(shares, dim=-1)


def _overlap(size: int, count: int) -> Tensor:
    """Returns which part of each of ``count`` equal cells every one of ``size`` pixels is, ``count size``."""
    edges = torch.arange(count + 1, dtype=torch.float64) * size / count
    pixels = torch.arange(size, dtype=torch.float64)
    shared = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (shared.clamp(min=0) * count / size).float()


def raw_cells(slices: Tensor, position: Tensor) -> Tensor:
    """Returns the pixels of every cell, brought to 8 × 8, and its position: the baseline that any encoder must beat.

    Pixels and position have about the same weight in a distance.

    Args:
        slices: ``n c h w``.
        position: Of every cell, -1..1, ``n gh gw p``.

    Returns:
        ``n gh gw (64·c + p)``.
    """
    gh, gw = position.shape[1:3]
    size = gh * CELL_PX, gw * CELL_PX
    pixels = F.interpolate(slices.float(), size, mode="bilinear", antialias=True)
    cells = pixels.unflatten(3, (gw, CELL_PX)).unflatten(2, (gh, CELL_PX)).permute(0, 2, 4, 1, 3, 5).flatten(3)
    return torch.cat([cells, position * (cells.shape[-1] / position.shape[-1]) ** 0.5], dim=-1)
