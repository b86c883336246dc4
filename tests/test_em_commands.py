"""Neurons through nnU-Net's own commands, and what is refused on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from stock import Workspace
from test_em_parts import cells

from nnunet_dino._errors import UserError
from nnunet_dino.cli.main import main
from nnunet_dino.em import LONG_RANGE, affinities_of, score_neurons
from nnunet_dino.em.convert import Conversion, convert
from nnunet_dino.em.published import SPLITS
from nnunet_dino.nnunet.affinity_planning import label_manager_name
from nnunet_dino.nnunet.neuron_labels import AffinityVolumeLabels, NeuronPreprocessor, check_ids

h5py = pytest.importorskip("h5py")
pytest.importorskip("mahotas")
pytest.importorskip("waterz")

SHAPE = (26, 40, 48)
DATASET = "Dataset803_Cells"
STOCK, TINY = "nnUNetTrainerAffinitiesSmoke", "nnUNetTrainerDINOv3Tiny_AffinitiesSmoke"


def write_cells(file: Path, ids: NDArray[np.int64] | None = None, **attributes: object) -> NDArray[np.int64]:
    """Writes a volume of cells with dark borders as CREMI does; ids are large and have gaps."""
    import torch

    ids = cells(11, SHAPE) * 1000 + 2**33 if ids is None else ids
    borders = affinities_of(torch.from_numpy(ids)).numpy().min(0)
    image = np.clip(255 * gaussian_filter(borders.astype(float), 0.7), 0, 255).astype(np.uint8)
    with h5py.File(file, "w") as content:
        content["volumes/raw"] = image
        content["volumes/labels/neuron_ids"] = ids.astype(np.uint64)
        for name, value in attributes.items():
            content["volumes/raw"].attrs[name] = value
    return ids


# -- nnU-Net's commands --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Cells, converted, planned, and trained on for moments with both twins."""
    workspace = Workspace(tmp_path_factory.mktemp("em"))
    write_cells(workspace.folder / "cells.h5", resolution=[10, 10, 10])
    workspace.run(
        "nnunet-dino", "em", "convert", workspace.folder / "cells.h5", "-d", 803, "--name", "Cells", "--test", "18:26"
    )
    options = ("-d", 803, "-pl", "nnUNetPlannerAffinities", "-c", "3d_fullres", "-np", 1, "-npfp", 1)
    workspace.run("nnUNetv2_plan_and_preprocess", *options)
    for trainer in (STOCK, TINY):
        workspace.train(DATASET, "3d_fullres", 0, trainer, "-p", "nnUNetAffinitiesPlans")
    return workspace


def model(workspace: Workspace, trainer: str) -> Path:
    return workspace.folder / "nnUNet_results" / DATASET / f"{trainer}__nnUNetAffinitiesPlans__3d_fullres"


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [STOCK, TINY])
def test_the_validation_scores_neurons(trained: Workspace, trainer: str) -> None:
    fold = model(trained, trainer) / "fold_0"
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    found = tifffile.imread(fold / "validation" / "cells_val.tif")
    truth = tifffile.imread(trained.raw(DATASET) / "labelsTr" / "cells_val.tif")
    assert summary["foreground_mean"] == pytest.approx(score_neurons(truth, found).as_dict())
    assert f"Mean Validation VOI: {summary['foreground_mean']['voi_sum']:.4f}" in next(fold.glob("training_log*")).read_text()


@pytest.mark.slow
def test_prediction_writes_neurons_and_affinities(trained: Workspace) -> None:
    output = trained.folder / "neurons"
    trained.predict(DATASET, "3d_fullres", TINY, output, "-p", "nnUNetAffinitiesPlans", "--save_probabilities")
    neurons = tifffile.imread(output / "cells_test.tif")
    affinities = np.load(output / "cells_test.npz")["probabilities"]
    assert neurons.shape == (8, 40, 48)
    assert neurons.min() == 1
    assert affinities.shape == (3, *neurons.shape)
    assert 0 <= affinities.min() < affinities.max() <= 1
    again = AffinityVolumeLabels({"background": 0, "neuron": 1}, None).convert_probabilities_to_segmentation(affinities)
    np.testing.assert_array_equal(again, neurons)
    text = trained.run("nnunet-dino", "em", "score", output, trained.raw(DATASET) / "labelsTs")
    assert "VOI split" in text
    assert json.loads((output / "summary.json").read_text())["metric_per_case"][0]["metrics"]["neurons"]["voi_sum"] >= 0


