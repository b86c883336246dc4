"""Pictures of single cases: orientation, the choice of slice and case, the part shown."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from compare_tree import Tree, moving, reference, save, shifted
from matplotlib.image import imread

from nnunet_dino.compare import compare_folders, compare_results
from nnunet_dino.compare.kinds import DICE
from nnunet_dino.compare.overlays import _crop, case_picture, changed_cases
from nnunet_dino.compare.plots import forest_plot, paired_plot
from nnunet_dino.compare.records import PairedComparison
from nnunet_dino.compare.slice_choice import choose_slice
from nnunet_dino.features.volume import EDGES, Volume, as_shown, read_to_compare
from nnunet_dino.reports.plot import DARK, LIGHT


def test_flat_and_coloured_images(tmp_path):
    values = np.random.default_rng(0).integers(0, 99, size=(6, 8, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), str(tmp_path / "a.png"))
    volume = read_to_compare(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(volume.values, values[None, ..., 0])
    assert not volume.is_oriented
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4, 5)), isVector=False), str(tmp_path / "b.nii.gz"))
    with pytest.raises(ValueError, match=r"has 4: .*b\.nii\.gz"):
        read_to_compare(str(tmp_path / "b.nii.gz"))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_edges_are_where_the_letters_say(plane):
    """The side of the body that a letter names is marked, and has to be at the edge that bears the letter."""
    sides = {"R": np.s_[:, :, 0], "A": np.s_[:, 0], "S": np.s_[3]}
    left, top = EDGES[plane]
    for letter, edge in ((left, np.s_[:, :, 0]), (top, np.s_[:, 0])):
        values = np.zeros((4, 5, 6))
        values[sides[letter]] = 1
        shown = as_shown(values, plane)
        assert shown[edge].all() and shown.sum() == shown[edge].sum()


def test_the_slice_with_most_disagreement_is_shown():
    labels = np.zeros((5, 6, 7), int)
    labels[1, 1:5, 1:6] = 1
    first, second = labels.copy(), labels.copy()
    second[3, 2, 2:5] = 2
    choice = choose_slice(Volume(labels, (4.0, 0.5, 0.5), True), first, second)
    assert (choice.plane, choice.index) == ("axial", 3)
    assert "3 pixels, 1 mm²" in choice.reason
    same = choose_slice(Volume(labels, (4.0, 0.5, 0.5), True), first, first)
    assert (same.index, same.reason.split(",")[0]) == (1, "largest labelled area")


def test_thick_slices_are_shown_in_their_own_plane():
    labels = np.zeros((5, 6, 7), int)
    labels[2, 3, 4] = 1
    for axis in range(3):
        spacing = [0.9, 0.9, 0.9]
        spacing[axis] = 3.0
        choice = choose_slice(Volume(labels, tuple(spacing), True), labels, np.zeros_like(labels))
        assert (choice.plane, choice.index) == (("axial", "coronal", "sagittal")[axis], (2, 3, 4)[axis])
    assert choose_slice(Volume(labels, (0.9, 1.0, 1.2), True), labels, labels).plane == "axial"


def test_the_part_shown_holds_everything_labelled():
    mask = np.zeros((200, 300), int)
    mask[20:60, 250:299] = 1
    rows, columns = _crop([mask, np.zeros_like(mask)], 1.0, 1.0)
    assert mask[rows, columns].sum() == mask.sum()
    assert 40 < rows.stop - rows.start < 80 and columns.stop == 300
    assert _crop([np.zeros((20, 30))], 1.0, 1.0) == (slice(None), slice(None))


class Scores:
    """Stands for a result of which only the means of cases are asked."""

    kind = DICE

    def __init__(self, values: list[float]) -> None:
        self.case_means = pd.Series(values, index=[f"c{i}" for i in range(len(values))])


@pytest.mark.parametrize(
    ("differences", "chosen"),
    [
        ([0.1, -0.2, 0.0, 0.3, 0.05], [("worst", "c1"), ("median", "c4"), ("best", "c3")]),
        ([0.1, -0.2], [("worst", "c1"), ("best", "c0")]),
        ([0.1], [("worst", "c0")]),
        ([float("nan")], []),
    ],
)
def test_worst_median_and_best_change(differences, chosen):
    pair = PairedComparison(Scores([0.5 + d for d in differences]), Scores([0.5] * len(differences)), None, {}, 0)
    assert changed_cases(pair) == chosen


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    tree = Tree(tmp_path)
    tree.use(monkeypatch)
    tree.add("nnUNetTrainer", moving(tree.cases, [2, 2, 3, 2, 4, 2, 3, 3]))
    tree.add("nnUNetTrainerDINOv3S", moving(tree.cases, [1, 3, 1, 2, 1, 1, 1, 1]))
    return compare_results(905)


def test_a_picture_shows_image_and_outlines(comparison):
    (pair,) = comparison.pairs
    picture = case_picture(comparison, pair, "best", "case_04")
    change = pair.case_differences["case_04"]
    assert f"Best change: case_04, mean Dice {pair.baseline.case_means['case_04']:.3f} → " in picture.heading
    assert f"(+{change:.3f})" in picture.heading
    assert "Axial slice 3 of 6: largest disagreement" in picture.caption
    assert "Pixels 0.8 × 0.6 mm, slices 3 mm apart" in picture.caption
    pixels = imread(io.BytesIO(picture.png), format="png")[..., :3]
    for colour in ("56b4e9", "e69f00"):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        assert (np.abs(pixels - rgb).max(axis=-1) < 0.02).sum() > 100, "outline of a label"


def test_files_that_do_not_fit_leave_a_reason(comparison):
    (pair,) = comparison.pairs
    save(reference(4)[1:], pair.entry.prediction("case_04"))
    picture = case_picture(comparison, pair, "best", "case_04")
    assert picture.png is None
    assert "case_04.nii.gz has shape (5, 22, 27), the image (6, 22, 27)" in picture.caption
    pair.entry.prediction("case_05").write_bytes(b"no image")
    assert case_picture(comparison, pair, "best", "case_05").caption.startswith("No picture: ")
    pair.entry.prediction("case_06").unlink()
    assert "prediction of nnUNetTrainerDINOv3S missing" in case_picture(comparison, pair, "best", "case_06").caption


def test_folders_show_pictures_when_images_are_given(comparison, tmp_path):
    tree_raw = tmp_path / "raw" / "Dataset905_Phantom"
    for name, shift in (("near", 1), ("far", 4)):
        for number in range(3):
            save(shifted(reference(number), shift), tmp_path / name / f"case_{number:02d}.nii.gz")
    options = {
        "labels_folder": tmp_path / "preprocessed" / "Dataset905_Phantom" / "gt_segmentations",
        "dataset_json": tree_raw / "dataset.json",
    }
    folders = compare_folders([tmp_path / "far", tmp_path / "near"], images_folder=tree_raw / "imagesTr", **options)
    assert case_picture(folders, folders.pairs[0], "best", "case_02").png is not None
    without = compare_folders([tmp_path / "far", tmp_path / "near"], **options)
    assert "--images-folder was not given" in case_picture(without, without.pairs[0], "best", "case_02").caption


@pytest.mark.slow
def test_plots_are_drawn_for_light_and_dark_and_repeat_exactly(comparison):
    (pair,) = comparison.pairs
    plot = paired_plot(pair, "one")
    assert plot == paired_plot(pair, "one")
    assert LIGHT.ink in plot.light.decode() and LIGHT.ink not in plot.dark.decode()
    assert DARK.better in plot.dark.decode()
    assert b"<svg" in forest_plot(comparison).light
