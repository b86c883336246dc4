"""The preprocessed data of a training and how they are split, checked before it starts."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from numpy.typing import NDArray

from nnunet_dino._errors import UserError
from nnunet_dino._grids import by
from nnunet_dino._nnunet_folders import read_json
from nnunet_dino.backbones.rgb import NEIGHBOURS
from nnunet_dino.nnunet.check_plans import planned_configuration

NUM_FOLDS = 5
_OF_PLANS = ("transpose_forward", "image_reader_writer", "foreground_intensity_properties_per_channel")
_OF_CONFIGURATION = (
    *("preprocessor_name", "normalization_schemes", "use_mask_for_norm"),
    *("resampling_fn_data", "resampling_fn_data_kwargs", "resampling_fn_seg", "resampling_fn_seg_kwargs"),
)
SPLITS = "splits_final.json"


def check_preprocessed(plans: dict[str, Any], name: str, configuration: dict[str, Any], fold: int | str) -> None:
    """Checks that there is what a training and its validation read.

    Args:
        plans: The plans that the data were preprocessed with.
        name: Of the configuration.
        configuration: With what it inherits.
        fold: Number of the fold, or ``"all"``.

    Raises:
        UserError: There are no cases, or cases of another spacing; too few for folds; or the file of splits is broken or names
            cases that are not there.
    """
    folder = Path(os.environ["nnUNet_preprocessed"], plans["dataset_name"])
    number, data_identifier = folder.name[7:10].lstrip("0"), configuration["data_identifier"]
    again = f"run: nnUNetv2_preprocess -d {number} -plans_name {plans['plans_name']} -c {name}"
    cases = preprocessed_cases(folder / data_identifier)
    if not cases:
        raise UserError(f"preprocessed data: required cases in {folder / data_identifier} · got none · {again}")
    check_spacing(folder / data_identifier, cases, plans, configuration)
    _check_owner(folder / data_identifier, plans, name, again)
    if not (folder / "gt_segmentations").is_dir():
        raise UserError(f"preprocessed data: required {folder / 'gt_segmentations'} for validation · got none · {again}")
    if fold == "all":
        return
    if not (folder / SPLITS).exists():
        if len(cases) < NUM_FOLDS:
            raise UserError(
                f"folds: required at least {NUM_FOLDS} cases for {NUM_FOLDS} folds · got {len(cases)} in "
                f"{folder / data_identifier} · train on all of them with fold 'all', or write {folder / SPLITS}"
            )
        return
    _check_splits(folder / SPLITS, int(fold), cases, again)


def _check_owner(data: Path, plans: dict[str, Any], name: str, again: str) -> None:
    """Refuses data that lie under the name of other plans, which preprocess otherwise."""
    owner = data.parent / f"{data.name.removesuffix(f'_{name}')}.json"
    others = read_json(owner, dict) if owner.stem != plans["plans_name"] and owner.is_file() else {}
    if name in others.get("configurations", {}) and not preprocess_alike(plans, others, name):
        raise UserError(
            f"preprocessed data: required those of {plans['plans_name']} · got {data}, which {owner.stem} makes with another "
            f"normalisation, resampling or preprocessor · give {name} a data_identifier of its own in the plans, then {again}"
        )


def preprocess_alike(plans: dict[str, Any], others: dict[str, Any], configuration: str) -> bool:
    """Whether two plans make the same preprocessed data of a configuration, so that they may share a folder."""
    plans = json.loads(json.dumps(plans, default=lambda array: array.tolist()))  # as they will be read
    ours, theirs = (planned_configuration(p, configuration) for p in (plans, others))
    return (
        len(ours["spacing"]) == len(theirs["spacing"])
        and np.allclose(ours["spacing"], theirs["spacing"])
        and all(ours.get(key) == theirs.get(key) for key in _OF_CONFIGURATION)
        and all(plans.get(key) == others.get(key) for key in _OF_PLANS)
    )


def check_data_set(plans: dict[str, Any], dataset_json: Any) -> None:
    """Raises :class:`UserError` if the data set has no labels, or the plans were made for another one."""
    labels = dataset_json.get("labels") if isinstance(dataset_json, dict) else None
    if not isinstance(labels, dict) or not set(labels) - {"background", "ignore"}:
        raise UserError(f"dataset.json: required labels beside background · got {labels} · training needs labels")
    name = plans["dataset_name"]
    own = Path(os.environ["nnUNet_preprocessed"]) / name / "dataset.json"
    planned_for = read_json(own, dict) if own.is_file() else {}
    for key in ("labels", "channel_names"):
        if planned_for.get(key) != dataset_json.get(key):
            raise UserError(
                f"plans: required plans of this data set ({key} {dataset_json.get(key)}) · got plans of {name} "
                f"({key} {planned_for.get(key)}) · run nnUNetv2_plan_experiment for this data set"
            )


def preprocessed_cases(folder: Path) -> set[str]:
    """Returns the names of the cases, in whichever of nnU-Net's formats they are."""
    files = list(folder.glob("*.*")) if folder.is_dir() else []
    return {file.stem for file in files if file.suffix in (".b2nd", ".npz") and not file.stem.endswith("_seg")}


