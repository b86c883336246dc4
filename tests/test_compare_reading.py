"""Reading results, folders and what training cost, from files that nnU-Net's own code wrote."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from compare_tree import DATASET, LABELS, SPACING_MM, Tree, evaluate, moving, reference, save, shifted

from nnunet_dino._errors import UserError
from nnunet_dino._grids import Grid, difference
from nnunet_dino._nnunet_folders import FACTS_FILE, dataset_name
from nnunet_dino.compare import compare_folders, compare_results
from nnunet_dino.compare.metrics import measure_files, measure_masks
from nnunet_dino.compare.read_results import read_results
from nnunet_dino.compare.summary_json import case_of, label_key, label_values, read_summary
from nnunet_dino.features.volume import read_to_compare


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Tree:
    made = Tree(tmp_path)
    made.use(monkeypatch)
    return made


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_dice_per_case_and_label_is_that_of_the_files(tree):
    tree.add("nnUNetTrainer", shift=2)
    entry = read_results(tree.folder)[0]
    assert list(entry.dice.index) == tree.cases
    for number, case in enumerate(tree.cases):
        truth = reference(number)
        for key in ("1", "2") if number != 3 else ("1",):
            mask = truth == int(key)
            assert entry.dice.loc[case, key] == pytest.approx(dice(mask, shifted(mask, 2)))
    assert math.isnan(entry.dice.loc["case_03", "2"])
    assert entry.folds == ("0", "1")
    assert entry.fold_of == {case: str(number % 2) for number, case in enumerate(tree.cases)}
    assert entry.label_names == {"1": "liver", "2": "spleen"}


def test_foreground_mean_is_the_one_nnunet_writes(tree, tmp_path):
    tree.add("nnUNetTrainer", shift=moving(tree.cases, [0, 1, 2, 3, 1, 0, 2, 4]), folds=("all",))
    merged = json.loads((tree.folder / "nnUNetTrainer__nnUNetPlans__3d_fullres/fold_all/validation/summary.json").read_text())
    entry = read_results(tree.folder)[0]
    assert entry.foreground_mean == pytest.approx(merged["foreground_mean"]["Dice"])
    assert entry.foreground_mean != pytest.approx(entry.case_means.mean(), abs=1e-6)


def test_regions_keep_their_names(tree):
    model = tree.add("nnUNetTrainer", folds=(0,))
    description = tree.description | {
        "labels": {"background": 0, "both": [1, 2], "spleen": [2]},
        "regions_class_order": [1, 2],
    }
    tree.write_json(model / "dataset.json", description)
    validation = model / "fold_0" / "validation"
    evaluate(tree.references, validation, validation / "summary.json", labels=[(1, 2), (2,)])
    entry = read_results(tree.folder)[0]
    assert entry.label_names == {"1+2": "both", "2": "spleen"}
    truth = reference(0) > 0
    assert entry.dice.loc["case_00", "1+2"] == pytest.approx(dice(truth, shifted(truth, 1)))


@pytest.mark.parametrize(
    ("written", "key"), [(3, "3"), ("3", "3"), ("(3,)", "3"), ((2, 1), "1+2"), ("(1, 2, 10)", "1+2+10"), ([4], "4")]
)
def test_label_keys(written, key):
    assert label_key(written) == key
    assert label_key(tuple(label_values(key))) == key


@pytest.mark.parametrize(
    ("path", "ending", "case"),
    [
        ("/a/b/case.1.nii.gz", ".nii.gz", "case.1"),
        ("C:\\a\\case_2.nrrd", ".nrrd", "case_2"),
        ("/a/case_3.nii.gz", None, "case_3"),
        ("/a/case_4.png", None, "case_4"),
    ],
)
def test_case_names(path, ending, case):
    assert case_of(path, ending) == case


ONE = '{"prediction_file": "a.nii.gz", "metrics": {"1": {"Dice": 1}}}'
SUMMARIES = {
    "not JSON": ("{", "got Expecting"),
    "nested too deeply": ("[" * 100_000, "got maximum recursion depth"),
    "a list": ("[1]", r"a JSON dict · got \[1\]"),
    "nothing in it": ("{}", "KeyError: 'metric_per_case'"),
    "cases are no list": ('{"metric_per_case": null}', "TypeError"),
    "no case": ('{"metric_per_case": []}', "holds no case"),
    "no file": ('{"metric_per_case": [{"metrics": {"1": {"Dice": 0.5}}}]}', "reference_file"),
    "file is a number": ('{"metric_per_case": [{"prediction_file": 5, "metrics": {"1": {"Dice": 1}}}]}', "TypeError"),
    "Dice is text": ('{"metric_per_case": [{"prediction_file": "a.nii.gz", "metrics": {"1": {"Dice": "x"}}}]}', "ValueError"),
    "Dice above one": (
        '{"metric_per_case": [{"prediction_file": "a.nii.gz", "metrics": {"1": {"Dice": 1.5}}}]}',
        "Dice of 1.5",
    ),
    "label is a name": ('{"metric_per_case": [{"prediction_file": "a.nii.gz", "metrics": {"b": {"Dice": 1}}}]}', "got 'b'"),
    "no label": ('{"metric_per_case": [{"prediction_file": "a.nii.gz", "metrics": {}}]}', "no label"),
    "a case twice": (f'{{"metric_per_case": [{ONE}, {ONE}]}}', "case a more than once"),
    "labels differ": (
        f'{{"metric_per_case": [{ONE}, {{"prediction_file": "b.nii.gz", "metrics": {{"2": {{"Dice": 1}}}}}}]}}',
        "other labels for case b than for case a",
    ),
}


@pytest.mark.parametrize(("content", "what"), SUMMARIES.values(), ids=SUMMARIES.keys())
def test_broken_summaries_are_named(tmp_path, content, what):
    file = tmp_path / "summary.json"
    file.write_text(content)
    with pytest.raises(UserError, match=f"summary.json: required .*{what}.* · make it again"):
        read_summary(file)


def test_filters_name_what_there_is(tree):
    tree.add("nnUNetTrainer")
    tree.add("nnUNetTrainerDINOv3S", configuration="2d")
    assert [entry.trainer for entry in read_results(tree.folder, configurations=["2d"])] == ["nnUNetTrainerDINOv3S"]
    with pytest.raises(UserError, match="'nnUNetTrainerDINO3S'; did you mean 'nnUNetTrainerDINOv3S'"):
        read_results(tree.folder, trainers=["nnUNetTrainerDINO3S"])
    with pytest.raises(UserError, match="--plans: required a name that has results · got 'other'"):
        read_results(tree.folder, plans=["other"])
    with pytest.raises(UserError, match="--folds: required one that was trained · got 4 · there are 0, 1"):
        read_results(tree.folder, folds=["4"])
    with pytest.raises(UserError, match="got 'first'"):
        read_results(tree.folder, folds=["first"])


def test_fold_all_is_read_when_asked_for_or_alone_and_says_what_it_is(tree):
    tree.add("nnUNetTrainer", folds=(0, "all"))
    entry = read_results(tree.folder)[0]
    assert (entry.folds, len(entry.cases)) == (("0",), 4)
    alone = read_results(tree.folder, folds=["all"])[0]
    assert (alone.folds, len(alone.cases)) == (("all",), 8)
    assert any("training cases" in note for note in alone.notes)


def test_a_case_in_two_folds_is_refused(tree):
    model = tree.add("nnUNetTrainer")
    shutil.copytree(model / "fold_1", model / "fold_5")
    with pytest.raises(UserError, match="case case_01 in fold 1 and fold 5"):
        read_results(tree.folder)


def test_unfinished_folds_are_named_with_the_command_that_finishes_them(tree):
    model = tree.add("nnUNetTrainer", folds=(0,))
    (model / "fold_1").mkdir()
    (model / "fold_1" / "checkpoint_final.pth").write_bytes(b"")
    (model / "fold_2").mkdir()
    (model / "fold_2" / "checkpoint_latest.pth").write_bytes(b"")
    notes = " ".join(read_results(tree.folder)[0].notes)
    assert f"nnUNetv2_train {DATASET} 3d_fullres 1 -tr nnUNetTrainer -p nnUNetPlans --val" in notes
    assert "fold 2 is not trained to the end" in notes
    shutil.rmtree(model / "fold_0")
    with pytest.raises(UserError, match=r"fold 1 is trained but not validated.*\(and 1 more\)"):
        read_results(tree.folder)


def test_a_merged_cross_validation_stands_in_for_missing_folds(tree):
    model = tree.add("nnUNetTrainer", shift=2)
    merged = model / "crossval_results_folds_0_1"
    for fold in (0, 1):
        for file in (model / f"fold_{fold}" / "validation").glob("*.nii.gz"):
            merged.mkdir(exist_ok=True)
            shutil.copy(file, merged)
    evaluate(tree.references, merged, merged / "summary.json")
    expected = read_results(tree.folder)[0].dice
    shutil.rmtree(model / "fold_1")
    entry = read_results(tree.folder)[0]
    assert entry.folds == ("0", "1")
    np.testing.assert_allclose(entry.dice, expected)
    assert entry.prediction("case_01") == merged / "case_01.nii.gz"


def test_a_merged_cross_validation_that_disagrees_is_reported(tree):
    model = tree.add("nnUNetTrainer", shift=2)
    other = tree.add("nnUNetTrainerOther", shift=1, folds=("all",))
    shutil.copytree(other / "fold_all" / "validation", model / "crossval_results_folds_0_1")
    entry = next(entry for entry in read_results(tree.folder) if entry.trainer == "nnUNetTrainer")
    assert any("crossval_results_folds_0_1/summary.json does not agree" in note for note in entry.notes)
    assert entry.dice.loc["case_00", "1"] == pytest.approx(dice(reference(0) == 1, shifted(reference(0) == 1, 2)))


def test_unset_folders_and_unknown_data_sets(tree, monkeypatch):
    with pytest.raises(UserError, match=f"got '906', it has {DATASET}; did you mean '{DATASET}'"):
        dataset_name("906")
    with pytest.raises(UserError, match="got 'Dataset905_Fantom', it has .*; did you mean"):
        dataset_name("Dataset905_Fantom")
    assert dataset_name(905) == dataset_name("0905") == dataset_name(DATASET) == DATASET
    with pytest.raises(
        UserError, match=r"got no TRAINER__PLANS__CONFIGURATION.*nnUNetv2_train 905 3d_fullres 0 -tr nnUNetTrainerDINOv3S"
    ):
        compare_results(905)
    (tree.raw / "Dataset905_Other").mkdir()
    with pytest.raises(UserError, match="got Dataset905_Other, Dataset905_Phantom"):
        dataset_name(905)
    monkeypatch.setenv("nnUNet_results", "/nowhere/at/all")
    with pytest.raises(UserError, match="nnUNet_results: required an existing folder · got '/nowhere/at/all'"):
        compare_results(905)
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(UserError, match="nnUNet_results is not set: required a folder"):
        compare_results(905)


def test_folders_get_the_dice_that_nnunet_computes(tree, tmp_path):
    tree.write_json(tree.references.parent / "dataset.json", tree.description)
    folders = {"near": tmp_path / "a" / "out", "far": tmp_path / "b" / "out"}
    for shift, folder in zip((1, 3), folders.values(), strict=True):
        for number, case in enumerate(tree.cases[:6]):
            save(shifted(reference(number), shift), folder / f"{case}.nii.gz")
    comparison = compare_folders([f"{name}={path}" for name, path in folders.items()], labels_folder=tree.references)
    for entry in comparison.entries:
        summary = tmp_path / f"{entry.name}.json"
        evaluate(tree.references, folders[entry.name], summary)
        np.testing.assert_allclose(entry.dice, read_summary(summary), equal_nan=True)
        assert sorted(file.suffix for file in folders[entry.name].iterdir()) == [".gz"] * 6
    assert comparison.pairs[0].baseline.name == "near"
    assert any("2 reference segmentations have no prediction" in note for note in comparison.notes)


def test_folders_of_regions_and_ignored_voxels(tree, tmp_path):
    description = tree.description | {
        "labels": {"background": 0, "both": [1, 2], "spleen": [2], "ignore": 3},
        "regions_class_order": [1, 2],
    }
    tree.write_json(tmp_path / "dataset.json", description)
    labels = reference(0)
    labels[:, :, 10] = 3
    save(labels, tmp_path / "labels" / "case_00.nii.gz")
    save(shifted(reference(0), 1), tmp_path / "pred" / "case_00.nii.gz")
    entry = compare_folders(
        [tmp_path / "pred"], labels_folder=tmp_path / "labels", dataset_json=tmp_path / "dataset.json"
    ).entries[0]
    evaluate(tmp_path / "labels", tmp_path / "pred", tmp_path / "summary.json", [(1, 2), (2,)], ignore=3)
    np.testing.assert_allclose(entry.dice, read_summary(tmp_path / "summary.json"))
    assert entry.label_names == {"1+2": "both", "2": "spleen"}


def test_folders_that_cannot_be_compared(tree, tmp_path):
    pred = tmp_path / "pred"
    save(reference(0), pred / "case_00.nii.gz")
    with pytest.raises(UserError, match=f"--folder: required a folder of predictions · got {tmp_path}/nothing"):
        compare_folders([tmp_path / "nothing"])
    with pytest.raises(UserError, match=f"got neither for {pred} · give --labels-folder"):
        compare_folders([pred])
    with pytest.raises(UserError, match=r"required .*dataset\.json .*--dataset-json"):
        compare_folders([pred], labels_folder=tree.references)
    tree.write_json(tmp_path / "dataset.json", {"labels": LABELS | {"background": 1}, "file_ending": ".nii.gz"})
    options = {"labels_folder": tree.references, "dataset_json": tmp_path / "dataset.json"}
    with pytest.raises(UserError, match="Your background label: 1"):
        compare_folders([pred], **options)
    tree.write_json(tmp_path / "dataset.json", tree.description)
    save(reference(0)[:, :, 1:], pred / "case_01.nii.gz")
    with pytest.raises(
        UserError, match=r"required segmentations on one grid · got .*case_01\.nii\.gz with size 26 × 22 × 6 and .*27 × 22 × 6"
    ):
        compare_folders([pred], **options)
    save(reference(0), pred / "unknown.nii.gz")
    with pytest.raises(UserError, match=r"got none for 1 of 3 in .*such as unknown\.nii\.gz"):
        compare_folders([pred], **options)
    for name in ("unknown", "case_01"):
        (pred / f"{name}.nii.gz").unlink()
    evaluate(tree.references, pred, pred / "summary.json")
    assert compare_folders([pred]).entries[0].cases == ["case_00"]
    save(reference(4), pred / "case_04.nii.gz")
    with pytest.raises(UserError, match="1 differ, such as case_04"):
        compare_folders([pred])


def test_what_a_trainer_of_ours_wrote_is_shown_as_it_is(tree):
    facts = {
        "num_parameters_total": 53_000_000, "num_parameters_trained": 31_000_000, "backbone": "dinov3_vits16",
        "adaptation": "frozen", "weights": "random", "output_biases": [-0.1, -2.5],
    }  # fmt: skip
    debug = {"num_epochs": "5", "num_iterations_per_epoch": "50", "device": "cuda:0", "gpu_name": "A GPU"}
    debug["optimizer"] = "SGD (\nParameter Group 0\n    lr: 0.01\n)"
    model = tree.add("nnUNetTrainerDINOv3S", facts=facts, debug=debug)
    (model / "fold_1" / "training_log_2026_1_3_00_00_00.txt").write_text("x: Epoch time: 99.25 s\nEpoch time: soon\n")
    found = read_results(tree.folder)[0].facts
    assert (found.num_params_total, found.num_params_trained) == (53_000_000, 31_000_000)
    assert (found.backbone, found.adaptation, found.weights) == ("dinov3_vits16", "frozen", "random")
    assert (found.num_epochs, found.num_iterations, found.device) == (5, 50, "A GPU")
    assert (found.optimizer, found.starts_at_class_frequencies) == ("SGD", True)
    assert found.epoch_s == 11.0, "the median of seven epochs"
    tree.write_json(model / "fold_1" / FACTS_FILE, facts | {"weights": "0f3a"})
    (model / "fold_0" / "debug.json").write_text("{", encoding="utf-8")
    changed = read_results(tree.folder)[0]
    assert changed.facts.weights == "random", "one fold of random weights is enough to say so"
    assert any("differ in weights (random, 0f3a)" in note for note in changed.notes)
    assert any("debug.json: required valid JSON" in note for note in changed.notes)


def rewrite(file: Path, change) -> None:
    """Writes an image again after ``change`` has had it."""
    image = sitk.ReadImage(str(file))
    change(image)
    sitk.WriteImage(image, str(file))


def cut(file: Path) -> None:
    """Keeps the first half, as an interrupted download does."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def in_place_of(file: Path) -> None:
    file.unlink()
    file.mkdir()


