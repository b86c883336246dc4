"""Labelled cases that nnU-Net has preprocessed, slice by slice as the trainers' slice encoder sees them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import dataset_name, read_json, require_folder
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.networks.slices import token_grid
from nnunet_dino.nnunet.check_plans import planned_configuration, read_plans
from nnunet_dino.nnunet.preprocessed import check_data_set, check_spacing, preprocessed_cases, read_slice, split_of_fold
from nnunet_dino.nnunet.slice_view import describe_plane, fit_to_plans
from nnunet_dino.probes.dense_cells import cell_shares
from nnunet_dino.probes.dense_options import DenseOptions

LEAST_KNOWN = 0.5
"""A token of whose cell less lies in the image and outside the ignore label is left out."""


@dataclass(frozen=True)
class LabelledSlices:
    """Some slices of a case, ``n`` of them.

    Attributes:
        numbers: Which slices.
        images: ``n c h w``, padded as nnU-Net pads; with neighbours ``n 3·c h w``.
        labels: ``n h w``, padded likewise.
        shares: Which share of the known part of its cell each class fills, ``n gh gw k``.
        known: Whether a token counts, ``n gh gw``.
        position: Slice, row and column of a token in its case, each -1..1, ``n gh gw 3``.
    """

    numbers: tuple[int, ...]
    images: Tensor
    labels: Tensor
    shares: Tensor
    known: Tensor
    position: Tensor


@dataclass(frozen=True)
class LabelledCases:
    """The cases of one fold, and how their slices are shown.

    Attributes:
        dataset: Full name of the data set.
        configuration: Of the plans.
        plans_name: Name of the plans.
        fold: Number of the fold.
        folder: Where the cases are.
        dino: How slices are shown.
        plane: The same in words.
        classes: Name and labels of every class; regions may share labels.
        ignored: The ignore label, if there is one.
        patch_px: ``(h, w)`` of the plans; smaller slices are padded to it.
        training: Names of the cases to learn from.
        test: Names of the cases to judge by.
        max_slices: Slices of a case, evenly spread, at most.
    """

    dataset: str
    configuration: str
    plans_name: str
    fold: int
    folder: Path
    dino: DinoOptions
    plane: str
    classes: dict[str, tuple[int, ...]]
    ignored: int | None
    patch_px: tuple[int, int]
    training: tuple[str, ...]
    test: tuple[str, ...]
    max_slices: int

    def read(self, case: str) -> LabelledSlices:
        """Reads a case.

        Raises:
            UserError: It is damaged, or has other channels than the plans.
        """
        from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

        try:
            volume, segmentation, *_ = infer_dataset_class(str(self.folder))(str(self.folder), [case]).load_case(case)
            _check_shapes(case, volume.shape, segmentation.shape, len(self.dino.channels))
            depth = int(volume.shape[1])
            numbers = _spread(depth, self.max_slices)
            images = np.stack([read_slice(volume, number, self.dino.rgb) for number in numbers])
            labels = np.stack([np.asarray(segmentation[0, number]) for number in numbers])
        except UserError:
            raise
        except Exception as error:  # damaged files make the readers fail in any way
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise UserError(
                f"{case}: required a whole preprocessed case in {self.folder} · got {reason} · preprocess again"
            ) from error
        return self._labelled(
            depth, numbers, torch.from_numpy(images.astype(np.float32)), torch.from_numpy(labels.astype(np.int64))
        )

    def _labelled(self, depth: int, numbers: Sequence[int], images: Tensor, labels: Tensor) -> LabelledSlices:
        size = images.shape[2:]
        pad = _padding((int(size[0]), int(size[1])), self.patch_px, self.dino)
        images, labels = F.pad(images, pad), F.pad(labels.clamp(min=0), pad, value=-1)
        grid = token_grid(images.shape[2:], self.dino.token_stride_px, self.dino.pixel_aspect)
        unknown = [-1] if self.ignored is None else [-1, self.ignored]
        shares = cell_shares(labels, [*self.classes.values(), unknown], grid)
        known = 1 - shares[..., -1]
        position = _positions(grid, numbers, depth)
        return LabelledSlices(
            tuple(numbers), images, labels, shares[..., :-1] / known.clamp(min=1e-6)[..., None], known >= LEAST_KNOWN, position
        )


def find_cases(dataset: str | int, configuration: str, plans_name: str, fold: int, options: DenseOptions) -> LabelledCases:
    """Finds the cases of a fold; nothing is written, and none is read yet.

    Raises:
        UserError: The data set is unknown, not preprocessed or without labels; there are no such plans, configuration or fold.
    """
    folder = require_folder("nnUNet_preprocessed") / dataset_name(dataset, ["nnUNet_preprocessed"])
    plans = read_plans(folder, plans_name)
    planned = planned_configuration(plans, configuration)
    again = f"run: nnUNetv2_preprocess -d {int(folder.name[7:10])} -plans_name {plans_name} -c {configuration}"
    where = folder / planned["data_identifier"]
    cases = preprocessed_cases(where)
    if not cases:
        raise UserError(f"{folder.name}: required preprocessed cases in {where} · got none · {again}")
    description = read_json(folder / "dataset.json", dict, again)
    check_data_set(plans, description)
    training, test = split_of_fold(folder, fold, cases, again)
    _check_labels(where, [*training, *test])
    check_spacing(where, {*training, *test}, plans, planned)
    dino = fit_to_plans(
        DinoOptions("", token_stride_px=options.token_stride_px, rgb=options.rgb),
        planned,
        plans.get("foreground_intensity_properties_per_channel", {}),
    )
    classes, ignored = _classes(description)
    return LabelledCases(
        dataset=folder.name,
        configuration=configuration,
        plans_name=plans_name,
        fold=fold,
        folder=where,
        dino=dino,
        plane=describe_plane(plans, planned, dino.token_stride_px, dino.rgb, dino.sees),
        classes=classes,
        ignored=ignored,
        patch_px=(int(planned["patch_size"][-2]), int(planned["patch_size"][-1])),
        training=_in_random_order(training, options.seed),
        test=tuple(sorted(test)),
        max_slices=options.max_slices,
    )


def _check_labels(folder: Path, cases: Sequence[str]) -> None:
    without = [case for case in cases if not any((folder / f"{case}{end}").is_file() for end in ("_seg.b2nd", ".npz"))]
    if without:
        raise UserError(
            f"{without[0]}: required labels in {folder} · got none for {len(without)} of {len(cases)} cases · take a data set "
            "with labels, preprocessed by nnUNetv2_preprocess"
        )


def _classes(description: dict[str, Any]) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Returns the labels of every class beside the background, and the ignore label."""
    named = {name: value for name, value in description["labels"].items() if name not in ("background", "ignore")}
    classes = {
        name: tuple(int(label) for label in (value if isinstance(value, Collection) else [value]))
        for name, value in named.items()
    }
    ignored = description["labels"].get("ignore")
    return {name: labels for name, labels in classes.items() if labels != (0,)}, None if ignored is None else int(ignored)


