"""nnU-Net's three folders and the data sets in them, checked before anything is computed or written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nnunet_dino._errors import UserError, nearest

PURPOSE = {
    "nnUNet_raw": "images and labels",
    "nnUNet_preprocessed": "plans and preprocessed data",
    "nnUNet_results": "trained models",
}


def command_to_set(variable: str) -> str:
    """Returns the shell command that sets one of nnU-Net's folder variables."""
    if os.name == "nt":
        return f'setx {variable} "%USERPROFILE%\\nnUNet\\{variable}"'
    return f'export {variable}="$HOME/nnUNet/{variable}"'


def require_folder(variable: str) -> Path:
    """Returns the folder that the environment variable ``variable`` names.

    Raises:
        UserError: The variable is unset, or names something that is not a folder.
    """
    value = os.environ.get(variable, "")
    if not value:
        raise UserError(f"{variable} is not set: required a folder for {PURPOSE[variable]} · run: {command_to_set(variable)}")
    if not Path(value).is_dir():
        raise UserError(f'{variable}: required an existing folder · got {value!r} · run: mkdir -p "{value}"')
    return Path(value)


def require_dataset(dataset: int | str) -> Path:
    """Returns the folder in ``nnUNet_raw`` of a data set, given by number or by its full name.

    Raises:
        UserError: There is no such data set, or several have its number.
    """
    raw = require_folder("nnUNet_raw")
    names = sorted(folder.name for folder in raw.glob("Dataset*") if folder.is_dir())
    number = str(dataset)
    prefix = f"Dataset{int(number):03d}_" if number.isdecimal() else ""
    found = [name for name in names if (name.startswith(prefix) if prefix else name == dataset)]
    if len(found) > 1:
        raise UserError(
            f"data set {dataset}: required one folder {prefix}* in {raw} · got {', '.join(found)} · rename the others"
        )
    if not found:
        have = f"it has {', '.join(names)}" if names else "it has no data set"
        raise UserError(
            f"unknown data set: required a folder {prefix + '*' if prefix else 'of that name'} in nnUNet_raw ({raw}) · "
            f"got {dataset!r}, {have}{nearest(number, names)}"
        )
    return raw / found[0]


def require_labels(folder: Path) -> dict[str, Any]:
    """Returns the ``dataset.json`` of the data set in ``folder``, which has labels.

    Raises:
        UserError: The file is missing, is not JSON, or names no labels; or no training case has a label file.
    """
    file = folder / "dataset.json"
    if not file.is_file():
        raise UserError(
            f"{folder.name}: required {file} · it does not exist · write one as nnU-Net's dataset_format.md describes"
        )
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: required valid JSON · got: {error} · correct the file") from error
    labels = description.get("labels") if isinstance(description, dict) else None
    if not isinstance(labels, dict) or not set(labels) - {"background", "ignore"}:
        raise UserError(f'{file}: required "labels" with at least one class beside the background · got {labels!r} · add them')
    if not _has_label_files(folder, description):
        raise UserError(
            f"{folder.name}: required label images in {folder / 'labelsTr'} · got none · put one there for each case"
        )
    return description


def _has_label_files(folder: Path, description: dict[str, Any]) -> bool:
    if isinstance(description.get("dataset"), dict):
        return any(case.get("label") for case in description["dataset"].values())
    ending = str(description.get("file_ending", ""))
    return any(file.name.endswith(ending) for file in (folder / "labelsTr").glob("*") if file.is_file())
