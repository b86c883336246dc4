"""Small preprocessed data sets, written as nnU-Net writes them, for tests of pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import blosc2
import numpy as np
from numpy.typing import NDArray
from preprocessed_data import planned, write_plans

from nnunet_dino.pretrain.recipe import Recipe, get_recipe

DATASET = "Dataset810_Blobs"
CONFIGURATION = "3d_fullres"
SMALL = (
    "iterations=6",
    "batch=4",
    "prototypes=32",
    "patch_prototypes=32",
    "head_hidden=24",
    "head_bottleneck=8",
    "global_px=64",
    "local_px=32",
    "num_local=2",
    "checkpoint_every=3",
    "export_every=6",
)


def small(name: str = "scratch", *changes: str) -> Recipe:
    """A recipe of a second."""
    return get_recipe(name, [*SMALL, *changes])


def blob(seed: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """A bright ellipsoid with texture in air: ``c d h w``."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape[1:]), indexing="ij")
    inside = sum((axis / rng.uniform(0.6, 0.9)) ** 2 for axis in axes) < 1
    texture = rng.normal(0.5, 0.6, shape).astype(np.float32)
    return np.where(inside, texture, np.float32(-1))


def write_preprocessed(
    root: Path,
    dataset: str = DATASET,
    num_cases: int = 6,
    shape: Sequence[int] = (1, 6, 40, 48),
    spacing_mm: Sequence[float] = (3.0, 1.0, 1.0),
    schemes: Sequence[str] = ("ZScoreNormalization",),
    **configuration: object,
) -> Path:
    """Writes a data set into ``nnUNet_preprocessed``; without labels, which pretraining does not read."""
    folder = root / dataset / f"nnUNetPlans_{CONFIGURATION}"
    folder.mkdir(parents=True)
    for index in range(num_cases):
        blosc2.asarray(blob(index, shape), urlpath=str(folder / f"case_{index:02d}.b2nd"), chunks=tuple(shape))
    entry = planned(folder, shape[1:], spacing_mm, schemes) | configuration
    write_plans(root / dataset, {CONFIGURATION: entry})
    return folder