FILES = {
    "half of it": (cut, "required a readable segmentation"),
    "empty": (lambda file: file.write_bytes(b""), "required a readable segmentation"),
    "no image": (lambda file: file.write_text("no image"), "required a readable segmentation"),
    "a folder": (in_place_of, "required a readable segmentation"),
    "other spacing": (
        lambda file: rewrite(file, lambda image: image.SetSpacing((0.6, 0.8, 5.0))),
        "on one grid .* with spacing 0.6 × 0.8 × 5 and .* 0.6 × 0.8 × 3",
    ),
    "other place": (lambda file: rewrite(file, lambda image: image.SetOrigin((0, 40, 0))), "on one grid .* with origin 0 × 40"),
    "mirrored": (
        lambda file: rewrite(file, lambda image: image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))),
        "on one grid .* with direction -1",
    ),
    "more voxels": (
        lambda file: save(np.pad(reference(0), 1), file),
        "on one grid .* with size 29 × 24 × 8 and .* 27 × 22 × 6",
    ),
}


@pytest.mark.parametrize(
    ("spacing", "origin", "moved", "is_one_grid"),
    [
        ((0.8, 0.8, 3), (-250, -200, -900), (0.8, 0, 0), False),  # a voxel
        ((0.8, 0.8, 3), (-250, -200, -900), (0, 0, 3), False),
        ((0.8, 0.8, 3), (-250, -200, -900), (0.01, 0, 0), True),
        ((4e-6, 4e-6, 3e-5), (0, 0, 0), (8e-6, 0, 0), False),  # nanometres
    ],
)
def test_a_voxel_counts_wherever_it_lies_and_however_small_it_is(spacing, origin, moved, is_one_grid):
    one, other = (
        Grid((27, 22, 6), spacing, tuple(place), tuple(np.eye(3).ravel())) for place in (origin, np.add(origin, moved))
    )
    assert (difference(one, other) is None) is is_one_grid
    assert difference(one, one._replace(spacing=tuple(1.2 * length for length in spacing)))[0] == "spacing"


