"""Metrics of challenges, against MONAI, the evaluation of AutoPET II and SimpleITK."""

from __future__ import annotations

import shutil
import time

import cc3d
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from nnunet_dino._errors import UserError
from nnunet_dino.compare.metrics import aggregated, find_metric, measure_masks, scores

SPACING = (3.0, 1.5, 1.25)
NAMES = ("dice", "hd95", "nsd@2mm", "fpv", "fnv", "precision", "recall")


def ellipsoid(shape, centre, radii_mm, spacing=SPACING):
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return sum(((g - c) * s / r) ** 2 for g, c, s, r in zip(grid, centre, spacing, radii_mm, strict=True)) <= 1


def blobs(shape=(19, 40, 33), seed=0, num=7):
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    for _ in range(num):
        mask |= ellipsoid(shape, rng.uniform(0, shape), rng.uniform(2, 9, 3))
    return mask


def values(prediction, reference, spacing=SPACING, has_foreground=None) -> dict[str, float]:
    row = measure_masks(prediction, reference, spacing, (2.0,))
    row["has_foreground"] = float(reference.any() if has_foreground is None else has_foreground)
    table = pd.DataFrame([row], index=pd.MultiIndex.from_tuples([("a", "1")], names=["case", "label"]))
    return {name: float(scores(table, find_metric(name)).loc["a", "1"]) for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
def test_surface_metrics_are_monais(seed: int) -> None:
    monai = pytest.importorskip("monai.metrics")
    import torch

    prediction, reference = blobs(seed=seed), blobs(seed=seed + 10)
    ours = values(prediction, reference)
    one, other = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference))
    hd95 = monai.compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=SPACING)
    nsd = monai.compute_surface_dice(one, other, [2.0], include_background=True, spacing=SPACING)
    dice = monai.compute_dice(one, other, include_background=True)
    assert ours["hd95"] == pytest.approx(float(hd95), rel=1e-5)
    assert ours["nsd@2mm"] == pytest.approx(float(nsd), rel=1e-5)
    assert ours["dice"] == pytest.approx(float(dice), rel=1e-6)


def official_volume(one: np.ndarray, other: np.ndarray) -> int:
    """The loop of AutoPET II: voxels of the components of ``one`` that do not meet ``other``."""
    components = cc3d.connected_components(one, connectivity=18)
    parts = [np.isin(components, number) for number in range(1, components.max() + 1)]
    return sum(int(part.sum()) for part in parts if (part * other).sum() == 0)


@pytest.mark.parametrize("seed", range(3))
def test_volumes_are_those_of_autopet(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, reference = (rng.random((11, 23, 17)) < 0.06 for _ in range(2))
    ours = values(prediction, reference)
    voxel_ml = np.prod(SPACING) / 1000
    assert ours["fpv"] == pytest.approx(official_volume(prediction, reference) * voxel_ml)
    assert ours["fnv"] == pytest.approx(official_volume(reference, prediction) * voxel_ml)
    assert ours["fpv"] > 0 < ours["fnv"]


def test_corners_do_not_connect_but_edges_do() -> None:
    reference = np.zeros((4, 5, 6), bool)
    reference[1, 1, 1] = True
    edge, corner = reference.copy(), reference.copy()
    edge[1, 2, 2] = True
    corner[2, 2, 2] = True
    assert values(edge, reference, (1, 1, 1))["fpv"] == 0
    assert values(corner, reference, (1, 1, 1))["fpv"] == pytest.approx(0.001)


def test_two_voxels_four_apart_are_eight_mm_apart() -> None:
    one, other = np.zeros((2, 3, 9, 5), bool)
    one[1, 2, 3] = other[1, 6, 3] = True
    assert values(one, other, (3, 2, 5))["hd95"] == 8


def test_precision_and_recall_are_sklearns() -> None:
    from sklearn.metrics import precision_score, recall_score

    prediction, reference = blobs(seed=3), blobs(seed=4)
    ours = values(prediction, reference)
    assert ours["precision"] == pytest.approx(precision_score(reference.ravel(), prediction.ravel()))
    assert ours["recall"] == pytest.approx(recall_score(reference.ravel(), prediction.ravel()))


def test_empty_masks() -> None:
    none, some = np.zeros((5, 7, 9), bool), np.zeros((5, 7, 9), bool)
    some[2:4, 3, 4:6] = True
    diagonal, volume = float(np.linalg.norm(np.multiply(some.shape, SPACING))), 4 * np.prod(SPACING) / 1000
    nan = float("nan")
    expected = {
        # prediction, reference, other labels in the reference: dice hd95 nsd fpv fnv precision recall
        (0, 0, 1): (nan, nan, nan, 0, 0, nan, nan),
        (0, 1, 1): (0, diagonal, 0, 0, volume, 0, 0),
        (1, 0, 1): (0, diagonal, 0, volume, 0, 0, nan),
        (1, 0, 0): (nan, nan, nan, volume, 0, nan, nan),
        (0, 0, 0): (nan, nan, nan, 0, 0, nan, nan),
    }
    for (predicted, present, others), numbers in expected.items():
        got = values((none, some)[predicted], (none, some)[present], has_foreground=others or present)
        assert got == pytest.approx(dict(zip(NAMES, numbers, strict=True)), nan_ok=True), (predicted, present, others)


def test_aggregated_dice_is_hecktors_and_not_the_mean() -> None:
    rng = np.random.default_rng(5)
    patients = [(rng.random((4, 9, 11)) < share, rng.random((4, 9, 11)) < share) for share in (0.5, 0.1)]
    patients.append((np.zeros((4, 9, 11), bool), np.zeros((4, 9, 11), bool)))
    rows, common, volumes = [], 0.0, 0.0
    for prediction, reference in patients:
        rows.append(measure_masks(prediction, reference, SPACING))
        images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (reference, prediction)]
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*images)
        volume = (prediction.sum() + reference.sum()) * float(np.prod(SPACING))
        dice = overlap.GetDiceCoefficient(1) if volume else 0.0
        common, volumes = common + dice * volume / 2, volumes + volume
    index = pd.MultiIndex.from_product([["a", "b", "c"], ["1"]], names=["case", "label"])
    table = pd.DataFrame(rows, index=index)
    ours = aggregated(table, find_metric("dsc_agg"))["1"]
    assert ours == pytest.approx(2 * common / volumes)
    assert abs(ours - find_metric("dice").of(table).mean()) > 0.01


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="'hd59'; did you mean 'hd95'"):
        find_metric("hd59")
    assert find_metric("nsd@2.5mm").title == "NSD at 2.5 mm"


