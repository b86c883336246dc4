"""What a data set's ``dataset.json`` says, and where its images and reference segmentations lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import existing_folder, read_json
from nnunet_dino.compare.summary_json import label_key


def read_dataset_json(file: Path) -> dict:
    """Reads a ``dataset.json``.

    Raises:
        UserError: It cannot be read or has no labels.
    """
    content = read_json(file, dict, "correct the file")
    ending = content.get("file_ending", "")
    if not isinstance(ending, str):
        raise UserError(f'{file}: required "file_ending" as text, such as ".nii.gz" · got {ending!r} · correct the file')
    try:
        label_names(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{file}: required "labels": {{"background": 0, …}} · got {str(content.get("labels"))[:60]} · correct the file'
        ) from error
    return content


def label_names(dataset_json: Mapping) -> dict[str, str]:
    """Returns the name of every label key, in the order of ``dataset.json``; without background and ignore label."""
    keys = {name: label_key(label) for name, label in dataset_json["labels"].items() if name not in ("background", "ignore")}
    return {key: name for name, key in keys.items()}


@dataclass(frozen=True)
class Pictures:
    """Finds the image and the reference segmentation of a case.

    Attributes:
        image_files: First channel of every case whose image is known.
        label_folders: Folders that may hold reference segmentations, most trusted first.
        label_files: Reference segmentations named one by one (data sets that list their files).
        file_ending: Ending of the files.
        missing: Why there are no images at all; None if there are some.
    """

    image_files: Mapping[str, Path]
    label_folders: tuple[Path, ...]
    label_files: Mapping[str, Path]
    file_ending: str
    missing: str | None = None

    def image(self, case: str) -> Path | None:
        file = self.image_files.get(case)
        return file if file and file.is_file() else None

    def reference(self, case: str) -> Path | None:
        files = [folder / f"{case}{self.file_ending}" for folder in self.label_folders]
        files += [self.label_files[case]] if case in self.label_files else []
        return next((file for file in files if file.is_file()), None)


def pictures_of_dataset(name: str) -> Pictures:
    """Finds images in ``$nnUNet_raw`` and references in ``$nnUNet_preprocessed`` (else ``labelsTr``) of a data set."""
    raw, preprocessed = existing_folder("nnUNet_raw"), existing_folder("nnUNet_preprocessed")
    folder = raw / name if raw else None
    labels = tuple(
        path
        for path in (
            preprocessed / name / "gt_segmentations" if preprocessed else None,
            folder / "labelsTr" if folder else None,
        )
        if path and path.is_dir()
    )
    if folder is None:
        return Pictures({}, labels, {}, ".nii.gz", "nnUNet_raw is not set, so that no images are found")
    if not (folder / "dataset.json").is_file():
        return Pictures({}, labels, {}, ".nii.gz", f"{folder} has no dataset.json, so that no images are found")
    content = read_dataset_json(folder / "dataset.json")
    ending = content.get("file_ending", ".nii.gz")
    if "dataset" in content:
        try:
            images = {case: _expanded(folder, files["images"][0]) for case, files in content["dataset"].items()}
            references = {case: _expanded(folder, files["label"]) for case, files in content["dataset"].items()}
        except (AttributeError, KeyError, IndexError, TypeError):
            return Pictures({}, labels, {}, ending, f'"dataset" in {folder / "dataset.json"} is not as nnU-Net wants it')
        return Pictures(images, labels, references, ending)
    images = first_channels(folder / "imagesTr", ending)
    missing = None if images else f"{folder / 'imagesTr'} holds no *_0000{ending}"
    return Pictures(images, labels, {}, ending, missing)


def first_channels(folder: Path, file_ending: str) -> dict[str, Path]:
    """Returns the first channel, ``CASE_0000.ending``, of every case in a folder."""
    suffix = f"_0000{file_ending}"
    return {file.name[: -len(suffix)]: file for file in sorted(folder.glob(f"*{suffix}"))}


def _expanded(folder: Path, path: str) -> Path:
    return folder / os.path.expandvars(path)
