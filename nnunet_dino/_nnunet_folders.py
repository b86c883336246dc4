"""nnU-Net's three folders and the data sets in them, checked before anything is computed or written."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_dino._errors import UserError, nearest

PURPOSE = {
    "nnUNet_raw": "images and labels",
    "nnUNet_preprocessed": "plans and preprocessed data",
    "nnUNet_results": "trained models",
}


FACTS_FILE = "nnunet_dino.json"
"""Written by this package's trainers into the fold's output folder when training starts."""


def command_to_set(variable: str) -> str:
    """Returns the shell command that sets one of nnU-Net's folder variables."""
    if os.name == "nt":
        return f'setx {variable} "%USERPROFILE%\\nnUNet\\{variable}"'
    return f'export {variable}="$HOME/nnUNet/{variable}"'


def existing_folder(variable: str) -> Path | None:
    """Returns the folder that an environment variable of nnU-Net names, if it is set and exists."""
    value = os.environ.get(variable, "")
    return Path(value) if value and Path(value).is_dir() else None


def require_folder(variable: str) -> Path:
    """Returns the folder that the environment variable ``variable`` names.

    Raises:
        UserError: The variable is unset, or names something that is not a folder.
    """
    path = _require_set(variable)
    if not path.is_dir():
        raise UserError(f'{variable}: required an existing folder · got {str(path)!r} · run: mkdir -p "{path}"')
    return path


def require_writable(variable: str) -> Path:
    """Returns the folder that the environment variable ``variable`` names; it may still have to be made.

    Raises:
        UserError: The variable is unset, or files cannot be written there.
    """
    path = _require_set(variable)
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(
            f"{variable}: required a folder that can be written · got {path} · change its permissions, or name another folder "
            f"in {variable}"
        )
    return path


def _require_set(variable: str) -> Path:
    value = os.environ.get(variable, "")
    if not value:
        raise UserError(f"{variable} is not set: required a folder for {PURPOSE[variable]} · run: {command_to_set(variable)}")
    return Path(value)


def require_dataset(dataset: int | str) -> Path:
    """Returns the folder in ``nnUNet_raw`` of a data set, given by number or by its full name.

    Raises:
        UserError: There is no such data set, or several have its number.
    """
    return require_folder("nnUNet_raw") / dataset_name(dataset, ["nnUNet_raw"])


def dataset_name(dataset: int | str, variables: Sequence[str] = tuple(PURPOSE)) -> str:
    """Returns ``DatasetXXX_NAME`` of a data set, given by number or by its full name.

    Args:
        dataset: Number or name.
        variables: The folders of nnU-Net to look in; those that do not exist are left out.

    Raises:
        UserError: There is no such data set, or several have its number.
    """
    roots = [root for root in map(existing_folder, variables) if root]
    names = sorted({folder.name for root in roots for folder in root.glob("Dataset*_*") if folder.is_dir()})
    number = str(dataset).strip()
    prefix = f"Dataset{int(number):03d}_" if number.isdecimal() else ""
    found = [name for name in names if (name.startswith(prefix) if prefix else name == number)]
    where = str(roots[0]) if len(roots) == 1 else "nnU-Net's folders"
    if len(found) > 1:
        raise UserError(
            f"data set {dataset}: required one folder {prefix}* in {where} · got {', '.join(found)} · rename the others"
        )
    if not found:
        shown = f"{', '.join(names[:8])}{' …' if len(names) > 8 else ''}" if names else "no data set"
        raise UserError(
            f"unknown data set: required a folder {prefix + '*' if prefix else 'of that name'} in {where} · got {dataset!r}, "
            f"it has {shown}{nearest(prefix or number, names)}"
        )
    return found[0]


def read_json(path: Path, kind: type, remedy: str = "restore or delete the file") -> Any:
    """Returns the content of a JSON file, a ``kind``.

    Raises:
        UserError: It cannot be read, is not JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: required valid JSON · got {reason} · {remedy}") from error
    if not isinstance(content, kind):
        raise UserError(f"{path}: required a JSON {kind.__name__} · got {str(content)[:60]} · {remedy}")
    return content


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
    description = read_json(file, dict, "correct the file")
    labels = description.get("labels")
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
