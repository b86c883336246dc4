"""Metrics of challenges by name: what each says, and how a pair of masks is measured for all of them at once.

```
         reference   prediction   dice precision nsd   hd95                 recall   fpv fnv
         empty       empty        –    –         –     –                    –        0   0
         some        empty        0    0         0     diagonal of image    0        0   volume
         empty       some         0    0         0     diagonal of image    –        volume  0
```

``–`` is undefined and left out of means. In a case whose reference has no foreground at all only ``fpv`` and ``fnv`` count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.compare.segmentations import mm_of

ML_PER_MM3 = 1e-3


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: What a user types.
        title: For headings, with its unit.
        lower_is_better: Direction.
        of: Takes a table of measurements and returns one number for each of its rows.
        aggregated: It is one number for all cases of a label instead of one for each.
    """

    name: str
    title: str
    lower_is_better: bool
    of: Callable[[pd.DataFrame], pd.Series]
    aggregated: bool = False


def _ratio(above: pd.Series, below: pd.Series) -> pd.Series:
    return above.where(below > 0) / below.where(below > 0)


def _precision(table: pd.DataFrame) -> pd.Series:
    return _ratio(table["common_ml"], table["predicted_ml"]).mask(
        (table["predicted_ml"] == 0) & (table["reference_ml"] > 0), 0.0
    )


METRICS = {
    metric.name: metric
    for metric in (
        Metric("dice", "Dice", False, lambda t: _ratio(2 * t["common_ml"], t["predicted_ml"] + t["reference_ml"])),
        Metric("hd95", "HD95, mm", True, lambda t: t["hd95_mm"]),
        Metric("fpv", "FPV, ml", True, lambda t: t["fpv_ml"]),
        Metric("fnv", "FNV, ml", True, lambda t: t["fnv_ml"]),
        Metric("precision", "Precision", False, _precision),
        Metric("recall", "Recall", False, lambda t: _ratio(t["common_ml"], t["reference_ml"])),
        Metric("dsc_agg", "Aggregated Dice", False, lambda t: _ratio(2 * t["common_ml"], t["volume_ml"]), aggregated=True),
    )
}
COUNT_WITHOUT_FOREGROUND = ("fpv", "fnv", "dsc_agg")
_NSD = re.compile(r"nsd@(\d+(?:\.\d+)?)mm")
NAMES = (*METRICS, "nsd@2mm")


def find_metric(name: str) -> Metric:
    """Returns the metric of that name; ``nsd@2mm`` takes any tolerance in mm.

    Raises:
        UserError: There is none.
    """
    if found := _NSD.fullmatch(name):
        column = f"nsd_{float(found[1]):g}"
        return Metric(name, f"NSD at {float(found[1]):g} mm", False, lambda table: table[column])
    if name not in METRICS:
        raise UserError(f"--metric: required one of {', '.join(NAMES)} · got {name!r}{nearest(name, NAMES)}")
    return METRICS[name]


def tolerances_mm(names: Iterable[str]) -> tuple[float, ...]:
    """Returns the tolerances of the surface metrics among names, in order."""
    return tuple(sorted({float(found[1]) for name in names if (found := _NSD.fullmatch(name))}))


def measure_files(
    prediction: Path,
    reference: Path,
    labels: Sequence[Sequence[int]],
    tolerances: Sequence[float] = (),
    ignore: int | None = None,
) -> list[dict[str, float]]:
    """Measures every label or region of a predicted file; both files are on one grid.

    Args:
        prediction: Segmentation.
        reference: The same for the truth.
        labels: Values that make up each label or region.
        tolerances: Of surfaces, mm.
        ignore: Value of the reference where nothing counts.

    Returns:
        For each of ``labels`` what :func:`measure_masks` returns, and ``has_foreground``: whether the reference has any label.
    """
    image = sitk.ReadImage(str(reference))
    truth = sitk.GetArrayFromImage(image)
    guess = sitk.GetArrayFromImage(sitk.ReadImage(str(prediction)))
    if guess.shape != truth.shape:
        raise UserError(
            f"required segmentations on one grid · got {prediction} with {guess.shape} and {reference} with {truth.shape} · "
            "resample one to the other"
        )
    if ignore is not None:
        guess = np.where(truth == ignore, 0, guess)
        truth = np.where(truth == ignore, 0, truth)
    spacing = [mm_of(reference) * length for length in image.GetSpacing()[::-1]]
    has_foreground = float(any(np.isin(truth, values).any() for values in labels))
    return [
        measure_masks(np.isin(guess, values), np.isin(truth, values), spacing, tolerances) | {"has_foreground": has_foreground}
        for values in labels
    ]


