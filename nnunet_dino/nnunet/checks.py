"""What is checked before a training writes anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from nnunet_dino._environment import require_known_variables
from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import require_folder, require_writable
from nnunet_dino.backbones import weights as weight_files
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.check_plans import check_geometry, planned_configuration
from nnunet_dino.nnunet.plans import dino_architecture, planned_options
from nnunet_dino.nnunet.preprocessed import check_data_set, check_preprocessed
from nnunet_dino.nnunet.presets import MEDDINOV3, TOKENS_ONLY


def check_training(
    trainer: str,
    plans: dict[str, Any],
    configuration: str,
    fold: int | str,
    dataset_json: dict[str, Any],
    device: torch.device,
    network: str | None = None,
    dino: DinoOptions | None = None,
) -> None:
    """Checks what a training needs, and fetches missing weights.

    Args:
        trainer: Name of the trainer class.
        plans: The plans.
        configuration: Name of one of its configurations.
        fold: Number of the fold, or ``"all"``.
        dataset_json: The description of the data set.
        device: Where to train.
        network: Dotted path of the network if it is not the planned one.
        dino: Its DINOv3 side.

    Raises:
        UserError: This training could not run. Nothing has been written then.
    """
    require_known_variables()
    check_folders()
    planned = planned_configuration(plans, configuration)
    check_geometry(planned, configuration)
    if network == MEDDINOV3 and len(planned["patch_size"]) != 2:
        raise UserError(f"MedDINOv3: required a 2D configuration, it is 2D only · got {configuration} · use -c 2d or 2d_896")
    if previous := planned.get("previous_stage"):
        if network == TOKENS_ONLY:
            raise UserError(
                "TokensOnly: required a configuration without a first stage, whose labels it could not see · "
                f"got {configuration} · use another trainer for it"
            )
        _check_first_stage(trainer, plans, previous, configuration)
    if "architecture" in planned:
        in_plans = planned_options(planned["architecture"])
        if network and dino:
            dino_architecture(planned["architecture"], network, dino)
        else:
            dino = in_plans
    check_data_set(plans, dataset_json)
    check_device(device)
    check_preprocessed(plans, configuration, planned, fold)
    if dino is not None and not _has_checkpoint(trainer, plans, configuration, fold):
        check_weights(dino.backbone, dino.weights)


def _check_first_stage(trainer: str, plans: dict[str, Any], previous: str, configuration: str) -> None:
    predictions = _model_folder(trainer, plans, previous) / "predicted_next_stage" / configuration
    if not predictions.is_dir() or not any(predictions.iterdir()):
        number = plans["dataset_name"][7:10].lstrip("0")
        raise UserError(
            f"{configuration}: required the predictions of its first stage in {predictions} · got none · first "
            f"train every fold of {previous} with this trainer and these plans: nnUNetv2_train {number} {previous} 0 -tr …"
        )


def check_folders() -> None:
    """Raises :class:`UserError` unless nnU-Net's folders are set and the results folder can be written."""
    require_folder("nnUNet_preprocessed")
    require_writable("nnUNet_results")


def check_device(device: torch.device) -> None:
    """Raises :class:`UserError` if this machine has no such device."""
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device.type in there and not there[device.type]():
        raise UserError(
            f"-device {device.type}: required a device of this kind that torch can use · got none on this machine · "
            "use another -device, such as cpu; nnunet-dino doctor shows which there are"
        )


def check_weights(backbone: str, weights: str) -> None:
    """Makes sure the weights are on this machine, downloading them if need be.

    Several processes of one training may do so at the same time: under a lock one downloads, and the others find the file.

    Raises:
        UserError: they are missing and cannot be had, or do not fit the backbone.
    """
    if weights == weight_files.RANDOM or weight_files.wants_random():
        return
    try:
        weight_files.load(backbone, weight_files.ensure_local(backbone))
    except OSError as error:
        raise UserError(
            f"weights of {backbone}: required a file that can be read · got {error} · change its permissions, or see "
            "nnunet-dino weights list"
        ) from error


def _model_folder(trainer: str, plans: dict[str, Any], configuration: str) -> Path:
    name = f"{trainer}__{plans['plans_name']}__{configuration}"
    return Path(os.environ["nnUNet_results"], plans["dataset_name"], name)


def _has_checkpoint(trainer: str, plans: dict[str, Any], configuration: str, fold: int | str) -> bool:
    return any((_model_folder(trainer, plans, configuration) / f"fold_{fold}").glob("checkpoint_*.pth"))
