"""Results of affinity models compared: lower is better, volumes or blocks are the cases, pictures colour neurons alike."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from nnunet_dino._errors import UserError
from nnunet_dino.cli.main import main
from nnunet_dino.compare import compare_folders
from nnunet_dino.compare.neuron_pictures import _likest
from nnunet_dino.em import score_neurons
from nnunet_dino.em.score_folder import score_folder

SHAPE = (6, 24, 30)
FOLDERS = ("good", "bad")


def neurons(seed: int) -> NDArray[np.uint16]:
    """Columns of neurons through all sections, some voxels of no neuron."""
    random = np.random.default_rng(seed)
    points = random.uniform(0, SHAPE[1:], (9, 2))
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE[1:]), indexing="ij"), axis=-1)
    section = np.linalg.norm(grid[..., None, :] - points, axis=-1).argmin(-1) + 1
    section[:2] = 0
    return np.broadcast_to(section, SHAPE).astype(np.uint16)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Truth, images, and two folders of predictions: one that cuts a neuron, one that joins four into one as well."""
    for name in ("truth", "images", *FOLDERS):
        (tmp_path / name).mkdir()
    for number in range(2):
        truth = neurons(number)
        good = np.where(truth == 3, 300 + (np.arange(SHAPE[0]) > 2)[:, None, None], truth + 1).astype(np.uint16)
        bad = np.where(np.isin(truth, (4, 5, 6, 7)), 77, good).astype(np.uint16)
        grey = np.random.default_rng(number).integers(0, 255, SHAPE).astype(np.uint8)
        for folder, volume in (("truth", truth), ("good", good), ("bad", bad)):
            tifffile.imwrite(tmp_path / folder / f"em_{number}.tif", volume)
        tifffile.imwrite(tmp_path / "images" / f"em_{number}_0000.tif", grey)
    description = {"channel_names": {"0": "EM"}, "labels": {"background": 0, "neuron": 1}, "file_ending": ".tif"}
    (tmp_path / "truth" / "dataset.json").write_text(json.dumps(description))
    for name in FOLDERS:
        score_folder(tmp_path / name, tmp_path / "truth")
    return tmp_path


def options(folders: Path) -> list[str]:
    labels = ["--labels-folder", str(folders / "truth"), "--images-folder", str(folders / "images")]
    return ["compare", *(f"--folder={folders / name}" for name in FOLDERS), *labels, "-o", str(folders / "report")]


def test_lower_scores_are_better(folders: Path) -> None:
    comparison = compare_folders([folders / name for name in FOLDERS], labels_folder=folders / "truth")
    (pair,) = comparison.pairs
    for entry in comparison.entries:
        for case in entry.cases:
            truth, found = (tifffile.imread(folders / part / f"{case}.tif") for part in ("truth", entry.name))
            assert entry.dice.loc[case].to_dict() == pytest.approx(score_neurons(truth, found).as_dict())
            assert entry.case_means[case] == entry.dice.loc[case, "voi_sum"]
    assert pair.mean.mean > 0
    assert (pair.mean.num_better, pair.mean.num_worse) == (0, 2)
    assert pair.case_differences.iloc[0] == pair.case_differences.max()
    stored = compare_folders([folders / name for name in FOLDERS])
    pd.testing.assert_frame_equal(stored.entries[0].dice, comparison.entries[0].dice)


def test_a_folder_that_an_affinity_model_predicted_needs_no_summary(folders: Path) -> None:
    for name in FOLDERS:
        (folders / name / "summary.json").unlink()
        (folders / name / "plans.json").write_text(json.dumps({"label_manager": "AffinityVolumeLabels"}))
    comparison = compare_folders([folders / name for name in FOLDERS], labels_folder=folders / "truth")
    assert list(comparison.label_names.values())[:3] == ["VOI split", "VOI merge", "VOI sum"]


@pytest.mark.slow
def test_blocks_are_cases_and_enough_for_a_test(folders: Path) -> None:
    main.main([*options(folders), "--block", "3", "12", "15"], standalone_mode=False)
    table = pd.read_csv(folders / "report" / "cases.csv")
    assert table["case"].nunique() == 16
    row = table[(table.result == "bad") & (table.case == "em_1 [3:6, 0:12, 15:30]") & (table.label == "voi_merge")]
    truth, found = (tifffile.imread(folders / part / "em_1.tif")[3:6, 0:12, 15:30] for part in ("truth", "bad"))
    assert row["score"].item() == pytest.approx(score_neurons(truth, found).voi_merge)
    page = (folders / "report" / "report.md").read_text()
    assert re.search(r"bad: VOI sum \+0\.\d+ \[.*\] against good, n = 16 cases, p .*: worse\.", page)
    assert "in blocks of 3 × 12 × 15 voxels" in page


@pytest.mark.slow
def test_the_page_speaks_of_voi_and_shows_sections(folders: Path) -> None:
    main.main(options(folders), standalone_mode=False)
    page = (folders / "report" / "report.md").read_text()
    assert "Dice" not in page
    assert "2 cases" in page
    pictures = sorted((folders / "report" / "pictures").glob("*.png"))
    assert [file.name for file in pictures] == ["01-best-em-0.png", "01-worst-em-1.png"]
    assert len(set(map(tuple, np.asarray(Image.open(pictures[0]).convert("RGB")).reshape(-1, 3)))) > 30


def test_a_segment_takes_the_colour_of_the_neuron_it_is_most_like() -> None:
    truth = np.array([[[1, 1, 1, 2, 2, 0, 0]]])
    found = np.array([[[7, 7, 9, 9, 9, 9, 5]]])
    assert _likest(truth, found).tolist() == [[[1, 1, 2, 2, 2, 2, 0]]]


def test_neurons_and_labels_are_told_apart(folders: Path) -> None:
    with pytest.raises(UserError, match=r"--metric: required results of labels · got neurons, with hd95"):
        main.main([*options(folders), "--metric", "hd95"], standalone_mode=False)
    with pytest.raises(UserError, match=r"--block: required three numbers of voxels from 1 · got 0 2 2"):
        compare_folders([folders / name for name in FOLDERS], labels_folder=folders / "truth", block=(0, 2, 2))
    dice = {"metric_per_case": [{"prediction_file": "em_0.tif", "metrics": {"1": {"Dice": 0.5}}}]}
    (folders / "bad" / "summary.json").write_text(json.dumps(dice))
    (folders / "bad" / "em_1.tif").unlink()
    with pytest.raises(UserError, match=r"same labels · got voi_split.* in good and 1 in bad"):
        compare_folders([folders / name for name in FOLDERS])
    with pytest.raises(UserError, match=r"--block: required results of neurons · got Dice of labels in bad"):
        compare_folders([folders / "bad"], block=(3, 4, 5))
