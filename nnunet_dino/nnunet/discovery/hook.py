"""The extended class look-up: our names first, then nnU-Net's own search, then one clear line."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from nnunet_dino._errors import UserError
from nnunet_dino.nnunet.command_errors import report_in_one_line
from nnunet_dino.nnunet.discovery.registry import PLANNERS, TRAINERS, did_you_mean, resolve

# Where nnU-Net starts to look for what -tr and -pl name. In 2.7 the search calls itself by its global name with deeper
# modules, so that "not found" is final only at these roots.
SEARCH_ROOTS: dict[str | None, tuple[str, Iterable[str]]] = {
    "nnunetv2.training.nnUNetTrainer": ("trainer", TRAINERS),
    "nnunetv2.experiment_planning": ("planner", PLANNERS),
}


def extended(search: Callable[..., Any]) -> Callable[..., Any]:
    """Returns nnU-Net's ``recursive_find_python_class`` with our classes in front of it."""

    @functools.wraps(search)
    def recursive_find_python_class(folder: str, class_name: str, current_module: str | None, *args: Any, **kwargs: Any) -> Any:
        found = resolve(class_name)
        if found is None:
            found = search(folder, class_name, current_module, *args, **kwargs)
            check_our_plans(found)
        if found is None and "dino" in class_name.lower():
            _refuse_if_search_is_over(folder, class_name, current_module)
        return found

    recursive_find_python_class.extended_by_nnunet_dino = True  # type: ignore[attr-defined]
    return recursive_find_python_class


def install(module: ModuleType) -> None:
    """Extends the look-up of ``module`` (nnU-Net's ``find_class_by_name``) in it and in modules that bound it already."""
    search = module.recursive_find_python_class
    if getattr(search, "extended_by_nnunet_dino", False):
        return
    report_in_one_line()
    replacement = extended(search)
    module.recursive_find_python_class = replacement  # type: ignore[attr-defined]
    for other in list(sys.modules.values()):
        # Plain modules only: looking into a lazy one would import it.
        if type(other) is ModuleType and vars(other).get("recursive_find_python_class") is search:
            other.recursive_find_python_class = replacement  # type: ignore[attr-defined]


def check_our_plans(trainer: type | None) -> None:
    """Lets a trainer of nnU-Net's own refuse plans with our network that cannot work, before it makes a folder for results."""
    base = next((cls for cls in getattr(trainer, "__mro__", ()) if cls.__name__ == "nnUNetTrainer"), None)
    if base is None or hasattr(base.__init__, "__wrapped__"):
        return
    start = base.__init__

    @functools.wraps(start)  # nnU-Net reads the signature
    def __init__(self: Any, plans: Any, configuration: str, fold: Any, dataset_json: Any, *args: Any, **kwargs: Any) -> None:
        if "nnunet_dino.networks." in str(plans) and not hasattr(self, "network_class"):
            import torch

            from nnunet_dino.nnunet.checks import check_training
            from nnunet_dino.nnunet.predictor import forget_slices_after_every_image
            from nnunet_dino.nnunet.pretrained import install_loader

            device = kwargs.get("device", args[0] if args else torch.device("cuda"))
            check_training(type(self).__name__, plans, configuration, fold, dataset_json, device)
            forget_slices_after_every_image()
            install_loader()
        start(self, plans, configuration, fold, dataset_json, *args, **kwargs)

    base.__init__ = __init__


def _refuse_if_search_is_over(folder: str, class_name: str, current_module: str | None) -> None:
    """Raises :class:`UserError` unless nnU-Net will still look elsewhere or looks for something that is not ours."""
    external = _external_trainer_folders()
    if current_module in SEARCH_ROOTS:
        kind, known = SEARCH_ROOTS[current_module]
        if kind == "trainer" and external:
            return
    elif current_module is None and external and folder == external[-1]:
        kind, known = "trainer", TRAINERS
    else:
        return
    own = " · if it is one of your own, as a checkpoint may name it, set nnUNet_extTrainer to the folder of its file"
    raise UserError(
        f"unknown {kind}: required one that nnU-Net or nnunet-dino has · got {class_name!r}"
        f"{did_you_mean(class_name, known)}{own if kind == 'trainer' else ''}"
    )


def _external_trainer_folders() -> list[str]:
    """Folders that nnU-Net (2.8 and later) searches after its own; none where it knows no such setting."""
    if not hasattr(sys.modules.get("nnunetv2.paths"), "nnUNet_extTrainer"):
        return []
    folders = os.environ.get("nnUNet_extTrainer", "").split(os.pathsep)
    return [folder for folder in folders if folder.strip() and os.path.exists(folder)]
