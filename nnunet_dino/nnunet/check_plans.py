"""Whether plans can be made of a data set, and whether a network can be built from plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_dino._errors import UserError, nearest
from nnunet_dino._nnunet_folders import read_json, require_dataset, require_folder, require_labels

# A file system allows 255 bytes; the folder of a model is TRAINER__PLANS__CONFIGURATION.
MAX_PLANS_NAME = 150
_MADE_BY_OUR_PLANNERS = "2d_896"
_NEEDED = ("architecture", "batch_size", "data_identifier", "normalization_schemes", "patch_size", "spacing")
_PLAN_AGAIN = "plan again with nnUNetv2_plan_experiment"


def read_plans(folder: Path, name: str) -> dict[str, Any]:
    """Returns the plans called ``name`` in a data set's folder of ``nnUNet_preprocessed``.

    Raises:
        UserError: There are none, or the file is broken.
    """
    file = folder / f"{name}.json"
    if not file.is_file():
        there = [path.stem for path in sorted(folder.glob("*lans*.json"))]
        raise UserError(
            f"-p: required {file} · got no such file, there is {', '.join(there) or 'none'}{nearest(name, there)} · give other "
            f"plans with -p, or run: nnUNetv2_plan_and_preprocess -d {int(folder.name[7:10])}"
        )
    return read_json(file, dict)


def planned_configuration(plans: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns a configuration of the plans together with what it inherits.

    Raises:
        UserError: The plans do not have it or one that it inherits from, or it lacks what a network is built from.
    """
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict):
        raise UserError(f"plans: required configurations · got {configurations!r} · {_PLAN_AGAIN}")
    merged: dict[str, Any] = {}
    passed: list[str] = []
    wanted: Any = name
    while wanted is not None:
        entry = configurations.get(wanted)
        if not isinstance(entry, dict) or wanted in passed:
            raise UserError(
                f"configuration: required one of {', '.join(configurations)}, which {plans.get('plans_name')} has · "
                f"got {wanted!r}{nearest(str(wanted), configurations)}{_who_makes(str(wanted), plans)}"
            )
        passed.append(wanted)
        merged = {**entry, **merged}
        wanted = entry.get("inherits_from")
    if "UNet_class_name" not in merged and (missing := [key for key in _NEEDED if not merged.get(key)]):
        raise UserError(f"plans: required {missing[0]!r} in configuration {name} · got none · {_PLAN_AGAIN}")
    return merged


def _who_makes(name: str, plans: dict[str, Any]) -> str:
    if name != _MADE_BY_OUR_PLANNERS:
        return " · give one of these"
    number = str(plans.get("dataset_name"))[7:10].lstrip("0")
    return (
        f" · run: nnUNetv2_plan_experiment -d {number} -pl nnUNetPlannerDINOv3L && "
        f"nnUNetv2_preprocess -d {number} -plans_name nnUNetDINOv3LPlans -c {name}, then train with -p nnUNetDINOv3LPlans"
    )


def check_geometry(configuration: dict[str, Any], name: str) -> None:
    """Raises :class:`UserError` unless the patch has the axes of the convolutions and can be halved as often as planned."""
    if "architecture" not in configuration:  # plans of nnU-Net before 2.4, which nnU-Net rewrites
        return
    patch = configuration["patch_size"]
    try:
        kwargs = configuration["architecture"]["arch_kwargs"]
        strides, kernels, conv = kwargs["strides"], kwargs["kernel_sizes"], str(kwargs["conv_op"])
        per_stage = [kernels] if isinstance(kernels, int) else kernels  # one number is meant for every axis
        num_axes = {len(patch), *map(len, strides), int(conv[-2]), *(len(k) for k in per_stage if not isinstance(k, int))}
        factors = [1] * len(patch)
        for stride in strides:
            factors = [factor * step for factor, step in zip(factors, stride, strict=False)]
        fits = all(pixels > 0 and pixels % factor == 0 for pixels, factor in zip(patch, factors, strict=True))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"plans: required architecture and patch_size of configuration {name} as nnU-Net's planners write them · "
            f"got {type(error).__name__}: {error} · {_PLAN_AGAIN}"
        ) from error
    if len(num_axes) != 1:
        raise UserError(
            f"plans: required a patch_size with the axes of the convolutions ({conv.rpartition('.')[2]}) in configuration "
            f"{name} · got {patch} with strides {strides[-1]} and kernels {per_stage[-1]} · {_PLAN_AGAIN}"
        )
    if not fits:
        raise UserError(
            f"plans: required a patch_size that the network of configuration {name} can halve, multiples of {factors} · "
            f"got {patch} · change patch_size in the plans, or {_PLAN_AGAIN}"
        )


def check_planning(dataset: str | int, plans_name: str) -> Path:
    """Checks what a planner reads and what it will write, and returns the folder of the data set in ``nnUNet_raw``.

    Raises:
        UserError: A folder is unset; the data set is unknown or has no labels; its fingerprint is missing or broken; or the
            name of the plans cannot be part of the names of folders.
    """
    preprocessed = require_folder("nnUNet_preprocessed")
    folder = require_dataset(dataset)
    require_labels(folder)
    length = len(plans_name.encode())
    if not plans_name or "__" in plans_name or "/" in plans_name or length > MAX_PLANS_NAME:
        raise UserError(
            f"-overwrite_plans_name: required at most {MAX_PLANS_NAME} bytes without '__' and '/', as it becomes a part of the "
            f"names of folders · got {plans_name[:60]!r} of {length} bytes · choose another"
        )
    fingerprint = preprocessed / folder.name / "dataset_fingerprint.json"
    again = f"run: nnUNetv2_extract_fingerprint -d {int(folder.name[7:10])} --verify_dataset_integrity --clean"
    if not fingerprint.is_file():
        raise UserError(f"{folder.name} has no fingerprint: required {fingerprint} · it does not exist · {again}")
    content = read_json(fingerprint, dict, again)
    for key in ("spacings", "shapes_after_crop"):
        if not isinstance(content.get(key), list) or not content[key]:
            raise UserError(f"{fingerprint}: required {key} of every case · got {str(content.get(key))[:60]} · {again}")
    return folder