@pytest.mark.slow
def test_a_large_case_takes_less_than_ten_seconds() -> None:
    shape, spacing, rng = (326, 400, 400), (3.0, 2.04, 2.04), np.random.default_rng(1)
    masks = np.zeros((2, *shape), bool)
    for _ in range(40):
        corner, half = rng.integers(30, np.array(shape) - 30), rng.integers(3, 14, 3)
        for mask, shift in zip(masks, (0, 2), strict=True):
            mask[tuple(slice(c - h + shift, c + h + shift) for c, h in zip(corner, half, strict=True))] = True
    start = time.process_time()
    measure_masks(*masks, spacing, (2.0,))
    assert time.process_time() - start < 10


@pytest.mark.slow
def test_a_second_page_measures_nothing_and_processes_give_the_same(tmp_path, monkeypatch) -> None:
    from compare_tree import DATASET, Tree

    from nnunet_dino.compare import compare_results, write_report

    tree = Tree(tmp_path)
    tree.use(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tree.add("nnUNetTrainer", 1)
    tree.add("nnUNetTrainerDINOv3S", 3)
    names = ["dice", "hd95", "nsd@2mm", "fpv", "dsc_agg"]
    first = write_report(compare_results(DATASET), tmp_path / "one", pictures=False, metrics=names)
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache" / "nnunet_dino").rglob("*.json")}
    assert len(kept) == 2 * len(tree.cases)
    second = write_report(compare_results(DATASET), tmp_path / "two", pictures=False, metrics=names)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache" / "nnunet_dino").rglob("*.json")} == kept
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr("nnunet_dino.compare.measure.START_SECONDS", 0)
    third = write_report(compare_results(DATASET), tmp_path / "three", pictures=False, metrics=names)
    assert {file for file in (tmp_path / "cache" / "nnunet_dino").rglob("*.json")} == set(kept)
    table, *others = (table for page in (first, second, third) for table in page.tables if table.title == "Metrics")
    assert [other.rows for other in others] == [table.rows] * 2
    cells = {(row[0], row[1]): row for row in table.rows}
    assert cells["HD95, mm ↓", "nnUNetTrainerDINOv3S"][-1] == "0 / 8 / 0"  # a larger distance is worse
    assert cells["HD95, mm ↓", "nnUNetTrainerDINOv3S"][2].startswith("1.8")  # three pixels of 0.6 mm
    assert cells["Dice ↑", "nnUNetTrainerDINOv3S"][-1] == "0 / 8 / 0"
    assert "1 excluded as both are empty" in table.caption
    assert "HD95, mm" in (tmp_path / "one" / "metrics.csv").read_text()


def test_a_metric_that_is_unknown_is_refused_before_anything_is_read(tmp_path, capsys) -> None:
    from nnunet_dino.cli.main import main

    with pytest.raises(SystemExit, match="2"):
        main(["compare", "-d", "1", "-o", str(tmp_path / "report"), "--metric", "hd59"])
    assert "did you mean 'hd95'" in capsys.readouterr().err
