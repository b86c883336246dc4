"""Trainers of a data set that looks preprocessed, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_nets import planned

from nnunet_dino.networks.unet import PLAIN_UNET
from nnunet_dino.nnunet.trainer import DINOv3Trainer

DATASET = {"labels": {"background": 0, "liver": 1, "spleen": 2}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
PATCH = {"2d": [48, 80], "3d_fullres": [6, 20, 12]}


def architecture(num_axes: int) -> dict[str, Any]:
    kwargs = planned(PLAIN_UNET, num_axes)
    classes = [key for key, value in kwargs.items() if isinstance(value, type)]
    dotted = {key: f"{kwargs[key].__module__}.{kwargs[key].__qualname__}" for key in classes}
    return {
        "network_class_name": PLAIN_UNET,
        "arch_kwargs": {**kwargs, **dotted},
        "_kw_requires_import": [*classes, "dropout_op"],
    }


def plans() -> dict[str, Any]:
    configurations: dict[str, Any] = {
        name: {
            "data_identifier": f"nnUNetPlans_{name}",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": patch,
            "median_image_size_in_voxels": patch,
            "spacing": [1.5] * len(patch),
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "batch_dice": True,
            "architecture": architecture(len(patch)),
        }
        for name, patch in PATCH.items()
    }
    configurations["2d_896"] = {"inherits_from": "2d", "patch_size": [96, 160]}
    return {
        "dataset_name": "Dataset009_Spleen",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": {"mean": 40.0, "std": 60.0}},
        "configurations": configurations,
        "continue_training": False,
    }


def trainer_maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DINOv3Trainer]:
    """Makes a trainer of a preprocessed data set; ``tmp_path / "results"`` is where it may write."""
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_dino_precision", "float32")
    monkeypatch.delenv("nnUNet_dino_weights", raising=False)
    folder = tmp_path / "preprocessed" / "Dataset009_Spleen"
    for configuration in PATCH:
        (folder / f"nnUNetPlans_{configuration}").mkdir(parents=True)
        for number in range(5):
            (folder / f"nnUNetPlans_{configuration}" / f"case_{number}.b2nd").touch()
    (folder / "gt_segmentations").mkdir()
    (folder / "dataset.json").write_text(json.dumps(DATASET))

    def make(trainer: type[DINOv3Trainer], configuration: str) -> DINOv3Trainer:
        return trainer(plans(), configuration, 0, dict(DATASET), torch.device("cpu"))

    return make