@pytest.mark.parametrize("spoilt", ["prediction", "reference"])
@pytest.mark.parametrize(("spoil", "says"), FILES.values(), ids=FILES.keys())
def test_a_segmentation_that_is_damaged_or_lies_elsewhere_is_refused_by_name(tree, tmp_path, spoil, says, spoilt):
    predictions, labels = tmp_path / "pred", tmp_path / "labels"
    for folder in (predictions, labels):
        save(reference(0), folder / "case_00.nii.gz")
    tree.write_json(tmp_path / "dataset.json", tree.description)
    file = (predictions if spoilt == "prediction" else labels) / "case_00.nii.gz"
    spoil(file)
    if file.is_dir() and spoilt == "reference":
        says = "got none for 1 of 1"
    elif "readable" in says:
        says = f"{says} · got {file}"
    elif spoilt == "reference":
        says = "on one grid"
    with pytest.raises(UserError, match=says) as caught:
        compare_folders([predictions], labels_folder=labels, dataset_json=tmp_path / "dataset.json")
    assert str(file.parent) in str(caught.value)


def test_predictions_on_other_grids_are_taken_to_that_of_the_reference_when_asked(tree, tmp_path):
    labels, predictions = tmp_path / "labels", tmp_path / "pred"
    tree.write_json(tmp_path / "dataset.json", tree.description)
    for number in range(3):
        save(reference(number), labels / f"case_0{number}.nii.gz")
        save(shifted(reference(number), 1), predictions / f"case_0{number}.nii.gz")
    options = {"labels_folder": labels, "dataset_json": tmp_path / "dataset.json"}
    expected = compare_folders([predictions], **options).entries[0].dice
    for number, code in enumerate(("RAS", "PIR")):
        file = predictions / f"case_0{number}.nii.gz"
        sitk.WriteImage(sitk.ConstantPad(sitk.DICOMOrient(sitk.ReadImage(str(file)), code), (2, 0, 1), (0, 3, 0)), str(file))
    with pytest.raises(UserError, match="--labels-folder --resample takes each to the grid of its reference"):
        compare_folders([predictions], **options)
    with pytest.raises(UserError, match="--resample: required with --labels-folder"):
        compare_folders([predictions], resample=True)
    before = {file: file.read_bytes() for file in predictions.iterdir()}
    entry = compare_folders([predictions], **options, resample=True).entries[0]
    pd.testing.assert_frame_equal(entry.dice, expected)
    assert "pred: 2 predictions lay on another grid than their reference and were taken to it." in entry.notes
    assert all(sitk.ReadImage(str(entry.prediction(case))).GetSize() == (27, 22, 6) for case in entry.cases)
    assert {file: file.read_bytes() for file in predictions.iterdir()} == before, "predictions stay as they are"


