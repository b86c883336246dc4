"""Slices of the cases that nnU-Net has preprocessed, read as the trainers' slice encoder gets them. Labels are not read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_dino._errors import UserError, nearest
from nnunet_dino._nnunet_folders import dataset_name, require_folder
from nnunet_dino.backbones.rgb import ChannelView, num_images
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.check_plans import planned_configuration, read_plans
from nnunet_dino.nnunet.preprocessed import preprocessed_cases, read_slice
from nnunet_dino.nnunet.slice_view import describe_plane, fit_to_plans
from nnunet_dino.pretrain.recipe import Recipe

MOST_OPEN_FILES = 64


@dataclass(frozen=True)
class Source:
    """The preprocessed cases of one data set.

    Attributes:
        dataset: Its full name.
        folder: Where its cases are.
        channels: How its channels are shown.
        token_stride_px: Pixels per token: the recipe's, or that of the plans where it is coarser.
        pixel_aspect: Height of a pixel over its width.
        plane: What a slice is, in words.
    """

    dataset: str
    folder: Path
    channels: tuple[ChannelView, ...]
    token_stride_px: int
    pixel_aspect: float
    plane: str

    def num_images(self, rgb: str) -> int:
        """Returns how many images show one slice."""
        return num_images(len(self.channels), rgb)


@dataclass(frozen=True)
class Case:
    """One preprocessed case."""

    source: Source
    name: str

    @property
    def title(self) -> str:
        """Name by which a list may exclude it."""
        return f"{self.source.dataset}/{self.name}"

    def num_slices(self) -> int:
        """Returns how many slices it has, from the head of its file."""
        return int(_open(self).shape[1])

    def read(self, index: int, rgb: str) -> Tensor:
        """Returns slice ``index``, ``c h w``, float32; with neighbours ``3·c h w``.

        Raises:
            UserError: The file is damaged or has other channels than the plans.
        """
        volume = _open(self)
        try:
            pixels = read_slice(volume, index, rgb)
        except (OSError, RuntimeError, ValueError) as error:
            raise _damaged(self, error) from error
        return torch.from_numpy(pixels.astype(np.float32))


@lru_cache(maxsize=MOST_OPEN_FILES)
def _open(case: Case) -> Any:
    """Returns the volume ``c d h w`` without reading it whole, where its format allows."""
    import blosc2

    blosc2.set_nthreads(1)
    path = case.source.folder / f"{case.name}.b2nd"
    try:
        if path.is_file():
            volume = blosc2.open(urlpath=str(path), mode="r", dparams={"nthreads": 1})
        else:
            volume = _unpacked(path.with_suffix(".npz"))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise _damaged(case, error) from error
    if len(volume.shape) != 4 or volume.shape[0] != len(case.source.channels):
        raise UserError(
            f"{case.title}: required {len(case.source.channels)} channels as in its plans · got an array of "
            f"{' x '.join(map(str, volume.shape))} · preprocess the data set again, or leave the case out with --exclude"
        )
    return volume


def _unpacked(path: Path) -> Any:
    with np.load(path) as arrays:
        return arrays["data"]


def _damaged(case: Case, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:120]
    return UserError(
        f"{case.title}: required a preprocessed case in {case.source.folder} · got {reason} · preprocess the data set again, "
        "or leave the case out with --exclude"
    )


def find_cases(datasets: Sequence[str], configuration: str, plans_name: str, recipe: Recipe) -> list[Case]:
    """Returns the cases of data sets, in order of their names.

    Args:
        datasets: Numbers or full names.
        configuration: Of the plans of each.
        plans_name: Name of the plans.
        recipe: Says how slices are shown.

    Raises:
        UserError: A data set is unknown or not preprocessed, or they differ in channels or axes.
    """
    root = require_folder("nnUNet_preprocessed")
    names = list(dict.fromkeys(dataset_name(dataset, ["nnUNet_preprocessed"]) for dataset in datasets))
    plans = [read_plans(root / name, plans_name) for name in names]
    configurations = [planned_configuration(each, configuration) for each in plans]
    _check_alike(names, plans_name, configurations)
    cases = []
    for name, each, planned in zip(names, plans, configurations, strict=True):
        source = _source(root / name, each, planned, recipe)
        stems = preprocessed_cases(source.folder)
        if not stems:
            raise UserError(
                f"{name}: required preprocessed cases in {source.folder} · got none · run: nnUNetv2_preprocess -d {name[7:10]} "
                f"-plans_name {plans_name} -c {configuration}"
            )
        cases += [Case(source, stem) for stem in sorted(stems)]
    return cases


def _source(folder: Path, plans: dict[str, Any], planned: dict[str, Any], recipe: Recipe) -> Source:
    options = DinoOptions("", token_stride_px=recipe.token_stride_px, rgb=recipe.rgb)
    fitted = fit_to_plans(options, planned, plans.get("foreground_intensity_properties_per_channel", {}))
    if fitted.sees:
        raise UserError(
            f"{folder.name}: required plans in which the transformer sees every channel · got dino.sees {list(fitted.sees)} · "
            "pretrain with the stock plans"
        )
    stride_px = fitted.token_stride_px
    plane = describe_plane(plans, planned, stride_px, recipe.rgb)
    return Source(folder.name, folder / planned["data_identifier"], fitted.channels, stride_px, fitted.pixel_aspect, plane)


def _check_alike(names: Sequence[str], plans_name: str, configurations: Sequence[dict[str, Any]]) -> None:
    for what, of in {
        "channels": lambda planned: len(planned["normalization_schemes"]),
        "axes of the patch (2D or 3D)": lambda planned: len(planned["patch_size"]),
    }.items():
        counts = [of(planned) for planned in configurations]
        for name, count in zip(names, counts, strict=True):
            if count != counts[0]:
                raise UserError(
                    f"data sets: required equally many {what} · got {counts[0]} in {names[0]} and {count} in {name} "
                    f"({plans_name}) · pretrain them one after the other, with --from"
                )


def excluded(cases: Sequence[Case], file: Path | None) -> list[Case]:
    """Returns the cases that ``file`` names, one a line: ``case`` or ``DatasetXXX_NAME/case``, and after ``#`` a remark.

    Raises:
        UserError: The file cannot be read, or names a case that there is not.
    """
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(
            f"--exclude: required a text file with one case a line · got {file}: {getattr(error, 'strerror', None) or error} · "
            "check the path"
        ) from error
    by_name: dict[str, list[Case]] = {}
    for case in cases:
        for name in (case.name, case.title):
            by_name.setdefault(name, []).append(case)
    found: dict[Case, None] = {}
    for number, line in enumerate(lines, 1):
        name = line.partition("#")[0].strip()
        if name and name not in by_name:
            raise UserError(
                f"--exclude: required names of cases · got {name!r} in line {number} of {file}{nearest(name, by_name)} "
                "· correct or remove the line"
            )
        found |= dict.fromkeys(by_name.get(name, []))
    return list(found)


@dataclass(frozen=True)
class Split:
    """Which cases are seen, which are kept for the monitors, and which are left out."""

    train: tuple[Case, ...]
    held_out: tuple[Case, ...]
    excluded: tuple[Case, ...]


def split_cases(cases: Sequence[Case], left_out: Sequence[Case], num_held_out: int | None, seed: int) -> Split:
    """Keeps whole cases for the monitors.

    Args:
        cases: All.
        left_out: Those that are not to be seen.
        num_held_out: How many to keep; by default one in twenty, from 1 to 20.
        seed: Decides which.

    Raises:
        UserError: too few cases are left to train on.
    """
    seen = [case for case in cases if case not in set(left_out)]
    count = min(20, max(1, len(seen) // 20)) if num_held_out is None else num_held_out
    if count < 1 or count >= len(seen):
        raise UserError(
            f"--holdout: required from 1 to all but one of the {len(seen)} cases that are not excluded · got {count} "
            "· hold out fewer, or add cases"
        )
    chosen = set(np.random.default_rng([seed, 0x5EED]).permutation(len(seen))[:count].tolist())
    parts: dict[bool, list[Case]] = {True: [], False: []}
    for index, case in enumerate(seen):
        parts[index in chosen].append(case)
    return Split(tuple(parts[False]), tuple(parts[True]), tuple(left_out))
