"""A model that needs no weights beside it: the backbone is put into copies of its checkpoints."""

from __future__ import annotations

import copy
import json
import pydoc
import re
import zipfile
from collections.abc import Callable, Iterable
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_dino._checkpoints import read_checkpoint
from nnunet_dino._errors import UserError
from nnunet_dino._files import write_atomically
from nnunet_dino._nnunet_folders import FACTS_FILE, read_json
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.networks.options_record import recorded_entry
from nnunet_dino.nnunet.discovery.registry import resolve
from nnunet_dino.nnunet.plans import dino_architecture
from nnunet_dino.nnunet.presets import DINOV3_UNET, MEDDINOV3, TOKENS_ONLY
from nnunet_dino.nnunet.whole_weights import embed_backbone

PLANS, DATASET = NEEDED = ("plans.json", "dataset.json")
ALSO = ("dataset_fingerprint.json",)
ALSO_OF_FOLD = ("debug.json", "progress.png", FACTS_FILE, "validation/summary.json")


def export_model(
    model: Path,
    target: Path,
    checkpoint: str = "checkpoint_final.pth",
    overwrite: bool = False,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = lambda folds: folds,
    say: Callable[[str], object] = print,
) -> Path:
    """Writes a self-contained zip of a trained model, for ``nnUNetv2_install_pretrained_model_from_zip``.

    A model of a trainer that neither nnU-Net nor this package has is written so that it needs no such trainer, if its network
    is one of this package or nnU-Net's: the plans in the zip describe the network, and the checkpoints name nnU-Net's trainer.

    Args:
        model: A folder ``…/DatasetXXX_NAME/TRAINER__PLANS__CONFIGURATION``.
        target: The file to write, ``….zip``.
        checkpoint: Name of the checkpoint of every fold.
        overwrite: Replace ``target`` if it exists.
        progress: Wraps the folds, for a progress bar.
        say: Gets a line for a model that goes on needing its trainer.

    Returns:
        ``target``.

    Raises:
        UserError: the folder is not a trained model, ``target`` exists or is called otherwise, or the weights are missing.
    """
    if target.suffix.lower() != ".zip":
        raise UserError(f"-o: required a name that ends in .zip · got {target} · name another")
    model = model.absolute()
    folds = trained_folds(model, checkpoint)
    if target.exists() and not overwrite:
        raise UserError(f"export: required a new file · got {target}, which exists · name another or add --overwrite")
    inside = Path(model.parent.name, model.name)
    plans, trainer = _without_own_trainer(model, read_checkpoint(folds[0] / checkpoint, memory_map=True), say)

    def write(path: str) -> None:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
            TemporaryDirectory(dir=target.absolute().parent) as room,
        ):
            for name in (DATASET, *ALSO):
                if (model / name).is_file():
                    archive.write(model / name, inside / name)
            archive.writestr(str(inside / PLANS), plans)
            for fold in progress(folds):
                full = Path(room, checkpoint)
                content = read_checkpoint(fold / checkpoint)
                weights = embed_backbone(content["network_weights"], fold / checkpoint)
                torch.save({**content, **trainer, "network_weights": weights}, full)
                archive.write(full, inside / fold.name / checkpoint)
                for name in ALSO_OF_FOLD:
                    if (fold / name).is_file():
                        archive.write(fold / name, inside / fold.name / name)

    write_atomically(str(target), write)
    return target


def trained_folds(model: Path, checkpoint: str) -> list[Path]:
    """Returns the folders of the folds that have ``checkpoint``.

    Raises:
        UserError: ``model`` is no trained model, or no fold has one.
    """
    if missing := [name for name in NEEDED if not (model / name).is_file()]:
        raise UserError(
            f"export: required a model folder …/DatasetXXX_NAME/TRAINER__PLANS__CONFIGURATION · got {model} without "
            f"{' and '.join(missing)} · check the path"
        )
    folds = sorted(path.parent for path in model.glob(f"fold_*/{checkpoint}"))
    if not folds:
        raise UserError(
            f"export: required {checkpoint} in at least one fold of {model} · got none · train first, or name another -chk"
        )
    return folds