def measure_masks(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float], tolerances: Sequence[float] = ()
) -> dict[str, float]:
    """Measures a pair of masks ``d h w`` (or ``h w``) on one grid.

    Args:
        prediction: Mask.
        reference: Mask.
        spacing_mm: Size of a voxel along the axes of the masks.
        tolerances: Of surfaces, mm.

    Returns:
        Volumes in ml (``predicted_ml reference_ml volume_ml common_ml fpv_ml fnv_ml``), ``hd95_mm``, one ``nsd_TOLERANCE`` for
        each tolerance, and ``defined``: 1 where both masks hold something.

    Source:
        Volumes of components without any overlap: the evaluation of AutoPET II (lab-midas/autoPET 468179b, 18 neighbours).
        HD95 is the larger of both directed 95th percentiles between surface voxels and NSD the share of surface voxels within
        a tolerance, as MONAI 1.6 computes them.
    """
    voxel_ml = float(np.prod(spacing_mm)) * ML_PER_MM3
    sizes = int(prediction.sum()), int(reference.sum())
    result = {
        "predicted_ml": sizes[0] * voxel_ml,
        "reference_ml": sizes[1] * voxel_ml,
        "volume_ml": sum(sizes) * voxel_ml,
        "defined": float(all(sizes)),
    }
    missing = np.nan if not any(sizes) else 0.0
    if not all(sizes):
        diagonal = float(np.linalg.norm(np.multiply(prediction.shape, spacing_mm)))
        result |= {"common_ml": 0.0, "fpv_ml": result["predicted_ml"], "fnv_ml": result["reference_ml"]}
        result |= {"hd95_mm": diagonal if any(sizes) else np.nan}
        return result | {f"nsd_{tolerance:g}": missing for tolerance in tolerances}
    box = _box(prediction | reference)
    ours, theirs = (np.pad(mask[box], 1) for mask in (prediction, reference))
    result["common_ml"] = int((ours & theirs).sum()) * voxel_ml
    result["fpv_ml"] = _apart(ours, theirs) * voxel_ml
    result["fnv_ml"] = _apart(theirs, ours) * voxel_ml
    there, back = surface_distances(ours, theirs, spacing_mm)
    result["hd95_mm"] = float(max(np.percentile(there, 95), np.percentile(back, 95)))
    for tolerance in tolerances:
        near = (there <= tolerance).sum() + (back <= tolerance).sum()
        result[f"nsd_{tolerance:g}"] = float(near / (len(there) + len(back)))
    return result


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Returns the smallest box that holds a mask, which is not empty."""
    axes = range(mask.ndim)
    used = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(int(places[0]), int(places[-1]) + 1) for places in used)


def _apart(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> int:
    """Returns how many voxels the components of a mask have that nowhere meet the other mask."""
    import cc3d

    components: NDArray[np.integer] = cc3d.connected_components(mask, connectivity=18 if mask.ndim == 3 else 8).ravel()
    sizes = np.bincount(components)
    met = np.bincount(components[other.ravel()], minlength=len(sizes))
    return int(sizes[1:][met[1:] == 0].sum())


def surface_distances(
    one: NDArray[np.bool_], other: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the distances in mm of the surface voxels of each mask to the surface of the other; neither mask is empty."""
    from scipy.ndimage import binary_erosion
    from scipy.spatial import KDTree

    points = [np.argwhere(mask & ~binary_erosion(mask)) * np.asarray(spacing_mm) for mask in (one, other)]
    first, second = (KDTree(cloud).query(asked)[0] for cloud, asked in ((points[1], points[0]), (points[0], points[1])))
    return first, second


def scores(table: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Returns a metric of every case (row) and label (column); NaN where it is undefined or does not count.

    Args:
        table: Measurements, indexed by case and label.
        metric: One that is not aggregated.
    """
    values = metric.of(table)
    if metric.name not in COUNT_WITHOUT_FOREGROUND:
        values = values.where(table["has_foreground"] > 0)
    return values.unstack("label")[list(dict.fromkeys(table.index.get_level_values("label")))]


def aggregated(table: pd.DataFrame, metric: Metric) -> pd.Series:
    """Returns an aggregated metric of every label: its parts are summed over cases first.

    Source:
        V. Andrearczyk et al., Overview of the HECKTOR challenge at MICCAI 2022; evaluate_segmentation2022.ipynb of
        voreille/hecktor 0117ff1 sums volumes in mm³ as well.
    """
    return metric.of(table.groupby(level="label", sort=False)[["common_ml", "volume_ml"]].sum())
