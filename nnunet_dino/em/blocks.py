"""Neurons of volumes of any size: block by block, with ids stitched where blocks overlap."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from nnunet_dino.em.agglomeration import THRESHOLD, agglomerate, renumbered
from nnunet_dino.em.fragments import fragments_of, without_dust

BLOCK = (128, 512, 512)
OVERLAP_SHARE = 8  # neighbouring blocks share this part of a block's edge

Shape = tuple[int, int, int]
Block = tuple[slice, slice, slice]


def neurons_of(
    affinities: NDArray[np.float32], per_section: bool, threshold: float = THRESHOLD, block: Shape = BLOCK
) -> NDArray[np.uint32]:
    """Cuts a volume into neurons.

    A volume that one block holds is cut as a whole. Otherwise every block is cut by itself, and neurons of two blocks become
    one where they share most of their voxels in the overlap::

        block 0  ├──────────────┤            ids of block 0 are kept in the overlap; a neuron of block 1 takes the id of that
        block 1            ├──────────────┤  of block 0 that it meets most, if that one meets it most as well

    Args:
        affinities: ``c d h w`` in [0, 1]; the first three channels are of the nearest neighbours along ``d``, ``h``, ``w``.
        per_section: See :func:`nnunet_dino.em.fragments.fragments_of`.
        threshold: See :func:`nnunet_dino.em.agglomeration.agglomerate`.
        block: Voxels of a block, ``d h w``; they bound the memory beyond that of the affinities and the ids.

    Returns:
        ``d h w``, ids from 1 without gaps.

    Raises:
        UserError: A package of the extra ``em`` is missing, or the threshold is outside [0, 1].
    """
    shape: Shape = affinities.shape[1:]  # type: ignore[assignment]
    neurons = np.zeros(shape, dtype=np.uint32)
    blocks = list(_blocks(shape, block))
    same: list[NDArray[np.int64]] = []
    highest = 0
    for place in tqdm(blocks, desc="Neurons", unit="block", disable=None if len(blocks) > 1 else True, leave=False):
        d, h, w = place
        part = np.ascontiguousarray(affinities[:3, d, h, w], dtype=np.float32)
        joined = agglomerate(part, fragments_of(part, per_section), threshold)
        found = renumbered(joined if per_section else without_dust(joined, part)) + np.uint32(highest)
        highest = int(found.max())
        there = neurons[place]
        is_shared = there > 0
        same.append(_meeting(there[is_shared], found[is_shared]))
        np.copyto(there, found, where=~is_shared)
    if len(blocks) == 1:
        return neurons
    pairs = np.concatenate(same)
    graph = coo_matrix((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(highest + 1, highest + 1))
    return renumbered(connected_components(graph, directed=False)[1].astype(np.uint32)[neurons] + np.uint32(1))


def _blocks(shape: Shape, block: Shape) -> Iterator[Block]:
    axes = []
    for size, edge in zip(shape, block, strict=True):
        step = max(edge - max(edge // OVERLAP_SHARE, 1), 1)
        starts = range(0, max(size - edge, 0) + step, step) if size > edge else [0]
        axes.append([slice(start, min(start + edge, size)) for start in starts if start == 0 or start < size - edge + step])
    yield from product(*axes)  # type: ignore[misc]


def _meeting(before: NDArray[np.uint32], after: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Returns the pairs of ids ``n 2`` that share more voxels with each other than with any other."""
    both, counts = np.unique((before.astype(np.int64) << 32) | after, return_counts=True)  # much faster than unique rows
    pairs = np.stack([both >> 32, both & 0xFFFFFFFF], axis=1)
    order = np.argsort(counts, kind="stable")
    best_after = dict(zip(pairs[order, 0].tolist(), pairs[order, 1].tolist(), strict=True))
    best_before = dict(zip(pairs[order, 1].tolist(), pairs[order, 0].tolist(), strict=True))
    mutual = [(first, second) for first, second in best_after.items() if best_before[second] == first]
    return np.array(mutual, dtype=np.int64).reshape(-1, 2)