def test_a_cut_off_metaimage_is_named(tree, tmp_path):
    for folder in ("labels", "pred"):
        save(reference(0), tmp_path / folder / "case_00.mha")
    file = tmp_path / "pred" / "case_00.mha"
    file.write_bytes(file.read_bytes()[:-40])
    tree.write_json(tmp_path / "dataset.json", tree.description | {"file_ending": ".mha"})
    with pytest.raises(UserError, match=f"got {file}: damaged or not whole: File cannot be read") as refused:
        compare_folders([tmp_path / "pred"], labels_folder=tmp_path / "labels", dataset_json=tmp_path / "dataset.json")
    assert "Reason" not in str(refused.value)


def in_unit(file: Path, unit: str, lengths_in_mm: float) -> None:
    """Writes a NRRD in another unit: the same place, other numbers."""
    image = sitk.ReadImage(str(file))
    image.SetSpacing([length / lengths_in_mm for length in image.GetSpacing()])
    image.SetOrigin([length / lengths_in_mm for length in image.GetOrigin()])
    sitk.WriteImage(image, str(file))
    head, _, values = file.read_bytes().partition(b"\n\n")
    file.write_bytes(head + f'\nspace units: "{unit}" "{unit}" "{unit}"\n\n'.encode() + values)


@pytest.mark.parametrize("predicted", ["um", "mm", ""])
def test_the_unit_of_a_nrrd_counts(tree, tmp_path, predicted):
    """ITK passes over it; so does nnU-Net, whose predictions say none and count in that of their references."""
    references, predictions = tmp_path / "labels", tmp_path / "pred"
    for number in range(3):
        save(reference(number), references / f"case_0{number}.nrrd")
        save(shifted(reference(number), 3), predictions / f"case_0{number}.nrrd")
        in_unit(references / f"case_0{number}.nrrd", "um", 1e-3)
        in_unit(predictions / f"case_0{number}.nrrd", predicted or "um", 1.0 if predicted == "mm" else 1e-3)
        if not predicted:
            image = sitk.ReadImage(str(predictions / f"case_0{number}.nrrd"))
            sitk.WriteImage(image, str(predictions / f"case_0{number}.nrrd"))
    tree.write_json(tmp_path / "dataset.json", tree.description | {"file_ending": ".nrrd"})
    for resample in (False, True):
        entry = compare_folders(
            [predictions], labels_folder=references, dataset_json=tmp_path / "dataset.json", resample=resample
        ).entries[0]
        assert not any("another grid" in note for note in entry.notes)
        assert entry.dice.loc["case_00", "1"] == pytest.approx(dice(reference(0) == 1, shifted(reference(0), 3) == 1))
    rows = measure_files(predictions / "case_00.nrrd", references / "case_00.nrrd", [[1]], (2.0,))
    plain = measure_masks(shifted(reference(0), 3) == 1, reference(0) == 1, SPACING_MM, (2.0,))
    assert rows[0] == pytest.approx(plain | {"has_foreground": 1.0})
    assert read_to_compare(str(references / "case_00.nrrd")).spacing_mm == pytest.approx(SPACING_MM)
    moved = sitk.ConstantPad(sitk.ReadImage(str(predictions / "case_01.nrrd")), (2, 0, 1), (0, 3, 0))
    sitk.WriteImage(moved, str(predictions / "case_01.nrrd"))
    if predicted:
        in_unit(predictions / "case_01.nrrd", predicted, 1.0)
    with pytest.raises(UserError, match="--resample takes each to the grid"):
        compare_folders([predictions], labels_folder=references, dataset_json=tmp_path / "dataset.json")
    entry = compare_folders(
        [predictions], labels_folder=references, dataset_json=tmp_path / "dataset.json", resample=True
    ).entries[0]
    assert entry.dice.loc["case_01", "1"] == pytest.approx(dice(reference(1) == 1, shifted(reference(1), 3) == 1))


