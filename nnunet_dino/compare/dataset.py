"""What a data set's ``dataset.json`` says, and where its images and reference segmentations lie."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import existing_folder, read_json
from nnunet_dino.compare.kinds import kind_of
from nnunet_dino.compare.records import Pictures
from nnunet_dino.compare.summary_json import label_key
from nnunet_dino.em.score_folder import TITLES


def read_dataset_json(file: Path) -> dict:
    """Reads a ``dataset.json``; ``file_ending`` is in what is returned even if the file does not name it.

    Raises:
        UserError: It cannot be read or has no labels.
    """
    content = {"file_ending": ".nii.gz", **read_json(file, dict, "correct the file")}
    ending = content["file_ending"]
    if not isinstance(ending, str):
        raise UserError(f'{file}: required "file_ending" as text, such as ".nii.gz" · got {ending!r} · correct the file')
    try:
        label_names(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{file}: required "labels": {{"background": 0, …}} · got {str(content.get("labels"))[:60]} · correct the file'
        ) from error
    return content


def label_names(dataset_json: dict) -> dict[str, str]:
    """Returns the name of every label key, in the order of ``dataset.json``; without background and ignore label."""
    labels = dataset_json["labels"].items()
    return {label_key(label): name for name, label in labels if name not in ("background", "ignore")}


def ignore_label(dataset_json: dict) -> int | None:
    """Returns the value that nothing is learnt of, if there is one."""
    return dataset_json.get("labels", {}).get("ignore")


def in_order(dice: pd.DataFrame, dataset_json: dict) -> tuple[pd.DataFrame, dict[str, str]]:
    """Returns columns of label keys as ``dataset.json`` lists them, and their names; it may be empty. Scores of neurons have
    names of their own."""
    if kind_of(dice.columns).headline is not None:
        return dice, dict(TITLES)
    names = label_names(dataset_json) if dataset_json else {}
    order = [key for key in names if key in dice.columns] + [key for key in dice.columns if key not in names]
    return dice[order], {key: names.get(key, f"label {key}") for key in order}


def pictures_of_dataset(name: str) -> Pictures:
    """Finds images in ``$nnUNet_raw`` and references in ``$nnUNet_preprocessed`` (else ``labelsTr``) of a data set."""
    raw, preprocessed = existing_folder("nnUNet_raw"), existing_folder("nnUNet_preprocessed")
    description: dict = {"file_ending": ".nii.gz"}
    missing = "nnUNet_raw is not set, so that no images are found"
    folder = (raw or Path()) / name
    if raw and (folder / "dataset.json").is_file():
        description, missing = read_dataset_json(folder / "dataset.json"), ""
    elif raw:
        missing = f"{folder} has no dataset.json, so that no images are found"
    ending = description["file_ending"]
    references = files_by_case(folder / "labelsTr", ending) if raw else {}
    references |= files_by_case(preprocessed / name / "gt_segmentations", ending) if preprocessed else {}
    if missing:
        return Pictures({}, references, missing)
    if "dataset" not in description:
        return pictures_in(folder / "imagesTr", ending, references)
    try:
        images = {case: _expanded(folder, files["images"][0]) for case, files in description["dataset"].items()}
        labels = {case: _expanded(folder, files["label"]) for case, files in description["dataset"].items()}
    except (AttributeError, KeyError, IndexError, TypeError):
        return Pictures({}, references, f'"dataset" in {folder / "dataset.json"} is not as nnU-Net wants it')
    return Pictures(images, labels | references)


def pictures_in(folder: Path, file_ending: str, references: dict[str, Path]) -> Pictures:
    """Takes the first channel, ``CASE_0000.ending``, of every case in a folder."""
    images = files_by_case(folder, f"_0000{file_ending}")
    return Pictures(images, references, None if images else f"{folder} holds no *_0000{file_ending}")


def files_by_case(folder: Path, ending: str) -> dict[str, Path]:
    """Returns the files with an ending by what their names are without it."""
    return {file.name.removesuffix(ending): file for file in sorted(folder.glob(f"*{ending}"))}


def _expanded(folder: Path, path: str) -> Path:
    return folder / os.path.expandvars(path)