@pytest.mark.slow
def test_a_zip_installed_elsewhere_predicts_the_same_neurons(trained: Workspace, tmp_path: Path) -> None:
    which = ("-c", "3d_fullres", "-f", 0, "-tr", TINY, "-p", "nnUNetAffinitiesPlans")
    trained.run("nnUNetv2_export_model_to_zip", "-d", 803, "-o", tmp_path / "model.zip", *which)
    elsewhere = Workspace(tmp_path / "elsewhere")
    elsewhere.run("nnUNetv2_install_pretrained_model_from_zip", tmp_path / "model.zip")
    images = trained.raw(DATASET) / "imagesTs"
    outputs = tmp_path / "here", tmp_path / "there"
    for workspace, output in zip((trained, elsewhere), outputs, strict=True):
        options = ("-d", 803, "-i", images, "-o", output, *which, "-device", "cpu", "-npp", 0, "-nps", 0)
        workspace.run("nnUNetv2_predict", *options)
    here, there = (tifffile.imread(output / "cells_test.tif") for output in outputs)
    np.testing.assert_array_equal(here, there)
    assert here.shape == (8, 40, 48)


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["LoRA", "TokensOnly"])
def test_further_networks_train_and_validate(trained: Workspace, adaptation: str) -> None:
    trainer = f"nnUNetTrainerDINOv3Tiny_{adaptation}_AffinitiesSmoke"
    trained.train(DATASET, "3d_fullres", 0, trainer, "-p", "nnUNetAffinitiesPlans")
    summary = json.loads((model(trained, trainer) / "fold_0" / "validation" / "summary.json").read_text())
    assert summary["foreground_mean"]["voi_sum"] >= 0


@pytest.mark.slow
def test_affinities_over_several_voxels_are_a_further_task(trained: Workspace) -> None:
    trainer, plans = "nnUNetTrainerDINOv3Tiny_FT_AffinitiesSmoke", "nnUNetAffinitiesLongRangePlans"
    options = ("-d", 803, "-pl", "nnUNetPlannerAffinitiesLongRange", "-c", "3d_fullres", "-np", 1)
    trained.run("nnUNetv2_plan_experiment", *options[:4])
    trained.run("nnUNetv2_preprocess", "-d", 803, "-plans_name", plans, *options[4:])
    trained.train(DATASET, "3d_fullres", 0, trainer, "-p", plans)
    summary = trained.folder / "nnUNet_results" / DATASET / f"{trainer}__{plans}__3d_fullres/fold_0/validation/summary.json"
    first = json.loads(summary.read_text())
    summary.unlink()
    trained.train(DATASET, "3d_fullres", 0, trainer, "-p", plans, "--val")
    assert json.loads(summary.read_text()) == first
    output = trained.folder / "long_range"
    trained.predict(DATASET, "3d_fullres", trainer, output, "-p", plans, "--save_probabilities")
    affinities = np.load(output / "cells_test.npz")["probabilities"]
    assert affinities.shape == (len(LONG_RANGE), 8, 40, 48)
    again = AffinityVolumeLabels({"background": 0, "neuron": 1}, None).convert_probabilities_to_segmentation(affinities)
    np.testing.assert_array_equal(again, tifffile.imread(output / "cells_test.tif"))


@pytest.mark.slow
def test_results_of_a_data_set_are_compared_by_its_number(trained: Workspace) -> None:
    report = trained.folder / "report"
    text = trained.run("nnunet-dino", "compare", "-d", 803, "-o", report)
    assert "VOI sum" in text + (report / "report.md").read_text()
    assert "Dice" not in (report / "report.md").read_text()


@pytest.mark.slow
def test_who_asks_for_dice_is_told_in_one_line(trained: Workspace) -> None:
    options = ("-p", "nnUNetAffinitiesPlans", "-tr", TINY, "-c", "3d_fullres", "-f", 0, "--disable_ensembling")
    text = trained.run("nnUNetv2_find_best_configuration", 803, *options, expected=2)
    assert "nnunet-dino: error: Dice: required labels that mean the same in every image · got the ids of neurons" in text
    assert "Traceback" not in text


# -- conversion ----------------------------------------------------------------------------------------------------------------


