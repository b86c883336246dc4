"""Small preprocessed data sets with labels, written as nnU-Net writes them, whose classes can be read off the pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import blosc2
import numpy as np
from batchgenerators.utilities.file_and_folder_operations import save_pickle
from numpy.typing import NDArray
from preprocessed_data import planned, write_plans

DATASET = "Dataset820_Boxes"
LABELS: Mapping[str, int | list[int]] = {"background": 0, "box": 1, "bar": 2, "never": 3}
SHAPE = (5, 40, 56)


def boxes(seed: int, shape: Sequence[int] = SHAPE) -> NDArray[np.int16]:
    """A box of label 1 and a bar of label 2, each in a place of its own: ``d h w``."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int16)
    top, left = 8 * rng.integers(0, shape[1] // 8 - 2), 8 * rng.integers(0, shape[2] // 8 - 2)
    labels[1:, top : top + 16, left : left + 16] = 1
    labels[:2, -8:, : 8 * rng.integers(2, 5)] = 2
    return labels


def write_labelled(
    root: Path,
    dataset: str = DATASET,
    num_cases: int = 6,
    shape: Sequence[int] = SHAPE,
    spacing_mm: Sequence[float] = (3.0, 1.0, 1.0),
    labels: Mapping[str, int | list[int]] = LABELS,
    num_channels: int = 1,
    patch_px: Sequence[int] | None = None,
    has_labels: bool = True,
) -> Path:
    """Writes a data set into ``nnUNet_preprocessed``; returns the folder of its cases."""
    folder = root / dataset / "nnUNetPlans_3d_fullres"
    folder.mkdir(parents=True)
    for index in range(num_cases):
        truth = boxes(index, shape)
        rng = np.random.default_rng([index, 1])
        image = np.stack([truth + rng.normal(0, 0.2, shape) for _ in range(num_channels)]).astype(np.float32)
        segmentation = truth[None].copy()
        segmentation[:, :, :4, :8] = -1  # outside of nnU-Net's mask
        blosc2.asarray(image, urlpath=str(folder / f"case_{index:02d}.b2nd"))
        if has_labels:
            blosc2.asarray(segmentation, urlpath=str(folder / f"case_{index:02d}_seg.b2nd"))
        save_pickle({}, str(folder / f"case_{index:02d}.pkl"))
    channels = {str(index): f"channel {index}" for index in range(num_channels)}
    description = {"channel_names": channels, "labels": dict(labels), "numTraining": num_cases, "file_ending": ".nii.gz"}
    schemes, patch_px = ["ZScoreNormalization"] * num_channels, patch_px or shape
    configurations = {
        "3d_fullres": planned(folder, patch_px, spacing_mm, schemes),
        "2d": planned(folder, patch_px[-2:], spacing_mm[-2:], schemes),
    }
    write_plans(root / dataset, configurations)
    (root / dataset / "dataset.json").write_text(json.dumps(description))
    return folder
