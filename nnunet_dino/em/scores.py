"""Scores of a segmentation into neurons: variation of information and adapted Rand error."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

from nnunet_dino._errors import UserError


@dataclass(frozen=True)
class NeuronScores:
    """How far a segmentation is from the truth; for all of them lower is better, and 0 is perfect.

    Voxels whose true id is 0 do not count.

    Attributes:
        voi_split: Bits that the segmentation adds to the truth, H(segmentation | truth): neurons that were cut.
        voi_merge: Bits that it lost, H(truth | segmentation): neurons that were joined.
        arand: Adapted Rand error of pairs of different voxels, 1 − F, as scikit-image and the laboratory of arXiv 2509.06467
            count it; in [0, 1].
        arand_cremi: Likewise as CREMI counts it: a voxel makes a pair with itself, and voxels of the segmentation's id 0 are
            their own segments.
    """

    voi_split: float
    voi_merge: float
    arand: float
    arand_cremi: float

    @property
    def voi_sum(self) -> float:
        return self.voi_split + self.voi_merge

    def as_dict(self) -> dict[str, float]:
        return {**asdict(self), "voi_sum": self.voi_sum}


def score_neurons(truth: NDArray[Any], segmentation: NDArray[Any]) -> NeuronScores:
    """Compares two partitions of a volume.

    Args:
        truth: Ids, 0 where nothing is known.
        segmentation: Ids, of the same shape.

    Raises:
        UserError: The shapes differ, or the truth holds no neuron.

    Source:
        Meilă 2007 for the variation of information, base 2; Arganda-Carreras et al. 2015 for the adapted Rand error; CREMI's
        variant after https://github.com/cremi/cremi_python, evaluation/rand.py.
    """
    if truth.shape != segmentation.shape:
        raise UserError(
            f"scores: required two volumes of one shape · got {truth.shape} and {segmentation.shape} · compare with the labels "
            "of the image that was segmented"
        )
    counted = truth.ravel() != 0
    if not counted.any():
        raise UserError("scores: required labels with neurons · got only 0 · give the folder of the instance labels")
    true_ids, true_place = np.unique(truth.ravel()[counted], return_inverse=True)
    found_ids, found_place = np.unique(segmentation.ravel()[counted], return_inverse=True)
    size = (len(true_ids), len(found_ids))
    # Sums of squares need float64: int64 would do, but sparse products of small integer kinds overflow.
    table = coo_matrix((np.ones(true_place.size), (true_place, found_place)), shape=size).tocsr()
    total = float(true_place.size)
    of_true, of_found = np.asarray(table.sum(axis=1)).ravel(), np.asarray(table.sum(axis=0)).ravel()
    joint = _entropy(table.data / total)
    return NeuronScores(
        voi_split=max(joint - _entropy(of_true / total), 0.0),
        voi_merge=max(joint - _entropy(of_found / total), 0.0),
        arand=_arand((table.data**2).sum() - total, (of_true**2).sum() - total, (of_found**2).sum() - total),
        arand_cremi=_arand_cremi(table, of_true, found_ids),
    )


def _entropy(shares: NDArray[np.float64]) -> float:
    return float(-(shares * np.log2(shares)).sum())


def _arand(both: float, in_truth: float, in_segmentation: float) -> float:
    """Returns one minus the F-score of pairs of voxels; 0 if there is no pair to get wrong."""
    pairs = in_truth + in_segmentation
    return float(1 - 2 * both / pairs) if pairs else 0.0


def _arand_cremi(table: Any, of_true: NDArray[np.float64], found_ids: NDArray[Any]) -> float:
    found = table[:, found_ids != 0]
    alone = of_true.sum() - found.sum()
    of_found = np.asarray(found.sum(axis=0)).ravel()
    return _arand((found.data**2).sum() + alone, (of_true**2).sum(), (of_found**2).sum() + alone)
