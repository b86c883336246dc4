"""Oversegmentation: a watershed on affinities in every section."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from nnunet_dino._packages import require

DUST = 64
"""Segments of fewer voxels are no neurons: voxels of predicted borders that hold to nothing."""


def fragments_of(affinities: NDArray[np.float32], per_section: bool) -> NDArray[np.uint64]:
    """Cuts a volume into fragments, each around a seed that lies farthest from borders.

    In every section, seeds are the connected maxima of the squared distance to where the border probability, one minus the mean
    of both affinities in the section, is a half or more; a watershed floods the border probability from them. There is no mask,
    so that no voxel is left out.

    Where sections are as thin as a pixel is wide, a fragment is then cut where it holds together by no affinity above a half:
    neurites of a few voxels have no seed of their own and would be flooded by their neighbour, and a single voxel on the wrong
    side of a border joins two neurons.

    Args:
        affinities: ``3 d h w`` in [0, 1], of the nearest neighbours along each axis.
        per_section: Sections are thick: nothing but the two affinities in a section cuts it.

    Returns:
        ``d h w``, ids from 1; across sections no two fragments share one.

    Raises:
        UserError: mahotas is not installed.
    """
    mahotas = require("mahotas", "em", "neurons")
    fragments = np.empty(affinities.shape[1:], dtype=np.uint64)
    highest = 0
    for index in range(len(fragments)):
        found = _flooded(mahotas, 1 - (affinities[1, index] + affinities[2, index]) / 2)
        fragments[index] = found.astype(np.uint64) + np.uint64(highest)
        highest += int(found.max())
    return fragments if per_section else _held_together(fragments, affinities)


def _flooded(mahotas: ModuleType, border: NDArray[Any]) -> NDArray[Any]:
    """Returns the watershed of a border probability ``h w``; one fragment where there is no seed."""
    is_inside = border < 0.5
    if is_inside.all() or not is_inside.any():
        return np.ones(border.shape, dtype=np.int64)
    distance = np.round(distance_transform_edt(is_inside) ** 2).astype(np.int32)
    seeds, _ = mahotas.label(mahotas.regmax(distance) & is_inside)
    return mahotas.cwatershed(border, seeds)


def _pairs(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Returns the slices of all voxels with a neighbour before them along an axis, and of those neighbours."""
    here, there = [slice(None)] * 3, [slice(None)] * 3
    here[axis], there[axis] = slice(1, None), slice(None, -1)
    return tuple(here), tuple(there)


def without_dust(neurons: NDArray[np.integer], affinities: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Gives every voxel of what is smaller than :data:`DUST` voxels to the neuron that the highest affinities lead to.

    These are the trees of a minimum spanning forest rooted in the neurons: a watershed of the affinities between voxels, which
    takes as long as there is dust, where a flooding takes as long as there are voxels.

    Args:
        neurons: ``d h w``, ids from 1.
        affinities: ``3 d h w`` in [0, 1].

    Returns:
        ``d h w``, ids that are left; all of them if nothing is larger.

    Source: Cousty et al. 2009, watershed cuts.
    """
    _, places, sizes = np.unique(neurons, return_inverse=True, return_counts=True)
    is_dust = (sizes < DUST)[places.reshape(neurons.shape)]
    if not is_dust.any() or is_dust.all():
        return neurons.astype(np.uint32)
    voxels = np.arange(neurons.size, dtype=np.int32).reshape(neurons.shape)
    starts, ends, costs = [], [], []
    for axis in range(3):
        here, there = _pairs(axis)
        is_open = is_dust[here] | is_dust[there]
        starts.append(voxels[here][is_open])
        ends.append(voxels[there][is_open])
        costs.append(2 - affinities[axis][here][is_open])
    touched = np.unique(np.concatenate([*starts, *ends]))
    shores = touched[~is_dust.ravel()[touched]]  # voxels of neurons beside dust; a root holds them together, cheapest of all
    root = np.full_like(shores, neurons.size)
    start, end = np.concatenate([*starts, root]), np.concatenate([*ends, shores])
    cost = np.concatenate([*costs, np.full(len(shores), 0.5, dtype=np.float32)])
    size = (neurons.size + 1, neurons.size + 1)
    tree = minimum_spanning_tree(coo_matrix((cost, (start, end)), shape=size)).tocoo()
    inner = (tree.row != neurons.size) & (tree.col != neurons.size)
    forest = coo_matrix((tree.data[inner], (tree.row[inner], tree.col[inner])), shape=size)
    part = connected_components(forest, directed=False)[1]
    taken = np.zeros(int(part.max()) + 1, dtype=np.uint32)
    taken[part[shores]] = neurons.ravel()[shores]
    return np.where(is_dust, taken[part[:-1]].reshape(neurons.shape), neurons).astype(np.uint32)


def _held_together(fragments: NDArray[Any], affinities: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Cuts fragments into the parts that affinities above a half connect; voxels without any stay with the largest part."""
    voxels = np.arange(fragments.size, dtype=np.int32).reshape(fragments.shape)
    has_hold = np.zeros(fragments.shape, dtype=bool)
    starts, ends = [], []
    for axis in range(3):
        here, there = _pairs(axis)
        is_high = affinities[axis][here] > 0.5
        has_hold[here] |= is_high
        has_hold[there] |= is_high
        within = is_high & (fragments[here] == fragments[there])
        starts.append(voxels[here][within])
        ends.append(voxels[there][within])
    start, end = np.concatenate(starts), np.concatenate(ends)
    graph = coo_matrix((np.ones(len(start), dtype=bool), (start, end)), shape=(fragments.size, fragments.size))
    part = connected_components(graph, directed=False)[1]
    by_size = np.argsort(np.bincount(part)[part], kind="stable")
    fragment = fragments.ravel()
    largest = np.zeros(int(fragment.max()) + 1, dtype=part.dtype)
    largest[fragment[by_size]] = part[by_size]
    return (np.where(has_hold.ravel(), part, largest[fragment]).reshape(fragments.shape) + 1).astype(np.uint64)
