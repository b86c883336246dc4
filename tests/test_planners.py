"""Plans of this package beside the stock planner's, on a data set of which only names and numbers exist."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import nnUNetPlannerResEncM
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_experiment_entry
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_dino._errors import UserError
from nnunet_dino.networks.unet import DINOv3UNet
from nnunet_dino.planners import (
    nnUNetPlannerAffinitiesSmall,
    nnUNetPlannerDINOv3L,
    nnUNetPlannerDINOv3SResEncM,
    nnUNetPlannerDINOv3Tiny,
)

NAME = "Dataset907_Boxes"
SHAPE, SPACING_MM = (96, 448, 384), (3.0, 0.9, 0.9)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A two-channel data set of large anisotropic volumes, described by its fingerprint; the files themselves are tiny."""
    root = tmp_path_factory.mktemp("planning")
    folders = {name: root / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    with pytest.MonkeyPatch.context() as environment:
        for name, folder in folders.items():
            folder.mkdir()
            environment.setenv(name, str(folder))
        yield write_data_set(folders)


def write_data_set(folders: dict[str, Path]) -> Path:
    raw, preprocessed = folders["nnUNet_raw"] / NAME, folders["nnUNet_preprocessed"] / NAME
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed):
        folder.mkdir(parents=True)
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), dtype=np.int16))
    for case in range(20):
        for suffix, place in (("_0000", "imagesTr"), ("_0001", "imagesTr"), ("", "labelsTr")):
            sitk.WriteImage(image, raw / place / f"case_{case:02d}{suffix}.nii.gz")
    description = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "box": 1},
        "numTraining": 20,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    intensities = {
        "mean": 0.0,
        "std": 1.0,
        "percentile_00_5": -1.0,
        "percentile_99_5": 1.0,
        "min": -2.0,
        "max": 2.0,
        "median": 0.0,
    }
    fingerprint = {
        "spacings": [SPACING_MM] * 20,
        "shapes_after_crop": [SHAPE] * 20,
        "foreground_intensity_properties_per_channel": {"0": intensities, "1": intensities},
        "median_relative_size_after_cropping": 1.0,
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    return raw


def plan(planner_class: type, **options: Any) -> dict[str, Any]:
    planner = planner_class(907, **options)
    with torch.device("meta"):  # the stock planner builds a network for every patch size it tries
        planner.plan_experiment()
    folder = Path(planner.raw_dataset_folder.replace("nnUNet_raw", "nnUNet_preprocessed"))
    return json.loads((folder / f"{planner.plans_identifier}.json").read_text())


plans_of = cache(plan)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stock_planner", "our_planner"),
    [(ExperimentPlanner, nnUNetPlannerDINOv3Tiny), (nnUNetPlannerResEncM, nnUNetPlannerDINOv3SResEncM)],
)
def test_only_the_network_differs_from_stock_plans(data_set: Path, stock_planner: type, our_planner: type) -> None:
    stock, ours = plans_of(stock_planner), plans_of(our_planner)
    assert stock["plans_name"] != ours["plans_name"] == our_planner.default_plans_name
    for name in ("2d", "3d_fullres"):
        theirs, mine = stock["configurations"][name], ours["configurations"][name]
        for key in ("data_identifier", "spacing", "normalization_schemes", "resampling_fn_data_kwargs"):
            assert mine[key] == theirs[key], key
        architecture = mine["architecture"]
        assert architecture["network_class_name"] == "nnunet_dino.networks.DINOv3UNet"
        assert architecture["arch_kwargs"]["unet"] == theirs["architecture"]["network_class_name"]
        assert architecture["arch_kwargs"]["dino"]["channels"] == 2 * [{"mean": 0.0, "std": 1.0, "windows": []}]
    cascade = ours["configurations"]["3d_cascade_fullres"]
    assert cascade == {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    assert ours["configurations"]["3d_lowres"]["data_identifier"] == f"{our_planner.default_plans_name}_3d_lowres"


def test_the_fine_configuration_has_square_pixels_and_meddinov3s_tokens(data_set: Path) -> None:
    configurations = plans_of(nnUNetPlannerDINOv3Tiny)["configurations"]
    stock, fine = configurations["2d"], configurations["2d_896"]
    assert stock["patch_size"][0] != stock["patch_size"][1]
    assert fine["spacing"][0] == fine["spacing"][1]
    assert max(fine["patch_size"]) == 896
    for stock_mm, fine_mm, before, after in zip(
        stock["spacing"], fine["spacing"], stock["patch_size"], fine["patch_size"], strict=True
    ):
        assert 0 <= round(after * fine_mm - before * stock_mm, 6) < 128 * fine_mm
    assert fine["data_identifier"] == "nnUNetDINOv3TinyPlans_2d_896"
    assert 2 <= fine["batch_size"] < stock["batch_size"]
    strides = {
        name: c["architecture"]["arch_kwargs"]["dino"]["token_stride_px"]
        for name, c in configurations.items()
        if "architecture" in c
    }
    assert strides == {"2d": 8, "3d_lowres": 8, "3d_fullres": 8, "2d_896": 16}


@pytest.mark.parametrize(
    ("patch", "spacing_mm", "fine_patch", "fine_mm"),
    [
        ([192, 160], [1.0, 1.0], [896, 768], 192 / 896),
        ([160, 192], [0.5, 0.5], [768, 896], 96 / 896),
        ([256, 256], [0.7, 0.7], [896, 896], 0.2),
        ([128, 256], [1.0, 0.5], [896, 896], 128 / 896),
        ([128, 128], [1.0, 0.25], [896, 224], 128 / 896),
    ],
)
def test_the_fine_grid_is_square_in_millimetres(
    data_set: Path, patch: list[int], spacing_mm: list[float], fine_patch: list[int], fine_mm: float
) -> None:
    stock = {
        "patch_size": patch,
        "spacing": spacing_mm,
        "median_image_size_in_voxels": [2.0 * n for n in patch],
        "architecture": plans_of(ExperimentPlanner)["configurations"]["2d"]["architecture"],
    }
    fine = nnUNetPlannerDINOv3Tiny(907)._fine_configuration(stock)
    assert [*fine["patch_size"]] == fine_patch
    assert [*fine["spacing"]] == pytest.approx([fine_mm, fine_mm])
    assert [*fine["median_image_size_in_voxels"]] == pytest.approx(
        [2 * n * mm / fine_mm for n, mm in zip(patch, spacing_mm, strict=True)]
    )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("0.1", r"required clearly more than the 0\.\d+ GB of dinov3_vitl16 alone · got 0\.1 GB"),
        ("0.001", r"got 0\.001 GB, in which no patch fits · raise it"),
        ("-5", "required a number of GB above 0 · got -5 ·"),
        ("inf", "required a number of GB above 0 · got inf ·"),
        ("nan", "required a number of GB above 0 · got nan ·"),
    ],
)
def test_an_impossible_memory_target_ends_at_once(
    data_set: Path, target: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(data_set.parents[1].rglob("*.json"))
    command = ["nnUNetv2_plan_experiment", "-d", "907", "-pl", "nnUNetPlannerDINOv3L", "-gpu_memory_target", target]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(UserError, match=message) as refused:
        plan_experiment_entry()
    assert str(refused.value).count("\n") == 0
    assert sorted(data_set.parents[1].rglob("*.json")) == before


def test_nnunet_is_stopped_where_a_patch_cannot_shrink(data_set: Path) -> None:
    architecture = plans_of(ExperimentPlanner)["configurations"]["2d"]["architecture"]
    planner = nnUNetPlannerDINOv3Tiny(907, gpu_memory_target_in_gb=0.05)
    with pytest.raises(UserError, match=r"got 0\.05 GB, in which no patch fits"):
        planner.static_estimate_VRAM_usage([7, 5], 2, 2, *architecture.values())


@pytest.mark.parametrize("planner", [nnUNetPlannerDINOv3Tiny, nnUNetPlannerAffinitiesSmall])
def test_a_data_loader_without_processes_does_not_stop_planning(
    data_set: Path, planner: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = plans_of(planner)["configurations"]["3d_fullres"]
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    alone = plan(planner, plans_name="alone")["configurations"]["3d_fullres"]
    assert {**alone, "data_identifier": usual["data_identifier"]} == usual  # data of affinities are named after their plans


@pytest.mark.slow
def test_a_large_backbone_takes_its_share_of_the_memory(data_set: Path) -> None:
    sizes = {}
    for planner in (nnUNetPlannerDINOv3Tiny, nnUNetPlannerDINOv3L):
        configuration = plans_of(planner)["configurations"]["3d_fullres"]
        sizes[planner] = np.prod(configuration["patch_size"]) * configuration["batch_size"]
    assert sizes[nnUNetPlannerDINOv3L] <= sizes[nnUNetPlannerDINOv3Tiny]
    more_memory = plans_of(nnUNetPlannerDINOv3L, gpu_memory_target_in_gb=24, plans_name="more")["configurations"]["3d_fullres"]
    assert np.prod(more_memory["patch_size"]) * more_memory["batch_size"] > sizes[nnUNetPlannerDINOv3L]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres", "2d_896"])
def test_stock_nnunet_builds_every_configuration(data_set: Path, configuration: str) -> None:
    manager = PlansManager(plans_of(nnUNetPlannerDINOv3Tiny)).get_configuration(configuration)
    channels = 3 if configuration == "3d_cascade_fullres" else 2
    with torch.device("meta"):
        network = get_network_from_plans(
            manager.network_arch_class_name,
            manager.network_arch_init_kwargs,
            manager.network_arch_init_kwargs_req_import,
            channels,
            2,
            allow_init=False,
            deep_supervision=True,
        )
    assert isinstance(network, DINOv3UNet)
    assert len(network.slice_encoder.channels) == 2
    assert not hasattr(network, "initialize")


def full(plans: dict[str, Any]) -> dict[str, Any]:
    return plans["configurations"]["3d_fullres"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda plans: full(plans).update(spacing=[2 * mm for mm in SPACING_MM]), {}),
        (lambda plans: full(plans).update(normalization_schemes=["ZScoreNormalization", "NoNormalization"]), {}),
        (lambda plans: full(plans).update(preprocessor_name="MyPreprocessor"), {}),
        (lambda plans: full(plans)["resampling_fn_data_kwargs"].update(order=1), {}),
        (lambda plans: plans.update(transpose_forward=[2, 1, 0]), {}),
        (lambda plans: plans["configurations"].pop("3d_fullres"), {}),
        (lambda plans: None, {"overwrite_target_spacing": [2.0, 1.0, 1.0]}),
        (lambda plans: None, {"preprocessor_name": "MyPreprocessor"}),
        (None, {"overwrite_target_spacing": [2.0, 1.0, 1.0]}),
        (None, {"preprocessor_name": "MyPreprocessor"}),
    ],
)
def test_data_that_are_preprocessed_otherwise_get_a_folder_of_their_own(
    data_set: Path, change: Callable | None, options: dict[str, Any]
) -> None:
    """With stock plans that somebody has changed, and without any."""
    stock = deepcopy(plans_of(ExperimentPlanner))
    file = Path(str(data_set).replace("nnUNet_raw", "nnUNet_preprocessed"), "nnUNetPlans.json")
    file.unlink(missing_ok=True)
    if change is not None:
        change(stock)
        file.write_text(json.dumps(stock))
    plans = plan(nnUNetPlannerDINOv3Tiny, plans_name="mine", **options)
    assert full(plans)["data_identifier"] == "mine_3d_fullres"


def test_bad_data_sets_are_refused_before_anything_is_written(data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="908"):
        nnUNetPlannerDINOv3L(908)
    before = sorted(data_set.parents[1].rglob("*"))
    description = (data_set / "dataset.json").read_text()
    (data_set / "dataset.json").write_text(json.dumps({"labels": {"background": 0}, "channel_names": {"0": "CT"}}))
    with pytest.raises(UserError, match="background"):
        nnUNetPlannerDINOv3L(907)
    (data_set / "dataset.json").write_text(description)
    assert sorted(data_set.parents[1].rglob("*")) == before
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(UserError, match="nnUNet_preprocessed is not set"):
        nnUNetPlannerDINOv3L(907)