def test_conversion_keeps_the_partition_the_voxels_and_the_spacing(nnunet_folders: Path) -> None:
    ids = write_cells(nnunet_folders / "a.h5", resolution=[40, 4, 4])
    target = convert(Conversion([nnunet_folders / "a.h5"], [], 7, "A", train=(2, 18), test=(18, 26), validation=4))
    assert target.name == "Dataset007_A"
    for part, name, first, after in (("Tr", "a_train", 2, 14), ("Tr", "a_val", 14, 18), ("Ts", "a_test", 18, 26)):
        written = tifffile.imread(target / f"labels{part}" / f"{name}.tif")
        assert written.dtype == np.uint16
        assert set(np.unique(written)) == set(range(1, len(np.unique(ids[first:after])) + 1))
        assert score_neurons(ids[first:after], written).voi_sum == 0
        assert json.loads((target / f"images{part}" / f"{name}.json").read_text()) == {"spacing": [40, 4, 4]}
    with h5py.File(nnunet_folders / "a.h5") as file:
        np.testing.assert_array_equal(tifffile.imread(target / "imagesTs" / "a_test_0000.tif"), file["volumes/raw"][18:26])
    assert json.loads((target / "splits_final.json").read_text()) == [{"train": ["a_train"], "val": ["a_val"]}]


def test_cremis_markers_of_nothing_are_no_neurons(nnunet_folders: Path) -> None:
    ids = cells(11, SHAPE).astype(np.uint64)
    write_cells(nnunet_folders / "a.h5", cells(11, SHAPE))
    with h5py.File(nnunet_folders / "a.h5", "a") as file:
        ids[:, :3], ids[:, 3:6] = 2**64 - 1, 2**64 - 3
        file["volumes/labels/neuron_ids"][:] = ids
    target = convert(Conversion([nnunet_folders / "a.h5"], [], 7, "A", spacing_nm=(40, 4, 4)))
    assert (tifffile.imread(target / "labelsTr" / "a_train.tif")[:, :6] == 0).all()


def test_sections_in_a_folder_are_stacked_in_the_order_of_their_numbers(nnunet_folders: Path) -> None:
    for kind in ("image", "label"):
        (nnunet_folders / kind).mkdir()
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (12, 20, 24)).astype(np.uint8)
    for number, image in enumerate(images):
        membranes = np.full(image.shape, 255, np.uint8)
        membranes[:, 7 + number % 3] = 0
        tifffile.imwrite(nnunet_folders / "image" / f"{number}.tif", image)
        tifffile.imwrite(nnunet_folders / "label" / f"{number}.tif", membranes)
    folders = [nnunet_folders / "image"], [nnunet_folders / "label"]
    target = convert(Conversion(*folders, 7, "Isbi", spacing_nm=(50, 4, 4), validation=2, has_components=True))
    np.testing.assert_array_equal(tifffile.imread(target / "imagesTr" / "image_train_0000.tif"), images[:10])
    labels = tifffile.imread(target / "labelsTr" / "image_train.tif")
    assert labels.max() == 20
    assert len(np.unique(labels[3][labels[3] > 0])) == 2


