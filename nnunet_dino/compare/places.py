"""Where things lie: nnU-Net's folders, a data set's name, its label names, its images and reference segmentations."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.compare.summary_json import label_key

FOLDER_VARIABLES = ("nnUNet_results", "nnUNet_preprocessed", "nnUNet_raw")


def nnunet_folder(variable: str) -> Path | None:
    """Returns the folder an environment variable of nnU-Net names, if it is set and exists."""
    value = os.environ.get(variable)
    return Path(value) if value and Path(value).is_dir() else None


def results_folder() -> Path:
    """Returns ``$nnUNet_results``.

    Raises:
        UserError: It is unset or no folder.
    """
    value = os.environ.get("nnUNet_results")
    if not value:
        raise UserError(
            "the folder of nnU-Net's results required · got no environment variable nnUNet_results · "
            "`export nnUNet_results=/path/to/nnUNet_results`, or compare folders with --folder"
        )
    if not Path(value).is_dir():
        raise UserError(f"an existing folder required · got nnUNet_results={value} · correct the environment variable")
    return Path(value)


def dataset_name(dataset: str | int) -> str:
    """Returns ``DatasetXXX_NAME`` for an id (``9``, ``"009"``) or a full name.

    Raises:
        UserError: No such data set in nnU-Net's folders, or several with this id.
    """
    roots = [root for root in map(nnunet_folder, FOLDER_VARIABLES) if root]
    known = sorted({path.name for root in roots for path in root.glob("Dataset*_*") if path.is_dir()})
    text = str(dataset).strip()
    if text in known:
        return text
    if re.fullmatch(r"\d+", text):
        found = [name for name in known if _id_of(name) == int(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"one data set with id {text} required · got {', '.join(found)} · give the full name to -d")
    hint = nearest(_padded(text), known)
    have = f"known are {', '.join(known[:8])}{' …' if len(known) > 8 else ''}" if known else "no data set is known"
    raise UserError(f"id or name of a data set in nnU-Net's folders required · got {text!r}{hint} · {have}")


def _id_of(name: str) -> int | None:
    match = re.match(r"Dataset(\d+)_", name)
    return int(match.group(1)) if match else None


def _padded(text: str) -> str:
    return f"Dataset{int(text):03d}_" if re.fullmatch(r"\d+", text) else text


def read_dataset_json(file: Path) -> dict:
    """Reads a ``dataset.json``.

    Raises:
        UserError: It cannot be read or has no labels.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        label_names(content)
    except OSError as error:
        raise UserError(f"a dataset.json required · got {file}: {error.strerror} · check the path") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'a dataset.json with "labels": {{"background": 0, …}} required · got {file} ({type(error).__name__}: {error}) · '
            "correct the file"
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
    raw, preprocessed = nnunet_folder("nnUNet_raw"), nnunet_folder("nnUNet_preprocessed")
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
        listed = content["dataset"]
        images = {case: _expanded(folder, files["images"][0]) for case, files in listed.items()}
        return Pictures(images, labels, {case: _expanded(folder, files["label"]) for case, files in listed.items()}, ending)
    images = first_channels(folder / "imagesTr", ending)
    missing = None if images else f"{folder / 'imagesTr'} holds no *_0000{ending}"
    return Pictures(images, labels, {}, ending, missing)


def first_channels(folder: Path, file_ending: str) -> dict[str, Path]:
    """Returns the first channel, ``CASE_0000.ending``, of every case in a folder."""
    suffix = f"_0000{file_ending}"
    return {file.name[: -len(suffix)]: file for file in sorted(folder.glob(f"*{suffix}"))}


def _expanded(folder: Path, path: str) -> Path:
    return folder / os.path.expandvars(path)