def find_trainer(name: str) -> Any:
    """Returns the trainer class that nnU-Net's predictor finds: of this package, nnU-Net or the user; None if none is."""
    if (ours := resolve(name)) is not None:
        return ours
    try:
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
    except ImportError:  # nnU-Net 2.7
        import nnunetv2

        root = Path(nnunetv2.__path__[0], "training", "nnUNetTrainer")
        return recursive_find_python_class(str(root), name, "nnunetv2.training.nnUNetTrainer")
    try:
        return find(name)
    except RuntimeError:
        return None


def build_network(
    trainer: Any, plans: PlansManager, configuration: ConfigurationManager, dataset: dict[str, Any]
) -> tuple[nn.Module, tuple[int, int]]:
    """Builds a network as nnU-Net's predictor does, and returns it with its numbers of input and output channels."""
    inputs = determine_num_input_channels(plans, configuration, dataset)
    outputs = plans.get_label_manager(dataset).num_segmentation_heads
    build = trainer.build_network_architecture
    if "plans_manager" in signature(build).parameters:
        return build(plans, configuration, inputs, outputs, False), (inputs, outputs)
    entry = (configuration.network_arch_class_name, configuration.network_arch_init_kwargs)
    requires = configuration.network_arch_init_kwargs_req_import
    return build(*entry, requires, inputs, outputs, False), (inputs, outputs)


def _without_own_trainer(model: Path, checkpoint: dict[str, Any], say: Callable[[str], object]) -> tuple[bytes, dict[str, str]]:
    """Returns the content of ``plans.json`` and the trainer's name, for a machine without the trainer.

    Both are as they were if nnU-Net or this package has the trainer, and if its network cannot be described by plans.
    """
    text = (model / PLANS).read_bytes()
    name, arguments = checkpoint.get("trainer_name"), checkpoint.get("init_args")
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return text, {}
    try:
        trainer = find_trainer(name)
        if trainer is None:
            raise UserError("not found here")
        if trainer.__module__.split(".")[0] in ("nnunetv2", "nnunet_dino"):
            return text, {}
        plans = _plans_that_describe(trainer, model, arguments["configuration"])
    except Exception as error:  # whatever a class of the user's runs into
        reason = " ".join(str(error).split()) or type(error).__name__
        say(f"{name}: {reason}, so the model goes on needing it · pass its file on with the model and say nnUNet_extTrainer")
        return text, {}
    return json.dumps(plans, indent=4).encode(), {"trainer_name": "nnUNetTrainer"}


def _plans_that_describe(trainer: Any, model: Path, name: str) -> dict[str, Any]:
    """Returns the model's plans with the network that ``trainer`` builds for a configuration.

    Networks count as the same if they print alike and their parameters are as large.

    Raises:
        UserError: Plans build another network.
    """
    plans, dataset = read_json(model / PLANS, dict), read_json(model / DATASET, dict)
    manager = PlansManager(copy.deepcopy(plans))
    configuration = manager.get_configuration(name)
    network, sizes = build_network(trainer, manager, configuration, dataset)
    architecture = copy.deepcopy(configuration.configuration["architecture"])
    for path in (DINOV3_UNET, TOKENS_ONLY, MEDDINOV3):
        if type(network) is pydoc.locate(path):
            architecture = dino_architecture(architecture, path, DinoOptions.from_plans(recorded_entry(network.slice_encoder)))
    wanted = _described(network)
    del network  # two large ones at a time may not fit
    entry = (architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"])
    if _described(get_network_from_plans(*entry, *sizes, allow_init=False, deep_supervision=False)) != wanted:
        raise UserError("builds a network that plans cannot describe")
    plans["configurations"][name]["architecture"] = architecture
    return plans


def _described(network: nn.Module) -> tuple[str, dict[str, torch.Size]]:
    """Returns what a network does at prediction, as far as it can be told without running it."""
    layers = re.sub(r"DropPath\([^)]*\)", "Identity()", repr(network))
    return layers, {name: parameter.shape for name, parameter in network.named_parameters()}
