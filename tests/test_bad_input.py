"""Bad input to the stock commands: one line, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from stock import PHANTOM, Workspace

pytestmark = pytest.mark.slow

TRAINER = "nnUNetTrainerDINOv3TinyPretrainedSmoke"


def refused(workspace: Workspace, *args: object, **env: str) -> str:
    """Runs a command that must be refused, and returns its one line; asserts that no result was written."""
    results = Path(env.get("nnUNet_results") or workspace.folder / "nnUNet_results")
    before = sorted(results.rglob("*")) if results.is_dir() else None
    last = workspace.run(*args, expected=2, **env).strip().splitlines()[-1]
    assert (sorted(results.rglob("*")) if results.is_dir() else None) == before
    assert last.startswith("nnunet-dino: error:")
    return last


def train(workspace: Workspace, trainer: str = TRAINER, **env: str) -> str:
    return refused(workspace, "nnUNetv2_train", 801, "3d_fullres", 0, "-tr", trainer, "-device", "cpu", **env)


def test_missing_and_wrong_weights(planned_phantom: Workspace, tmp_path: Path) -> None:
    hub = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path), "nnUNet_dino_store": str(tmp_path)}
    assert "dinov3_tiny" in train(planned_phantom, nnUNet_dino_weights=str(tmp_path), **hub)
    nowhere = tmp_path / "nowhere.safetensors"
    assert str(nowhere) in train(planned_phantom, nnUNet_dino_weights=str(nowhere), **hub)
    broken = tmp_path / "dinov3_tiny.safetensors"
    broken.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert str(broken) in train(planned_phantom, nnUNet_dino_weights=str(broken), **hub)


def test_unknown_names(planned_phantom: Workspace) -> None:
    line = train(planned_phantom, "nnUNetTrainerDINOv3Tyni")
    assert "'nnUNetTrainerDINOv3Tyni'; did you mean 'nnUNetTrainerDINOv3Tiny'?" in line
    line = refused(planned_phantom, "nnUNetv2_plan_experiment", "-d", 801, "-pl", "nnUNetPlannerDINOv3XL")
    assert "'nnUNetPlannerDINOv3XL'; did you mean 'nnUNetPlannerDINOv3L'?" in line
    plans = planned_phantom.plans_file(PHANTOM)
    other = json.loads(plans.read_text())
    architecture = other["configurations"]["3d_fullres"]["architecture"]
    architecture["network_class_name"] = "my.own.UNet"
    other["plans_name"] = "nnUNetOwnPlans"
    plans.with_name("nnUNetOwnPlans.json").write_text(json.dumps(other))
    args = (
        "nnUNetv2_train",
        801,
        "3d_fullres",
        0,
        "-tr",
        "nnUNetTrainerDINOv3TinySmoke",
        "-p",
        "nnUNetOwnPlans",
        "-device",
        "cpu",
    )
    last = planned_phantom.run(*args, expected=2).strip().splitlines()[-1]
    assert "got my.own.UNet" in last


def test_folders_unset_or_not_writable(planned_phantom: Workspace, tmp_path: Path) -> None:
    assert "nnUNet_results is not set" in train(planned_phantom, nnUNet_results="")
    file = tmp_path / "file"
    file.write_text("not a folder")
    assert str(file) in train(planned_phantom, nnUNet_results=str(file / "results"))


def test_no_labels_and_foreign_plans(planned_phantom: Workspace) -> None:
    preprocessed = planned_phantom.plans_file(PHANTOM).parent
    foreign = preprocessed.with_name("Dataset809_Foreign")
    shutil.copytree(preprocessed, foreign)
    description = json.loads((foreign / "dataset.json").read_text())
    args = ("nnUNetv2_train", 809, "3d_fullres", 0, "-tr", "nnUNetTrainerDINOv3TinySmoke", "-device", "cpu")
    (foreign / "dataset.json").write_text(json.dumps({**description, "labels": {"background": 0}}))
    assert "required labels beside background" in refused(planned_phantom, *args)
    (foreign / "dataset.json").write_text(json.dumps({**description, "labels": {"background": 0, "spleen": 1}}))
    assert f"got plans of {PHANTOM}" in refused(planned_phantom, *args)


def test_a_file_that_is_no_checkpoint_to_start_from(planned_phantom: Workspace, tmp_path: Path) -> None:
    args = ("nnUNetv2_train", 801, "3d_fullres", 1, "-tr", "nnUNetTrainerDINOv3TinySmoke", "-device", "cpu")
    last = planned_phantom.run(*args, "-pretrained_weights", tmp_path / "none.pth", expected=2).strip().splitlines()[-1]
    assert "none.pth: required a checkpoint" in last