DESCRIPTIONS = {
    "not JSON": ("{", "dataset.json: required valid JSON"),
    "nested too deeply": ("[" * 100_000, "dataset.json: required valid JSON"),
    "null": ("null", "required a JSON dict · got None"),
    "no labels": ("{}", 'required "labels".* got None'),
    "labels are a list": ('{"labels": [1]}', 'required "labels"'),
    "label is a name": ('{"labels": {"background": 0, "liver": "one"}}', 'required "labels"'),
    "ending is a number": ('{"labels": {"background": 0, "liver": 1}, "file_ending": 5}', 'required "file_ending" .* got 5'),
    "background is one": ('{"labels": {"background": 1, "liver": 2}, "file_ending": ".nii.gz"}', "as nnU-Net wants it"),
}


@pytest.mark.parametrize(("content", "says"), DESCRIPTIONS.values(), ids=DESCRIPTIONS.keys())
def test_a_broken_dataset_json_is_named(tmp_path, content, says):
    for folder in ("pred", "labels"):
        save(reference(0), tmp_path / folder / "case_00.nii.gz")
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=says):
        compare_folders([tmp_path / "pred"], labels_folder=tmp_path / "labels", dataset_json=tmp_path / "dataset.json")


def test_one_folder_twice_is_refused(tree, tmp_path):
    save(reference(0), tmp_path / "pred" / "case_00.nii.gz")
    with pytest.raises(UserError, match=f"--folder: required different folders · got {tmp_path / 'pred'} twice"):
        compare_folders([f"a={tmp_path / 'pred'}", tmp_path / "pred"], labels_folder=tree.references)


def test_facts_of_the_wrong_kind_are_unknown(tree):
    facts = {
        "num_parameters_total": [5],
        "backbone": {"name": "x"},
        "weights": ["random"],
        "num_parameters_trained": "9" * 5000,
    }
    tree.add("nnUNetTrainerDINOv3S", facts=facts, debug={"gpu_name": ["a"], "num_epochs": "soon"})
    found = read_results(tree.folder)[0].facts
    unknown = (found.num_params_total, found.num_params_trained, found.backbone, found.weights, found.device, found.num_epochs)
    assert unknown == (None,) * 6


def test_a_file_that_may_not_be_read_is_named(tree, monkeypatch):
    """Permissions do not stop the superuser, who may run the tests: the system's answer is put in their place."""
    tree.add("nnUNetTrainer", epoch_s=(1.0,))
    read_text = Path.read_text

    def refusing(self, *args, **more):
        if self.name.startswith("training_log"):
            raise PermissionError(13, "Permission denied", str(self))
        return read_text(self, *args, **more)

    monkeypatch.setattr(Path, "read_text", refusing)
    with pytest.raises(UserError, match=r"got .*training_log_.*\.txt: Permission denied"):
        compare_results(905)
