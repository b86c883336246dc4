"""Every trainer and planner of this package by name, and where it lives."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

from nnunet_dino._errors import UserError, nearest

# The folder for nnUNet_extTrainer. It holds one module that re-exports our trainers, and nothing else.
EXTERNAL_TRAINERS = Path(__file__).parent / "ext_trainer"

_DINOV3 = "nnunet_dino.trainers.dinov3"
_TOKENS_ONLY = "nnunet_dino.trainers.tokens_only"
_MEDDINOV3 = "nnunet_dino.trainers.meddinov3"
_PRIOR = "nnunet_dino.trainers.prior"
_PLANNERS = "nnunet_dino.planners.dinov3"

_FULL_LENGTH_TRAINERS = {
    "nnUNetTrainerDINOv3Tiny": _DINOV3,
    "nnUNetTrainerDINOv3Tiny_Adam1en3": _DINOV3,
    "nnUNetTrainerDINOv3Tiny_LoRA": _DINOV3,
    "nnUNetTrainerDINOv3Tiny_FT": _DINOV3,
    "nnUNetTrainerDINOv3Tiny_TokensOnly": _TOKENS_ONLY,
    "nnUNetTrainerDINOv3S": _DINOV3,
    "nnUNetTrainerDINOv3S_Adam1en3": _DINOV3,
    "nnUNetTrainerDINOv3S_LoRA": _DINOV3,
    "nnUNetTrainerDINOv3S_FT": _DINOV3,
    "nnUNetTrainerDINOv3S_TokensOnly": _TOKENS_ONLY,
    "nnUNetTrainerDINOv3SPlus": _DINOV3,
    "nnUNetTrainerDINOv3SPlus_Adam1en3": _DINOV3,
    "nnUNetTrainerDINOv3SPlus_LoRA": _DINOV3,
    "nnUNetTrainerDINOv3SPlus_FT": _DINOV3,
    "nnUNetTrainerDINOv3SPlus_TokensOnly": _TOKENS_ONLY,
    "nnUNetTrainerDINOv3B": _DINOV3,
    "nnUNetTrainerDINOv3B_Adam1en3": _DINOV3,
    "nnUNetTrainerDINOv3B_LoRA": _DINOV3,
    "nnUNetTrainerDINOv3B_FT": _DINOV3,
    "nnUNetTrainerDINOv3B_TokensOnly": _TOKENS_ONLY,
    "nnUNetTrainerDINOv3L": _DINOV3,
    "nnUNetTrainerDINOv3L_Adam1en3": _DINOV3,
    "nnUNetTrainerDINOv3L_LoRA": _DINOV3,
    "nnUNetTrainerDINOv3L_FT": _DINOV3,
    "nnUNetTrainerDINOv3L_TokensOnly": _TOKENS_ONLY,
    "nnUNetTrainerDINOv3HPlus": _DINOV3,
    "nnUNetTrainerDINOv3HPlus_Adam1en3": _DINOV3,
    "nnUNetTrainerDINOv3HPlus_LoRA": _DINOV3,
    "nnUNetTrainerDINOv3HPlus_FT": _DINOV3,
    "nnUNetTrainerDINOv3HPlus_TokensOnly": _TOKENS_ONLY,
    "nnUNetTrainerMedDINOv3B": _MEDDINOV3,
    "nnUNetTrainerMedDINOv3B_DINOv3Init": _MEDDINOV3,
    "nnUNetTrainerPrior": _PRIOR,
    "nnUNetTrainerPrior_Adam1en3": _PRIOR,
}

# Each full-length trainer exists in these lengths as well, in the same module, e.g. nnUNetTrainerDINOv3S_LoRA_50epochs.
SHORT_RUNS = ("_5epochs", "_50epochs", "_250epochs")

TRAINERS: dict[str, str] = {
    name + length: module for name, module in _FULL_LENGTH_TRAINERS.items() for length in ("", *SHORT_RUNS)
}

PLANNERS: dict[str, str] = {
    "nnUNetPlannerDINOv3Tiny": _PLANNERS,
    "nnUNetPlannerDINOv3S": _PLANNERS,
    "nnUNetPlannerDINOv3SResEncM": _PLANNERS,
    "nnUNetPlannerDINOv3SResEncL": _PLANNERS,
    "nnUNetPlannerDINOv3B": _PLANNERS,
    "nnUNetPlannerDINOv3BResEncM": _PLANNERS,
    "nnUNetPlannerDINOv3BResEncL": _PLANNERS,
    "nnUNetPlannerDINOv3L": _PLANNERS,
    "nnUNetPlannerDINOv3LResEncM": _PLANNERS,
    "nnUNetPlannerDINOv3LResEncL": _PLANNERS,
}


def resolve(class_name: str) -> type | None:
    """Imports and returns the trainer or planner called ``class_name``; None if this package has none of that name.

    Raises:
        UserError: The module of the class cannot be imported, because a package is missing or broken.
    """
    module = TRAINERS.get(class_name) or PLANNERS.get(class_name)
    if module is None:
        return None
    try:
        return getattr(importlib.import_module(module), class_name)
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        raise UserError(
            f"{class_name} cannot be loaded: required that {module} imports · got {type(error).__name__}: {error} · "
            "run nnunet-dino doctor, which names the command that mends it"
        ) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a hint at the known name that differs only in upper and lower case, else at the closest one, else at the list."""
    known = list(known)
    same_letters = next((other for other in known if other.lower() == name.lower()), None)
    return nearest(same_letters or name, known) or f" · all names are in {__file__}"