def test_one_volume_to_train_on_and_another_to_test_on(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AC4 and AC3: each has a published split of its own."""
    for name in ("ac4", "ac3"):
        monkeypatch.setitem(SPLITS, name, replace(SPLITS[name], shape=SHAPE))
        monkeypatch.setitem(SPLITS, name, replace(SPLITS[name], **{"train" if name == "ac4" else "test": (0, 20)}))
        write_cells(nnunet_folders / f"{name}.h5")
    command = ["em", "convert", *(str(nnunet_folders / f"{name}.h5") for name in ("ac4", "ac3")), "-d", "7", "--name", "A"]
    with pytest.raises(UserError, match=r"--split: required one, or one for every volume · got 3 for 2"):
        main.main([*command, *["--split", "ac4"] * 3], standalone_mode=False)
    main.main([*command, "--split", "ac4", "--split", "ac3"], standalone_mode=False)
    target = nnunet_folders / "nnUNet_raw" / "Dataset007_A"
    assert sorted(file.name for file in target.glob("labels*/*.tif")) == ["ac3_test.tif", "ac4_train.tif", "ac4_val.tif"]
    assert tifffile.imread(target / "imagesTr" / "ac4_train_0000.tif").shape == (16, 40, 48)


@pytest.mark.parametrize("name", SPLITS)
def test_published_splits_are_of_the_volume(name: str) -> None:
    split = SPLITS[name]
    parts = [part for part in (split.train, split.test) if part]
    assert parts
    assert all(0 <= first < after <= split.shape[0] for first, after in parts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "cremi"], r"required the 125 × 1250 × 1250 voxels .* got 26 × 40 × 48"),
        (["--split", "creme"], r"got 'creme'; did you mean 'cremi'"),
        (["--split", "cremi", "--test", "1:2"], r"without --train and --test"),
        (["--test", "20:30"], r"--test: required sections from 0 to 26 .* got 20:30"),
        (["--test", "a"], r"required FIRST:AFTER, such as 0:100 · got 'a'"),
        (["--train", "0:9", "--test", "8:12"], r"different sections · got 0:9 and 8:12"),
        (["--validation", "26"], r"fewer than the 26 training sections · got 26"),
        (["--image-key", "grey"], r"required data set grey · got volumes/labels/neuron_ids, volumes/raw"),
        (["--labels", "none.h5"], r"none.h5: required a volume · it does not exist"),
        (["--spacing", "0", "1", "1"], r"--spacing: required three numbers of nm above 0 · got"),
        ([], r"required the voxel size · got none in the file"),
    ],
)
def test_conversion_refuses_in_one_line_and_writes_nothing(nnunet_folders: Path, arguments: list[str], message: str) -> None:
    write_cells(nnunet_folders / "a.h5")
    spacing = [] if not arguments or "--spacing" in arguments else ["--spacing", "40", "4", "4"]
    command = ["em", "convert", str(nnunet_folders / "a.h5"), "-d", "7", "--name", "A", *arguments, *spacing]
    with pytest.raises(UserError, match=message):
        main.main(command, standalone_mode=False)
    assert not list((nnunet_folders / "nnUNet_raw").iterdir())


def test_labels_without_instances_and_2d_images_are_refused(nnunet_folders: Path) -> None:
    write_cells(nnunet_folders / "a.h5", np.ones(SHAPE, np.int64))
    with pytest.raises(UserError, match=r"got labels without instances"):
        convert(Conversion([nnunet_folders / "a.h5"], [], 7, "A", spacing_nm=(4, 4, 4)))
    tifffile.imwrite(nnunet_folders / "flat.tif", np.ones((20, 24), np.uint8))
    with pytest.raises(UserError, match=r"3 axes\) · got shape \(20, 24\)"):
        convert(Conversion([nnunet_folders / "flat.tif"], [nnunet_folders / "flat.tif"], 7, "A", spacing_nm=(4, 4, 4)))


def test_ids_above_what_nnunet_stores_are_refused() -> None:
    check_ids(np.array([0, 2, 32767]))
    with pytest.raises(UserError, match=r"from 0 to 32767.* got 1 to 40000"):
        check_ids(np.array([1, 40000]))
    with pytest.raises(UserError, match=r"got no id but 1, labels without instances"):
        NeuronPreprocessor().run_case_npy(None, np.array([0, 1]), None, None, None, None)


def test_more_neurons_than_16_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_dino.nnunet import neuron_labels

    monkeypatch.setattr(neuron_labels, "neurons_of", lambda *arguments: np.array([[[70000]]]))
    with pytest.raises(UserError, match=r"at most 65535 in one image.* got 70000"):
        AffinityVolumeLabels({"background": 0, "neuron": 1}, None).convert_probabilities_to_segmentation(np.zeros((3, 1, 1, 1)))


@pytest.mark.parametrize("text", ["high", "1.5", "nan"])
def test_a_threshold_of_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    from nnunet_dino.nnunet.neuron_labels import threshold_of_environment

    monkeypatch.setenv("nnUNet_dino_em_threshold", text)
    with pytest.raises(UserError, match=text):
        threshold_of_environment()


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [([10, 10, 10], "AffinityVolumeLabels"), ([40, 4, 4], "AffinityLabels"), ([50, 4, 4], "AffinityLabels")],
)
def test_thick_sections_are_cut_one_by_one(spacing: list[float], expected: str) -> None:
    assert label_manager_name(spacing, has_long_range=False) == expected
    with pytest.raises(UserError, match=r"got a spacing of \[4.0, 40.0, 4.0\]"):
        label_manager_name([4, 40, 4], has_long_range=False)
