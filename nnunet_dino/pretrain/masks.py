"""Which patches of which crops are hidden from the student."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MIN_BLOCK, MAX_BLOCK_SHARE, LOWEST_ASPECT, TRIES = 4, 0.5, 0.3, 10


def masked_counts(
    rng: np.random.Generator, num_crops: int, num_tokens: int, share: float, ratios: tuple[float, float]
) -> NDArray[np.int64]:
    """Returns how many tokens each crop of a batch hides: none, or exact counts spread evenly between two ratios.

    Args:
        rng: Decides which crop gets which count.
        num_crops: All crops of the batch, of all processes.
        num_tokens: Patches of a crop.
        share: Of the crops that hide something, rounded down.
        ratios: Lowest and highest ratio of hidden tokens.
    """
    num_masked = int(num_crops * share)
    upper_ends = np.linspace(*ratios, num_masked + 1)[1:]
    counts = np.zeros(num_crops, dtype=np.int64)
    counts[rng.permutation(num_crops)[:num_masked]] = (num_tokens * upper_ends).astype(np.int64)
    return counts


def block_mask(rng: np.random.Generator, grid: tuple[int, int], count: int) -> NDArray[np.bool_]:
    """Returns a mask ``gh gw`` that hides exactly ``count`` tokens: rectangular blocks, the rest at random (iBOT, sec. 3.3).

    Args:
        rng: Source of chance.
        grid: ``(gh, gw)``.
        count: Tokens to hide, at most ``gh·gw``.
    """
    mask = np.zeros(grid, dtype=bool)
    largest = MAX_BLOCK_SHARE * mask.size
    left = count
    while left >= MIN_BLOCK and _add_block(rng, mask, left, min(left, largest)):
        left = count - int(mask.sum())
    if left:
        mask.flat[rng.choice(np.flatnonzero(~mask), left, replace=False)] = True
    return mask


def _add_block(rng: np.random.Generator, mask: NDArray[np.bool_], left: int, largest: float) -> bool:
    """Hides one more block, which may overlap others but adds no more than ``left`` tokens; tells whether one was found."""
    log_aspect = math.log(LOWEST_ASPECT)
    for _ in range(TRIES):
        area = rng.uniform(MIN_BLOCK, max(largest, MIN_BLOCK))
        aspect = math.exp(rng.uniform(log_aspect, -log_aspect))
        size = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not all(0 < length < whole for length, whole in zip(size, mask.shape, strict=True)):
            continue
        top, left_edge = (int(rng.integers(0, whole - length + 1)) for length, whole in zip(size, mask.shape, strict=True))
        block = mask[top : top + size[0], left_edge : left_edge + size[1]]
        if 0 < block.size - int(block.sum()) <= left:
            block[:] = True
            return True
    return False
