"""Reading results, folders and what training cost, from files that nnU-Net's own code wrote."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from compare_tree import DATASET, LABELS, Tree, evaluate, moving, reference, save, shifted

from nnunet_dino._errors import UserError
from nnunet_dino.compare import compare_folders, compare_results
from nnunet_dino.compare.facts import is_stock, read_facts
from nnunet_dino.compare.places import dataset_name
from nnunet_dino.compare.read_results import read_results
from nnunet_dino.compare.summary_json import case_of, label_key, label_values, read_summary

STOCK = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


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


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "no valid JSON"),
        ("[1]", "TypeError"),
        ('{"metric_per_case": []}', "no case"),
        ('{"metric_per_case": [{"metrics": {"1": {"Dice": 0.5}}}]}', "reference_file"),
        ('{"metric_per_case": [{"prediction_file": "a.nii.gz", "metrics": {"1": {"Dice": 1.5}}}]}', "Dice of 1.5"),
        ('{"metric_per_case": [{"prediction_file": "a.nii.gz", "metrics": {}}]}', "no label"),
        (
            '{"metric_per_case": [{"prediction_file": "a.nii.gz", "metrics": {"1": {"Dice": 1}}},'
            ' {"prediction_file": "a.nii.gz", "metrics": {"1": {"Dice": 1}}}]}',
            "case a more than once",
        ),
        (
            '{"metric_per_case": [{"prediction_file": "a.nii.gz", "metrics": {"1": {"Dice": 1}}},'
            ' {"prediction_file": "b.nii.gz", "metrics": {"2": {"Dice": 1}}}]}',
            "case b has other labels than case a",
        ),
    ],
)
def test_broken_summaries_are_named(tmp_path, content, what):
    file = tmp_path / "summary.json"
    file.write_text(content)
    with pytest.raises(UserError, match=f"summary.json: .*{what}"):
        read_summary(file)


def test_filters_name_what_there_is(tree):
    tree.add("nnUNetTrainer")
    tree.add("nnUNetTrainerDINOv3S", configuration="2d")
    assert [entry.trainer for entry in read_results(tree.folder, configurations=["2d"])] == ["nnUNetTrainerDINOv3S"]
    with pytest.raises(UserError, match="'nnUNetTrainerDINO3S'; did you mean 'nnUNetTrainerDINOv3S'"):
        read_results(tree.folder, trainers=["nnUNetTrainerDINO3S"])
    with pytest.raises(UserError, match="--plans with a name that has results required · got 'other'"):
        read_results(tree.folder, plans=["other"])
    with pytest.raises(UserError, match="--folds 4 · there are folds 0, 1"):
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
    with pytest.raises(UserError, match=f"got '906'; did you mean '{DATASET}'"):
        dataset_name("906")
    with pytest.raises(UserError, match="got 'Dataset905_Fantom'; did you mean"):
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
    with pytest.raises(UserError, match="nnUNet_results=/nowhere/at/all"):
        compare_results(905)
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(UserError, match="no environment variable nnUNet_results"):
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
    assert comparison.versus[0].baseline.name == "near"
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
    with pytest.raises(UserError, match=f"--folder {tmp_path}/nothing"):
        compare_folders([tmp_path / "nothing"])
    with pytest.raises(UserError, match=f"got neither for {pred} · give --labels-folder"):
        compare_folders([pred])
    with pytest.raises(UserError, match=r"dataset\.json required.*--dataset-json"):
        compare_folders([pred], labels_folder=tree.references)
    tree.write_json(tmp_path / "dataset.json", {"labels": LABELS | {"background": 1}, "file_ending": ".nii.gz"})
    options = {"labels_folder": tree.references, "dataset_json": tmp_path / "dataset.json"}
    with pytest.raises(UserError, match="Your background label: 1"):
        compare_folders([pred], **options)
    tree.write_json(tmp_path / "dataset.json", tree.description)
    save(reference(0)[:, :, 1:], pred / "case_01.nii.gz")
    with pytest.raises(UserError, match=r"same shape required · got .*case_01\.nii\.gz"):
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


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A fold folder with a checkpoint that nnU-Net's trainer saved, and the number of its parameters."""
    import torch
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

    kwargs = {
        "n_stages": 3, "features_per_stage": [4, 6, 8], "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [2, 2, 2], [1, 2, 2]], "n_conv_per_stage": [1, 2, 1],
        "n_conv_per_stage_decoder": [1, 1], "conv_bias": True, "norm_op": "torch.nn.modules.batchnorm.BatchNorm3d",
        "norm_op_kwargs": {"affine": True}, "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    configuration = {
        "data_identifier": "data", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": [8, 16, 24],
        "spacing": [3.0, 0.8, 0.6], "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False],
        "batch_dice": False,
        "architecture": {
            "network_class_name": STOCK, "arch_kwargs": kwargs,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }  # fmt: skip
    plans = {
        "dataset_name": DATASET, "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "label_manager": "LabelManager",
        "continue_training": False, "configurations": {"3d_fullres": configuration},
    }  # fmt: skip
    for name in ("nnUNet_results", "nnUNet_preprocessed"):
        monkeypatch.setenv(name, str(tmp_path / name))
        if not hasattr(getattr(module, name), "is_set"):  # before nnU-Net 2.8 the variables are read at import
            monkeypatch.setattr(module, name, str(tmp_path / name))
    data = tmp_path / "nnUNet_preprocessed" / DATASET / "data"
    data.mkdir(parents=True)
    (data / "case_00.npz").write_bytes(b"")
    description = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 4, "file_ending": ".nii.gz"}
    trainer = module.nnUNetTrainer(plans, "3d_fullres", 0, description, torch.device("cpu"))
    trainer.initialize()
    trainer._best_ema = np.float64(0.5)
    fold = Path(trainer.output_folder)
    trainer.save_checkpoint(str(fold / "checkpoint_final.pth"))
    (fold.parent / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    return fold, sum(parameter.numel() for parameter in trainer.network.parameters())


def test_parameters_of_a_stock_checkpoint(trained):
    fold, num_parameters = trained
    facts = read_facts([fold], "nnUNetTrainer", "3d_fullres")
    assert facts.num_params_total == facts.num_params_trained == num_parameters
    assert facts.checkpoint_bytes == (fold / "checkpoint_final.pth").stat().st_size
    assert facts.notes == ()
    stranger = read_facts([fold], "nnUNetTrainerOfAStranger", "3d_fullres")
    assert (stranger.num_params_total, stranger.num_params_trained) == (None, None)


def test_a_checkpoint_with_code_in_it_is_not_run(trained):
    import torch

    class Harmful:
        def __reduce__(self):
            return (Path.touch, (fold / "harm",))

    fold, _ = trained
    torch.save({"network_weights": {"weight": torch.zeros(3)}, "logging": Harmful()}, fold / "checkpoint_final.pth")
    facts = read_facts([fold], "nnUNetTrainer", "3d_fullres")
    assert facts.num_params_total is None
    assert any("could not be counted (UnpicklingError" in note for note in facts.notes)
    assert not (fold / "harm").exists()


@pytest.mark.parametrize(("network", "expected"), [(STOCK, True), ("nnunet_dino.networks.DINOv3UNet", False), (None, False)])
def test_stock_needs_a_stock_network(tmp_path, network, expected):
    architecture = {"architecture": {"network_class_name": network}} if network else {}
    plans = {"configurations": {"3d_fullres": architecture, "3d_lowres": {"inherits_from": "3d_fullres", "batch_size": 2}}}
    Tree.write_json(tmp_path / "plans.json", plans)
    assert is_stock("nnUNetTrainer_5epochs", tmp_path / "plans.json", "3d_lowres") is expected
    assert not is_stock("nnUNetTrainerDINOv3S", tmp_path / "plans.json", "3d_lowres")


def test_what_a_trainer_of_ours_wrote_is_shown_as_it_is(tree):
    facts = {
        "num_parameters_total": 53_000_000, "num_parameters_trained": 31_000_000, "backbone": "dinov3_vits16",
        "adaptation": "frozen", "weights": "random",
    }  # fmt: skip
    debug = {"num_epochs": "5", "num_iterations_per_epoch": "50", "device": "cuda:0", "gpu_name": "A GPU"}
    debug["optimizer"] = "SGD (\nParameter Group 0\n    lr: 0.01\n)"
    model = tree.add("nnUNetTrainerDINOv3S", facts=facts, debug=debug)
    (model / "fold_1" / "training_log_2026_1_3_00_00_00.txt").write_text("x: Epoch time: 99.25 s\nEpoch time: soon\n")
    found = read_results(tree.folder)[0].facts
    assert (found.num_params_total, found.num_params_trained) == (53_000_000, 31_000_000)
    assert (found.backbone, found.adaptation, found.weights) == ("dinov3_vits16", "frozen", "random")
    assert (found.num_epochs, found.num_iterations, found.device) == (5, 50, "A GPU")
    assert found.optimizer == "SGD"
    assert (found.epoch_s, found.num_epochs_timed) == (11.0, 7)
    tree.write_json(model / "fold_1" / "nnunet_dino.json", facts | {"weights": "0f3a"})
    (model / "fold_0" / "debug.json").write_text("{", encoding="utf-8")
    changed = read_results(tree.folder)[0]
    assert changed.facts.weights == "random", "one fold of random weights is enough to say so"
    assert any("differ in weights (random, 0f3a)" in note for note in changed.notes)
    assert any("debug.json could not be read" in note for note in changed.notes)
