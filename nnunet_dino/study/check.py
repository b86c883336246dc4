"""Whether a study can be run, before anything is."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from pathlib import Path

from nnunet_dino._errors import UserError, nearest
from nnunet_dino._nnunet_folders import read_json, require_dataset, require_folder, require_labels
from nnunet_dino.compare.metrics import find_metric
from nnunet_dino.nnunet.presets import PLANNERS, TRAINERS
from nnunet_dino.study.jobs import Jobs
from nnunet_dino.study.steps import FINAL, check_plans

DEVICES = ("cuda", "cpu", "mps")
_CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)


def check(jobs: Jobs, folder: Path) -> None:
    """Checks names, labels and plans of earlier results; runs nothing and imports neither torch nor nnU-Net.

    Raises:
        UserError: What cannot be run, in one line.
    """
    study = jobs.study
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        require_folder(variable)
    known = class_names("training/nnUNetTrainer", os.environ.get("nnUNet_extTrainer", "").split(os.pathsep)) | set(TRAINERS)
    for trainer in study.trainers:
        _known("trainers", trainer, known)
    planners = class_names("experiment_planning/experiment_planners", []) | set(PLANNERS)
    for planner in study.plans.values():
        _known("plans", planner, planners)
    if study.device not in DEVICES:
        raise UserError(f"device: required one of {', '.join(DEVICES)} · got {study.device!r}{nearest(study.device, DEVICES)}")
    if study.baseline is not None and study.baseline not in study.trainers:
        _known("baseline", study.baseline, set(study.trainers))
    for metric in study.metrics:
        find_metric(metric)
    for dataset in jobs.datasets:
        _check_labels(dataset)
    for name in jobs.test_sets:
        _known("test_sets", name, set(jobs.datasets))
        _check_test_set(jobs, name)
    for training in jobs.trainings.values():
        if training.fold == study.folds[0]:
            check_plans(training, folder)


def class_names(package_folder: str, more: list[str]) -> set[str]:
    """Returns the names of classes in a folder of nnU-Net and in further folders, read from their text."""
    spec = importlib.util.find_spec("nnunetv2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("required nnU-Net · got none in this Python · run: pip install nnunet-dino")
    folders = [Path(spec.submodule_search_locations[0], package_folder), *(Path(name) for name in more if name)]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    return {name for file in files for name in _CLASS.findall(file.read_text(encoding="utf-8", errors="replace"))}


def _known(key: str, name: str, known: set[str]) -> None:
    if name not in known:
        raise UserError(f"{key}: required a name that exists · got {name!r}{nearest(name, sorted(known))}")


def _check_labels(dataset: str) -> None:
    folder = require_dataset(dataset)
    description = require_labels(folder)
    if "dataset" in description:
        return
    ending = description["file_ending"]
    images = {re.sub(r"_\d{4}$", "", file.name.removesuffix(ending)) for file in (folder / "imagesTr").glob(f"*{ending}")}
    labels = {file.name.removesuffix(ending) for file in (folder / "labelsTr").glob(f"*{ending}")}
    _same_cases(images, labels, folder / "imagesTr", folder / "labelsTr")


def _check_test_set(jobs: Jobs, dataset: str) -> None:
    test = jobs.study.test_sets[jobs.test_sets[dataset]]
    images, labels = test.images.expanduser(), test.labels.expanduser()
    for path in (images, labels):
        if not path.is_dir():
            raise UserError(f"test_sets, {dataset}: required a folder · got {path} · check the path")
    ending = read_json(require_dataset(dataset) / "dataset.json", dict)["file_ending"]
    cases = {re.sub(r"_\d{4}$", "", file.name.removesuffix(ending)) for file in images.glob(f"*{ending}")}
    _same_cases(cases, {file.name.removesuffix(ending) for file in labels.glob(f"*{ending}")}, images, labels)


def _same_cases(images: set[str], labels: set[str], of_images: Path, of_labels: Path) -> None:
    if images != labels or not images:
        odd = sorted(images ^ labels)
        lost = (of_labels if odd and odd[0] in images else of_images) if odd else of_images
        what = f"none for {odd[0]} in {lost} ({len(odd)} differ)" if odd else f"no cases in {of_images}"
        raise UserError(f"required images and labels of the same cases · got {what} · add or remove them")


def check_space(jobs: Jobs, folder: Path) -> None:
    """Checks that the disk holds what the trainings leave that have not ended yet.

    Raises:
        UserError: It does not.
    """
    left = [one for one in jobs.trainings.values() if not (one.output(folder) / FINAL).is_file()]
    needed: dict[Path, float] = {}
    for training in left:
        root = training.subset.root("nnUNet_results", folder)
        existing = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
        needed[existing] = needed.get(existing, 0) + jobs.study.resources_of(training.trainer).disk_gb
    for root, size_gb in needed.items():
        free_gb = shutil.disk_usage(root).free / 1e9
        if free_gb < size_gb:
            raise UserError(
                f"required {size_gb:.1f} GB for {len(left)} trainings in {root} · got {free_gb:.1f} GB free · free space, or "
                "state less as disk_gb in resources of study.yaml"
            )
