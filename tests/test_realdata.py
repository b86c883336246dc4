"""The stock commands on real MR and CT volumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from small_nets import write_weights
from stock import Workspace

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

TRAINER = "nnUNetTrainerDINOv3TinySmoke"
SLIM_TRAINER = "nnUNetTrainerDINOv3TinyPretrainedSmoke"


def copy_cases(source: Path, target: Path, num_training: int) -> Path:
    """Copies the first cases of a data set, and one more as ``imagesTs``."""
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (target / folder).mkdir(parents=True)
    labels = sorted((source / "labelsTr").glob("*.nii.gz"))[: num_training + 1]
    for label in labels:
        case = label.name.removesuffix(".nii.gz")
        is_test = label is labels[-1]
        for image in source.glob(f"imagesTr/{case}_*.nii.gz"):
            shutil.copy(image, target / ("imagesTs" if is_test else "imagesTr"))
        if not is_test:
            shutil.copy(label, target / "labelsTr")
    description = json.loads((source / "dataset.json").read_text())
    (target / "dataset.json").write_text(json.dumps({**description, "numTraining": num_training}))
    return target


def test_hippocampus_from_planning_to_prediction(shared_data: Path, tmp_path: Path) -> None:
    """Frozen weights from a file: small checkpoints, the weights needed at prediction, geometry kept."""
    workspace = Workspace(tmp_path)
    name = "Dataset004_Hippocampus"
    copy_cases(shared_data / name, workspace.raw(name), 5)
    weights = write_weights(tmp_path / "weights", seed=1).parent
    empty = tmp_path / "empty"
    empty.mkdir()
    workspace.plan(name, "3d_fullres")
    workspace.train(name, "3d_fullres", 0, SLIM_TRAINER, nnUNet_dino_weights=str(weights))
    fold = workspace.model(name, SLIM_TRAINER, "3d_fullres") / "fold_0"
    facts = json.loads((fold / "nnunet_dino.json").read_text())
    assert facts["weights"] != "random" and len(facts["weights"]) == 64
    assert facts["num_parameters_total"] - facts["num_parameters_trained"] == 892_928
    predict = ("nnUNetv2_predict", "-d", 4, "-c", "3d_fullres", "-tr", SLIM_TRAINER, "-f", 0, "-device", "cpu")
    files = ("-i", workspace.raw(name) / "imagesTs", "-o", tmp_path / "predicted", "-npp", 0, "-nps", 0, "--disable_tta")
    refused = workspace.run(*predict, *files, expected=2, nnUNet_dino_weights=str(empty), HF_HUB_CACHE=str(empty))
    line = refused.strip().splitlines()[-1]
    assert line.startswith("nnunet-dino: error:") and "dinov3_tiny" in line and facts["weights"] in line
    assert not list((tmp_path / "predicted").glob("*.nii.gz"))
    workspace.run(*predict, *files, nnUNet_dino_weights=str(weights))
    (image_file,) = (workspace.raw(name) / "imagesTs").glob("*.nii.gz")
    image = sitk.ReadImage(str(image_file))
    predicted = sitk.ReadImage(str(tmp_path / "predicted" / image_file.name.replace("_0000", "")))
    for fact in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(predicted, fact)() == pytest.approx(getattr(image, fact)())
    assert set(np.unique(sitk.GetArrayFromImage(predicted))) <= {0, 1, 2}


def test_head_and_neck_ct_is_planned_like_stock(shared_data: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    name = "Dataset520_OpenKBP5"
    copy_cases(shared_data / name, workspace.raw(name), 4)
    workspace.run("nnUNetv2_extract_fingerprint", "-d", 520, "-np", 1)
    workspace.run("nnUNetv2_plan_experiment", "-d", 520)
    workspace.run("nnUNetv2_plan_experiment", "-d", 520, "-pl", "nnUNetPlannerDINOv3B")
    folder = workspace.plans_file(name).parent
    stock, ours = (json.loads((folder / f"{plans}.json").read_text()) for plans in ("nnUNetPlans", "nnUNetDINOv3BPlans"))
    for configuration in ("2d", "3d_fullres"):
        for key in ("spacing", "data_identifier", "normalization_schemes"):
            assert ours["configurations"][configuration][key] == stock["configurations"][configuration][key]
    assert max(ours["configurations"]["2d_896"]["patch_size"]) == 896
    assert len(set(ours["configurations"]["2d_896"]["spacing"])) == 1
