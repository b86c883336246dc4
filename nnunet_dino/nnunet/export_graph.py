"""A trained model as graphs that need neither nnU-Net nor this package: ONNX, or a program of ``torch.export``."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunet_dino._checkpoints import read_checkpoint
from nnunet_dino._errors import UserError
from nnunet_dino._files import write_atomically
from nnunet_dino._nnunet_folders import read_json
from nnunet_dino.backbones.timm_models import constant_positions
from nnunet_dino.nnunet.export import build_network, find_trainer, trained_folds

ONNX, TORCH_EXPORT = "onnx", "torch-export"
SUFFIXES = {ONNX: ".onnx", TORCH_EXPORT: ".pt2"}
FACTS = "preprocessing.json"
OPSET, IMAGE, LOGITS = 17, "image", "logits"


def export_graphs(
    model: Path,
    target: Path,
    kind: str,
    checkpoint: str = "checkpoint_final.pth",
    overwrite: bool = False,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = lambda folds: folds,
) -> list[Path]:
    """Writes one graph a fold and, beside them, what has to be done to an image before and after.

    A graph computes in float32 and takes one patch of the planned size, ``1 c d h w`` (``1 c h w`` in 2D); it returns the
    logits, ``1 classes d h w``. Adapters are merged into the backbone.

    Args:
        model: A folder ``…/DatasetXXX_NAME/TRAINER__PLANS__CONFIGURATION``.
        target: The folder to write ``fold_0.onnx`` and so on into, and ``preprocessing.json``.
        kind: ``"onnx"`` or ``"torch-export"``.
        checkpoint: Name of the checkpoint of every fold.
        overwrite: Replace files in ``target``.
        progress: Wraps the folds, for a progress bar.

    Returns:
        The graphs.

    Raises:
        UserError: The folder is not a trained model, its trainer or weights are not there, ``target`` holds such files or
            is a file, or the packages that write ONNX are missing.
    """
    if kind == ONNX:
        _require_onnx()
    model = model.absolute()
    folds = trained_folds(model, checkpoint)
    files = {fold: target / f"{fold.name}{SUFFIXES[kind]}" for fold in folds}
    if there := [path for path in (*files.values(), target / FACTS) if path.exists() and not overwrite]:
        raise UserError(f"export: required a folder without {there[0].name} · got {target} · name another or add --overwrite")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"-o: required a folder · got {target}: {error.strerror} · name another") from error
    for fold in progress(folds):
        network, plans, facts = _load(model, fold / checkpoint)
        example = torch.zeros(1, facts["num_channels"], *plans.patch_size)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what tracing says of constants, whose sizes are fixed here on purpose
            write_atomically(files[fold], lambda path: _WRITERS[kind](network, example, path), overwrite=overwrite)  # noqa: B023
    text = json.dumps(facts, indent=2) + "\n"
    write_atomically(target / FACTS, lambda path: Path(path).write_text(text), overwrite=overwrite)
    return list(files.values())


def _load(model: Path, checkpoint: Path) -> tuple[nn.Module, ConfigurationManager, dict[str, Any]]:
    """Builds the network of a fold as nnU-Net's predictor does, and returns it with its plans and what to write beside it."""
    content = read_checkpoint(checkpoint)
    plans, dataset = PlansManager(read_json(model / "plans.json", dict)), read_json(model / "dataset.json", dict)
    name, arguments = content.get("trainer_name"), content.get("init_args")
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise UserError(f"{checkpoint}: required a checkpoint of nnU-Net · got one without trainer_name · use another")
    configuration = plans.get_configuration(arguments["configuration"])
    if (trainer := find_trainer(name)) is None:
        raise UserError(
            f"{checkpoint}: required the trainer {name} · got none of that name · set nnUNet_extTrainer to its folder"
        )
    network, (num_channels, _) = build_network(trainer, plans, configuration, dataset)
    network.load_state_dict(content["network_weights"])
    for module in network.modules():
        if hasattr(module, "lora_A"):
            module.merge()
    facts = {
        "trainer": name,
        "num_channels": num_channels,
        "patch_size": list(configuration.patch_size),
        "spacing_mm": list(configuration.spacing),
        "transpose_forward": list(plans.transpose_forward),
        "transpose_backward": list(plans.transpose_backward),
        "normalization_schemes": list(configuration.normalization_schemes),
        "intensities_per_channel": plans.foreground_intensity_properties_per_channel,
        "mirroring_axes": content.get("inference_allowed_mirroring_axes"),
        "labels": dataset["labels"],
        "regions_class_order": dataset.get("regions_class_order"),
        "input": IMAGE,
        "output": LOGITS,
    }
    return network.eval(), configuration, facts


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise UserError("--onnx: required the package onnx · got none · run: pip install 'nnunet-dino[onnx]'") from error


def _write_onnx(network: nn.Module, example: Tensor, path: str) -> None:
    names = {"input_names": [IMAGE], "output_names": [LOGITS]}
    with constant_positions():
        with torch.no_grad(), patch.dict(os.environ, nnUNet_dino_precision="float32"):
            network(example)
        torch.onnx.export(network, (example,), path, opset_version=OPSET, dynamo=False, **names)


def _write_program(network: nn.Module, example: Tensor, path: str) -> None:
    with open(path, "wb") as file:
        torch.export.save(torch.export.export(network, (example,), strict=False), file)


_WRITERS: dict[str, Callable[[nn.Module, Tensor, str], None]] = {ONNX: _write_onnx, TORCH_EXPORT: _write_program}