def _in_random_order(cases: Sequence[str], seed: int) -> tuple[str, ...]:
    order = np.random.default_rng(seed).permutation(len(cases))
    return tuple(sorted(cases)[index] for index in order)


def _check_shapes(case: str, volume: Sequence[int], labels: Sequence[int], num_channels: int) -> None:
    if len(volume) != 4 or volume[0] != num_channels or tuple(labels[1:]) != tuple(volume[1:]):
        raise UserError(
            f"{case}: required {num_channels} channels of c d h w and labels of the same size · got "
            f"{' x '.join(map(str, volume))} and labels of {' x '.join(map(str, labels))} · preprocess again"
        )


def _spread(depth: int, most: int) -> list[int]:
    """Returns at most ``most`` of ``depth`` slices, evenly spread: the middles of equal parts."""
    count = min(depth, most)
    return [int((index + 0.5) * depth / count) for index in range(count)]


def _padding(size_px: tuple[int, int], patch_px: tuple[int, int], dino: DinoOptions) -> list[int]:
    """Returns how to pad ``h w`` on every side, as :func:`torch.nn.functional.pad` takes it.

    nnU-Net pads what is smaller than the patch to it, around the middle. Here slices are padded to whole cells as well, so that
    a token covers as many pixels as in the patches of a training.
    """
    cells = dino.token_stride_px / max(1.0, dino.pixel_aspect), dino.token_stride_px / max(1.0, 1 / dino.pixel_aspect)
    pads = []
    for size, patch, cell in zip(size_px, patch_px, cells, strict=True):
        wanted = max(patch, round(math.ceil(round(size / cell, 6)) * cell))
        before = (wanted - size) // 2
        pads.append((before, wanted - size - before))
    (top, bottom), (left, right) = pads
    return [left, right, top, bottom]


def _positions(grid: tuple[int, int], numbers: Sequence[int], depth: int) -> Tensor:
    axes = [torch.tensor([(number + 0.5) / depth for number in numbers]), *((torch.arange(n) + 0.5) / n for n in grid)]
    return torch.stack(torch.meshgrid(*(2 * axis - 1 for axis in axes), indexing="ij"), dim=-1)
