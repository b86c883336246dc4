"""Comparing results of a data set, or folders of predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import dataset_name, require_folder
from nnunet_dino.compare.blocks import by_block
from nnunet_dino.compare.comparison import compare_entries
from nnunet_dino.compare.dataset import files_by_case, ignore_label, pictures_in, pictures_of_dataset
from nnunet_dino.compare.read_folders import read_folders
from nnunet_dino.compare.read_results import dataset_json_of, read_results
from nnunet_dino.compare.records import Comparison, Pictures

OUTPUT_NAME = "nnunet_dino_compare"


@contextmanager
def _naming_unreadable_files() -> Iterator[None]:
    """Turns an error of the system while files are looked for and read into one that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"required files that can be read · got {error.filename}: {error.strerror or error} · change its permissions"
        ) from error


@_naming_unreadable_files()
def compare_results(
    dataset: str | int,
    *,
    trainers: Sequence[str] = (),
    plans: Sequence[str] = (),
    configurations: Sequence[str] = (),
    folds: Sequence[str | int] = (),
    baseline: str | None = None,
    common: bool = False,
    block: Sequence[int] | None = None,
) -> Comparison:
    """Compares nnU-Net's validation results of a data set.

    Args:
        dataset: Id or full name of the data set.
        trainers: Only these trainers; empty for all.
        plans: Only these plans.
        configurations: Only these configurations.
        folds: Only these folds; empty for all numbered ones.
        baseline: Trainer or result to compare with; by default the stock ``nnUNetTrainer`` of the same configuration, else the
            first result.
        common: Compare only the cases that all results share, instead of refusing different case sets.
        block: Of neurons: score blocks of so many voxels ``d h w`` as cases of their own; None scores whole volumes.

    Raises:
        UserError: Nothing to compare, different case sets, broken files, or unknown names.
    """
    results, name = require_folder("nnUNet_results"), dataset_name(dataset)
    entries = read_results(
        results / name, trainers=trainers, plans=plans, configurations=configurations, folds=[str(fold) for fold in folds]
    )
    pictures = pictures_of_dataset(name)
    entries = [by_block(entry, pictures.references, block) for entry in entries] if block else entries
    comparison = compare_entries(entries, title=name, pictures=pictures, baseline=baseline, common=common)
    return replace(comparison, ignore_label=ignore_label(dataset_json_of(entries[0].source)))


@_naming_unreadable_files()
def compare_folders(
    folders: Sequence[str | Path],
    *,
    labels_folder: str | Path | None = None,
    images_folder: str | Path | None = None,
    dataset_json: str | Path | None = None,
    resample: bool = False,
    baseline: str | None = None,
    common: bool = False,
    block: Sequence[int] | None = None,
) -> Comparison:
    """Compares folders of predicted segmentations. Nothing is written into them.

    Args:
        folders: Paths, or ``NAME=PATH``.
        labels_folder: Reference segmentations; without them every folder needs nnU-Net's ``summary.json``.
        images_folder: Images as nnU-Net names them (``CASE_0000.nii.gz``), for pictures of single cases.
        dataset_json: Names labels and file ending; looked for in the folders and beside the references by default.
        resample: Take predictions on another grid to that of their reference, by nearest labels, instead of refusing them.
        baseline: Name of the folder to compare with; the first one by default.
        common: Compare only the cases that all folders share.
        block: As in :func:`compare_results`.

    Raises:
        UserError: A folder, a label or a file is missing or does not fit, or the case sets differ.
    """
    if resample and labels_folder is None:
        raise UserError("--resample: required with --labels-folder · got none · name the reference segmentations")
    labels, images = (Path(path) if path is not None else None for path in (labels_folder, images_folder))
    if images is not None and not images.is_dir():
        raise UserError(f"--images-folder: required a folder of images · got {images} · check the path")
    file = Path(dataset_json) if dataset_json is not None else None
    entries, description = read_folders(folders, labels_folder=labels, dataset_json=file, resample=resample)
    ending = entries[0].file_ending
    references = files_by_case(labels, ending) if labels else {}
    pictures = Pictures({}, references, "--images-folder was not given")
    if images is not None:
        pictures = pictures_in(images, ending, references)
    entries = [by_block(entry, references, block) for entry in entries] if block else entries
    title = str(description.get("name") or "Predicted folders")
    comparison = compare_entries(entries, title=title, pictures=pictures, baseline=baseline, common=common)
    return replace(comparison, ignore_label=ignore_label(description))


def default_output(dataset: str | int | None) -> Path:
    """Returns where a report goes unless told otherwise: into the data set's results, or the working directory."""
    return require_folder("nnUNet_results") / dataset_name(dataset) / OUTPUT_NAME if dataset is not None else Path(OUTPUT_NAME)
