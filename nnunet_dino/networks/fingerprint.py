"""Keys of slices: wide hashes of their raw bits, computed where the slices are."""

from __future__ import annotations

import os
from functools import lru_cache

import torch
from torch import Tensor

Key = tuple[int, ...]

NUM_SUMS = 3
BLOCK_WORDS = 1 << 17  # the 64-bit products of a block stay in the processor's cache
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}


def slice_keys(slices: Tensor) -> list[Key]:
    """Returns one key per slice: equal for equal bits, and different for different bits but for odds of 2⁻⁹⁹.

    A slice is a row of words ``w_i`` of up to 32 bits. Its key is three sums ``Σ a_i w_i mod 2⁶⁴`` with random 64-bit
    multipliers ``a_i``, drawn anew in every process (multilinear hashing; Carter and Wegman 1979). The words of two slices
    differ by less than 2³², so the product of a difference and its multiplier takes any one value with a probability of at
    most 2⁻³³, and three independent sums agree with at most 2⁻⁹⁹.

    Keys of slices of one shape and type can be compared. They are fetched from the device at once, whatever their number.

    Args:
        slices: ``n c h w``, of any type.
    """
    words = slices.contiguous().view(_WORDS[slices.element_size()]).flatten(1)
    multipliers = _multipliers(words.shape[1], words.device)
    sums = [_sums(block, multipliers) for block in words.split(max(1, BLOCK_WORDS // words.shape[1]))]
    return [tuple(key) for key in torch.cat(sums).tolist()]


def _sums(words: Tensor, multipliers: Tensor) -> Tensor:
    words = words.to(torch.int64)
    return torch.stack([(words * row).sum(dim=1) for row in multipliers], dim=1)


@lru_cache(maxsize=4)
def _multipliers(num_words: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(7), "big"))
    drawn = torch.empty(NUM_SUMS, num_words, dtype=torch.int64)
    return drawn.random_(-(2**63), None, generator=generator).to(device)
