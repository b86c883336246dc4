"""What the numbers of a result are: Dice of labels, or how far neurons are from the true ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nnunet_dino.em.score_folder import TITLES


@dataclass(frozen=True)
class Kind:
    """How the numbers of a result are named and read.

    Attributes:
        title: Of one number.
        of_case: Of the number that stands for a case.
        column: What the columns of a table of scores are.
        csv: What the columns of CSV files begin with.
        headline: The column that stands for a case; None takes the mean over all.
        lower_is_better: Direction.
        method: How the numbers are computed, for the report.
    """

    title: str
    of_case: str
    column: str
    csv: str
    headline: str | None
    lower_is_better: bool
    method: str


DICE = Kind(
    "Dice",
    "mean Dice",
    "Label",
    "dice",
    None,
    False,
    "Dice: per case and label, as nnU-Net computes it (2 TP / (2 TP + FP + FN)). Where a label is absent from the "
    "reference and from the prediction, Dice is undefined and left out of every mean, as nnU-Net does; the tables count "
    "such cases. A case's mean is the mean over its defined labels. ± is the standard deviation over cases (n - 1).",
)
NEURONS = Kind(
    "score",
    "VOI sum",
    "Score",
    "score",
    "voi_sum",
    True,
    "Lower is better. VOI split: bits that cut neurons add; VOI merge: bits that joined neurons lose; base 2. ARAND: adapted "
    "Rand error of pairs of different voxels, as scikit-image counts it; ARAND CREMI: with pairs of a voxel with itself. "
    "Voxels whose true id is 0 do not count. ± is the standard deviation over cases (n - 1).",
)


def kind_of(columns: Iterable[str]) -> Kind:
    """Returns what a table of scores holds, by its columns."""
    return NEURONS if set(columns) == set(TITLES) else DICE


def heading(title: str) -> str:
    """Returns a title with its first letter a capital one."""
    return title[:1].upper() + title[1:]