def read_slice(volume: Any, index: int, rgb: str) -> NDArray[Any]:
    """Returns a slice ``c h w`` of a stored case ``c d h w``; with neighbours ``3·c h w`` as of ``with_neighbours``."""
    if rgb != NEIGHBOURS:
        return np.asarray(volume[:, index])
    last = volume.shape[1] - 1
    around = [np.asarray(volume[:, min(max(index + step, 0), last)]) for step in (-1, 0, 1)]
    return np.stack(around, axis=1).reshape(-1, *volume.shape[2:])


def split_of_fold(folder: Path, fold: int, cases: set[str], again: str) -> tuple[list[str], list[str]]:
    """Returns the training and the validation cases of a fold, those that nnU-Net's trainer takes; nothing is written.

    Args:
        folder: The data set's folder in ``nnUNet_preprocessed``; without ``splits_final.json`` the folds are those that nnU-Net
            will write there.
        fold: Number of the fold.
        cases: Those that are preprocessed.
        again: The command that preprocesses them.

    Raises:
        UserError: There is no such fold, or too few cases for folds, or the file of splits is broken, names cases that are not
            there, or a case twice.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    path = folder / SPLITS
    if path.is_file():
        _check_splits(path, fold, cases, again)
        splits = read_json(path, list)
    elif len(cases) < NUM_FOLDS:
        raise UserError(
            f"folds: required at least {NUM_FOLDS} cases for {NUM_FOLDS} folds · got {len(cases)} in {folder} · write {path}"
        )
    else:
        splits = generate_crossval_split(sorted(cases), seed=12345, n_splits=NUM_FOLDS)
    if not 0 <= fold < len(splits):
        raise UserError(f"fold: required one from 0 to {len(splits) - 1}, which {path} has · got {fold}")
    training, validation = (list(map(str, splits[fold][part])) for part in ("train", "val"))
    named = Counter([*training, *validation])
    if twice := [case for case, count in named.items() if count > 1]:
        raise UserError(
            f"{path}: required every case once in train and val of fold {fold} · got {twice[0]!r} twice · correct the file"
        )
    return training, validation


def check_spacing(folder: Path, cases: set[str], plans: dict[str, Any], configuration: dict[str, Any]) -> None:
    """Compares the shape of some cases with what the plans' spacing makes of them: folders can be shared by several plans.

    Raises:
        UserError: A case has another shape, or is damaged.
    """
    if configuration.get("preprocessor_name") != "DefaultPreprocessor":
        return
    names = sorted(cases)
    for case in {names[0], names[len(names) // 2], names[-1]}:
        if not (folder / f"{case}.pkl").is_file():
            continue
        try:
            _, segmentation, _, properties = infer_dataset_class(str(folder))(str(folder), [case]).load_case(case)
        except Exception as error:  # a damaged file fails in whichever layer reads it
            number = plans["dataset_name"][7:10].lstrip("0")
            raise UserError(
                f"preprocessed data: required cases that can be read · got {case} in {folder}, which is damaged "
                f"({type(error).__name__}) · run: nnUNetv2_preprocess -d {number} -plans_name {plans['plans_name']}"
            ) from error
        stored_mm = np.array([properties["spacing"][axis] for axis in plans["transpose_forward"]])
        before, shape = properties["shape_after_cropping_and_before_resampling"], tuple(segmentation.shape[1:])
        wanted_mm = np.array([*stored_mm[: 3 - len(configuration["spacing"])], *configuration["spacing"]])
        wanted = tuple(int(size) for size in compute_new_shape(before, stored_mm, wanted_mm))
        if shape != wanted:
            raise UserError(
                f"preprocessed data: required {case} in {by(wanted)} voxels, as the spacing of {plans['plans_name']} "
                f"({by(wanted_mm)} mm) makes it · got {by(shape)} voxels ({by(stored_mm * before / shape)} mm) in {folder}, "
                "which other plans use as well · plan again under a name of its own (nnUNetv2_plan_experiment "
                "-overwrite_plans_name …, nnUNetv2_move_plans_between_datasets -tp …) and preprocess"
            )


def _check_splits(path: Path, fold: int, cases: set[str], again: str) -> None:
    splits = read_json(path, list)
    for number, split in enumerate(splits):
        parts = [split.get(part) for part in ("train", "val")] if isinstance(split, dict) else [None]
        if not all(isinstance(part, list) and part and all(isinstance(case, str) for case in part) for part in parts):
            raise UserError(
                f"{path}: required case names in train and val of each fold · got {str(split)[:60]} in fold {number} · "
                "correct it, or delete the file and nnU-Net splits anew"
            )
    if fold >= len(splits):
        return  # nnU-Net makes a random split of its own and says so
    if absent := sorted({*splits[fold]["train"], *splits[fold]["val"]} - cases):
        raise UserError(
            f"{path}: required that the cases of fold {fold} are preprocessed · got {len(absent)} that are not, such as "
            f"{absent[0]!r} · correct the file, or {again}"
        )
