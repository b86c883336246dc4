"""From the name of a trainer or planner of this package to its class."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.nnunet import presets
from nnunet_dino.nnunet.presets import NEURON_CLASSES, PLANNERS, TRAINERS

# The folder for nnUNet_extTrainer. It holds one module that re-exports our trainers, and nothing else.
EXTERNAL_TRAINERS = Path(__file__).parent / "ext_trainer"


def resolve(class_name: str) -> type | None:
    """Returns the trainer, planner, label manager or preprocessor called ``class_name``; None if this package has none.

    Raises:
        UserError: The class cannot be made, because a package that it needs is missing or broken.
    """
    if class_name not in TRAINERS and class_name not in PLANNERS and class_name not in NEURON_CLASSES:
        return None
    try:
        from nnunet_dino.nnunet.classes import neuron_class, planner_class, trainer_class

        if class_name in NEURON_CLASSES:
            return neuron_class(class_name)
        return trainer_class(class_name) if class_name in TRAINERS else planner_class(class_name)
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        raise UserError(
            f"{class_name} cannot be loaded: required that its packages import · got {type(error).__name__}: {error} · "
            "run nnunet-dino doctor, which names the command that mends it"
        ) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a hint at the known name that differs only in upper and lower case, else at the closest one, else at the list."""
    known = list(known)
    same_letters = next((other for other in known if other.lower() == name.lower()), None)
    return nearest(same_letters or name, known) or f" · all names are made in {presets.__file__}"
