"""From neuron ids to affinities, and the loss that they are learned by.

An affinity says whether a voxel and its neighbour belong to the same neuron; offsets point back along an axis::

    ids      1 1 2 2 0 2        channel of the last axis, offset (0, 0, −1)
    affinity 1 1 0 1 0 0        the first voxel has no neighbour: it says whether the voxel lies in a neuron

Source: the targets of the laboratory of arXiv 2509.06467, as its public code makes them (https://github.com/ydchen0806/TokenUnify
and https://github.com/liuxy1103/CAD); written anew from the description.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad

Offset = tuple[int, int, int]

NEAREST: tuple[Offset, ...] = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
LONG_RANGE: tuple[Offset, ...] = (
    *NEAREST,
    *((-2, 0, 0), (0, -3, 0), (0, 0, -3), (-3, 0, 0), (0, -9, 0), (0, 0, -9), (-4, 0, 0), (0, -27, 0), (0, 0, -27)),
)
UNKNOWN = -1
MAX_ID = 2**15 - 1  # of preprocessed labels, which nnU-Net stores as int16


def widen_borders(ids: Tensor) -> Tensor:
    """Sets every pixel whose 3 × 3 neighbourhood in its section holds more than one positive id to 0.

    Args:
        ids: ``d h w``, integers; 0 and below are no neuron.

    Returns:
        Ids of the same shape and kind. What was 0 or below stays as it is.
    """
    exact = ids.to(torch.float64)[None]
    around = pad(exact, (1, 1, 1, 1), mode="replicate")
    highest = max_pool2d(around, 3, stride=1)
    lowest = -max_pool2d(torch.where(around > 0, -around, -torch.inf), 3, stride=1)
    is_border = (highest > 0) & (lowest < highest)
    return torch.where(is_border[0] & (ids > 0), torch.zeros_like(ids), ids)


def affinities_of(ids: Tensor, offsets: Sequence[Offset] = NEAREST) -> Tensor:
    """Returns whether each voxel and the one at each offset have the same positive id.

    Args:
        ids: ``d h w``, integers; 0 is no neuron, −1 not known.
        offsets: In voxels, each along one axis and not above 0.

    Returns:
        ``len(offsets) d h w``, int8: 1 or 0, and −1 where one of both ids is not known. Voxels whose neighbour lies outside the
        volume say whether they have an id themselves.
    """
    made = ((ids > 0).to(torch.int8) - (ids < 0).to(torch.int8)).repeat(len(offsets), 1, 1, 1)
    for channel, offset in zip(made, offsets, strict=True):
        here = tuple(slice(-step, None) for step in offset)
        there = tuple(slice(None, size + step) for size, step in zip(ids.shape, offset, strict=True))
        first, second = ids[here], ids[there]
        if first.numel():
            same = ((first == second) & (first > 0)).to(torch.int8)
            channel[here] = torch.where((first < 0) | (second < 0), UNKNOWN, same)
    return made


def balanced_weights(affinities: Tensor) -> Tensor:
    """Returns weights that give both kinds of pairs in a volume the same mass, the rarer one the higher weight.

    Args:
        affinities: ``c d h w``: 1, 0, or −1 for not known.

    Returns:
        Weights of the same shape; 0 where the affinity is not known, 1 everywhere else if all known ones are equal. With the
        share ``f`` of ones, limited to [0.05, 0.99], zeros weigh ``f / (1 − f)`` if ``f`` is above a half, and otherwise ones
        ``(1 − f) / f``.
    """
    known = affinities >= 0
    ones = affinities > 0
    share = ones.sum() / known.sum().clamp(min=1)
    limited = share.clamp(0.05, 0.99)
    is_constant = (share == 0) | (share == 1)
    of_ones = torch.where(is_constant, 1.0, ((1 - limited) / limited).clamp(min=1))
    of_zeros = torch.where(is_constant, 1.0, (limited / (1 - limited)).clamp(min=1))
    return torch.where(known, torch.where(ones, of_ones, of_zeros), 0.0)


class WeightedMSE(nn.Module):
    """The squared error of affinities, balanced in every volume, summed over channels and averaged over voxels."""

    def forward(self, logits: Tensor, affinities: Tensor) -> Tensor:
        """Returns the loss.

        Args:
            logits: ``b c d h w``; their logistic function is compared.
            affinities: ``b c d h w``: 1, 0, or −1 for not known, which does not count.
        """
        weights = torch.stack([balanced_weights(volume) for volume in affinities])
        errors = weights * (torch.sigmoid(logits.float()) - affinities.float()) ** 2
        return errors.sum() / (errors.numel() / errors.shape[1])
