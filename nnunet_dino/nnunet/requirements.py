"""What is checked before a training writes anything."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import command_to_set, require_folder
from nnunet_dino.backbones import weights as weight_files


def check_folders() -> None:
    """Raises :class:`UserError` unless nnU-Net's folders are set and the results folder can be written."""
    require_folder("nnUNet_preprocessed")
    results = os.environ.get("nnUNet_results", "")
    if not results:
        raise UserError(
            f"nnUNet_results is not set: required a folder for trained models · run: {command_to_set('nnUNet_results')}"
        )
    existing = next(folder for folder in (Path(results), *Path(results).absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(
            f"nnUNet_results: required a folder that can be written · got {results} · "
            "change its permissions, or name another folder in nnUNet_results"
        )


def check_data_set(plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    """Raises :class:`UserError` if the data set has no labels, or the plans were made for another one."""
    foreground = [name for name in dataset_json.get("labels", {}) if name not in ("background", "ignore")]
    if not foreground:
        raise UserError(
            f"dataset.json: required labels beside background · got {dataset_json.get('labels')} · training needs labels"
        )
    name = plans["dataset_name"]
    own = Path(os.environ["nnUNet_preprocessed"]) / name / "dataset.json"
    planned_for = json.loads(own.read_text()) if own.is_file() else {}
    for key in ("labels", "channel_names"):
        if planned_for.get(key) != dataset_json.get(key):
            raise UserError(
                f"plans: required plans of this data set ({key} {dataset_json.get(key)}) · got plans of {name} "
                f"({key} {planned_for.get(key)}) · run nnUNetv2_plan_experiment for this data set"
            )


def check_weights(backbone: str, weights: str) -> None:
    """Makes sure the weights are on this machine, downloading them if need be.

    Raises:
        UserError: they are missing and cannot be had, or do not fit the backbone.
    """
    if weights != weight_files.RANDOM and not weight_files.wants_random():
        weight_files.load(backbone, weight_files.ensure_local(backbone))
