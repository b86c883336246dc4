"""Planning with our planners where the start-up hook is not wanted: what ``nnUNetv2_plan_experiment`` does, called directly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import require_folder
from nnunet_dino.nnunet.check_plans import check_planning
from nnunet_dino.nnunet.discovery.registry import PLANNERS, did_you_mean, resolve

DEFAULT_PLANNER = "nnUNetPlannerDINOv3L"


def plan_dataset(
    dataset: int | str,
    planner: str = DEFAULT_PLANNER,
    gpu_memory_target_gb: float | None = None,
    plans_name: str | None = None,
    target_spacing_mm: Sequence[float] | None = None,
    preprocessor: str = "DefaultPreprocessor",
    sees: Sequence[int] = (),
) -> Path:
    """Plans a data set and returns the plans file.

    Args:
        dataset: Number or full name of the data set.
        planner: One of the planners in :mod:`nnunet_dino.nnunet.discovery.registry`.
        gpu_memory_target_gb: GPU memory to fill, in GB; the planner's own target if None.
        plans_name: Name of the plans; the planner's own name if None.
        target_spacing_mm: Of ``3d_fullres``, in the order that the files are read in; the median if None.
        preprocessor: Name of a preprocessor class of nnU-Net.
        sees: Positions of the channels that the transformer sees; empty for all.

    Raises:
        UserError: A folder is unset; the data set is unknown, has no labels or no fingerprint; the planner is unknown; the
            memory target, the spacing or the name of the plans cannot be used. Nothing is written in these cases.
    """
    if planner not in PLANNERS:
        raise UserError(f"unknown planner: required one of nnunet-dino · got {planner!r}{did_you_mean(planner, PLANNERS)}")
    if gpu_memory_target_gb is not None and not gpu_memory_target_gb > 0:
        raise UserError(f"-gpu_memory_target: required more than 0 GB · got {gpu_memory_target_gb:g}")
    if target_spacing_mm is not None and not all(0 < mm < float("inf") for mm in target_spacing_mm):
        raise UserError(f"-overwrite_target_spacing: required three numbers of mm above 0 · got {target_spacing_mm}")
    planner_class = resolve(planner)
    assert planner_class is not None
    if sees:
        dino = replace(planner_class.dino, sees=tuple(sees))  # type: ignore[attr-defined]
        planner_class = type(planner, (planner_class,), {"dino": dino})
    name = check_planning(dataset, PLANNERS[planner].plans_name if plans_name is None else plans_name).name

    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset

    _, identifier = plan_experiment_dataset(
        name,
        planner_class,
        gpu_memory_target_in_gb=gpu_memory_target_gb,
        preprocess_class_name=preprocessor,
        overwrite_target_spacing=None if target_spacing_mm is None else tuple(target_spacing_mm),
        overwrite_plans_name=plans_name,
    )
    return require_folder("nnUNet_preprocessed") / name / f"{identifier}.json"
