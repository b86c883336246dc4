"""A model that needs no weights beside it: the backbone is put into copies of its checkpoints."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from nnunet_dino._checkpoints import read_checkpoint
from nnunet_dino._errors import UserError
from nnunet_dino._files import write_atomically
from nnunet_dino._nnunet_folders import FACTS_FILE
from nnunet_dino.backbones import weights as weight_files
from nnunet_dino.backbones.adapted import RECORD_KEY, decode_record

NEEDED = ("plans.json", "dataset.json")
ALSO = ("dataset_fingerprint.json",)
ALSO_OF_FOLD = ("debug.json", "progress.png", FACTS_FILE, "validation/summary.json")


def export_model(
    model: Path,
    target: Path,
    checkpoint: str = "checkpoint_final.pth",
    overwrite: bool = False,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = lambda folds: folds,
) -> Path:
    """Writes a self-contained zip of a trained model, for ``nnUNetv2_install_pretrained_model_from_zip``.

    Args:
        model: A folder ``…/DatasetXXX_NAME/TRAINER__PLANS__CONFIGURATION``.
        target: The file to write, ``….zip``.
        checkpoint: Name of the checkpoint of every fold.
        overwrite: Replace ``target`` if it exists.
        progress: Wraps the folds, for a progress bar.

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

    def write(path: str) -> None:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
            TemporaryDirectory(dir=target.absolute().parent) as room,
        ):
            for name in (*NEEDED, *ALSO):
                if (model / name).is_file():
                    archive.write(model / name, inside / name)
            for fold in progress(folds):
                full = Path(room, checkpoint)
                content = read_checkpoint(fold / checkpoint)
                weights = embed_backbone(content["network_weights"], fold / checkpoint)
                torch.save({**content, "network_weights": weights}, full)
                archive.write(full, inside / fold.name / checkpoint)
                for name in ALSO_OF_FOLD:
                    if (fold / name).is_file():
                        archive.write(fold / name, inside / fold.name / name)

    write_atomically(str(target), write)
    return target


def embed_backbone(network_weights: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Returns network weights in which the record of a backbone is replaced by the backbone's own weights.

    Weights that hold everything already are returned as they are.

    Args:
        network_weights: What a checkpoint holds.
        source: The checkpoint, for messages.

    Raises:
        UserError: the record cannot be read, or the weights are not on this machine or are others than the recorded ones.
    """
    record = next((key for key in network_weights if key.endswith(f".{RECORD_KEY}")), None)
    if record is None:
        return network_weights
    try:
        name, digest = decode_record(network_weights[record])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{source}: required the name and digest of a backbone in {record} · got something else ({error}) · "
            "use a checkpoint that nnU-Net wrote"
        ) from error
    if weight_files.locate(name) is None:
        raise UserError(weight_files.missing_weights_message(name, digest))
    loaded = weight_files.load(name)
    if loaded.digest != digest:
        raise UserError(
            f"export: required {name} weights with digest {digest} · got {loaded.digest} from {loaded.source} · "
            f"set {weight_files.ENVIRONMENT_VARIABLE} to the file the model was trained with"
        )
    prefix = f"{record.removesuffix(RECORD_KEY)}backbone.vit."
    result = {key: value for key, value in network_weights.items() if key != record}
    for key, tensor in loaded.state.items():
        module, _, parameter = key.rpartition(".")
        has_adapter = f"{prefix}{module}.lora_A.default.weight" in network_weights
        result[f"{prefix}{module}.base_layer.{parameter}" if has_adapter else prefix + key] = tensor.clone()
    return result


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
