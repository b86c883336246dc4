"""Runs nnU-Net's own commands on small phantoms, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from zygote import PATIENCE_SECONDS, Zygote

from nnunet_dino.demo.dataset import FILE_ENDING, case_name, write_volume
from nnunet_dino.demo.phantom import LABELS, Phantom, make_phantom

PHANTOM = "Dataset801_SmallPhantom"
REGIONS = "Dataset802_Regions"
OURS = "nnUNetTrainerDINOv3TinySmoke"
TRAINERS = Path(__file__).parent / "trainers"
SHAPE = (8, 40, 48)
SPACING_MM = (3.0, 1.0, 1.0)
NUM_TRAINING, NUM_TEST = 6, 2
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
ZYGOTE = Zygote()


def run_command(
    args: Sequence[object], env: Mapping[str, str], timeout_seconds: float = PATIENCE_SECONDS, really: bool = False
) -> tuple[int, str]:
    """Runs a console script of this Python's environment; returns its exit code and what it printed.

    Args:
        args: Name of the script (``nnUNetv2_train``) and its arguments.
        env: Environment variables beside those of this process.
        timeout_seconds: When to give up.
        really: Start the installed script in a new Python, instead of a fork that has its imports.
    """
    name, *rest = map(str, args)
    settings = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")} | dict(env)
    if not really:
        return ZYGOTE.run([name, *rest], settings, timeout_seconds)
    done = subprocess.run(
        [Path(sys.executable).with_name(name), *rest],
        env=settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_seconds,
        check=False,
    )
    return done.returncode, done.stdout


class Workspace:
    """nnU-Net's three folders with commands that work in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{name: str(self.folder / name) for name in FOLDERS},
            "nnUNet_extTrainer": str(TRAINERS),
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "1",
            "nnUNet_compile": "f",
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
        }

    def run(self, *args: object, expected: int = 0, really: bool = False, **env: str) -> str:
        """Runs a command, asserts its exit code, and returns what it printed."""
        code, output = run_command(args, {**self.environment, **env}, really=really)
        assert code == expected, f"{' '.join(map(str, args))} ended with {code}\n{output[-6000:]}"
        return output

    def raw(self, dataset: str) -> Path:
        return self.folder / "nnUNet_raw" / dataset

    def plans_file(self, dataset: str) -> Path:
        return self.folder / "nnUNet_preprocessed" / dataset / "nnUNetPlans.json"

    def model(self, dataset: str, trainer: str, configuration: str) -> Path:
        return self.folder / "nnUNet_results" / dataset / f"{trainer}__nnUNetPlans__{configuration}"

    def plan(self, dataset: str, *configurations: str, really: bool = False) -> None:
        """Plans a data set and preprocesses it for these configurations; batches and networks are then made small."""
        number = dataset[7:10]
        self.run("nnUNetv2_plan_and_preprocess", "-d", number, "-c", *configurations, "-np", 1, "-npfp", 1, really=really)
        plans = json.loads(self.plans_file(dataset).read_text())
        for configuration in plans["configurations"].values():
            if "batch_size" in configuration:
                configuration["batch_size"] = 2
                kwargs = configuration["architecture"]["arch_kwargs"]
                kwargs["features_per_stage"] = [features // 4 for features in kwargs["features_per_stage"]]
        self.plans_file(dataset).write_text(json.dumps(plans))

    def train(
        self,
        dataset: str,
        configuration: str,
        fold: int | str,
        trainer: str,
        *options: object,
        really: bool = False,
        **env: str,
    ) -> str:
        """Trains on the processor, loading data in the same process."""
        args = (dataset[7:10], configuration, fold, "-tr", trainer, "-device", "cpu", *options)
        return self.run("nnUNetv2_train", *args, really=really, nnUNet_n_proc_DA="0", **env)

    def train_and_interrupt(self, dataset: str, configuration: str, fold: int, trainer: str) -> str:
        """Trains until a Ctrl-C after the first epoch."""
        args = ("nnUNetv2_train", dataset[7:10], configuration, fold, "-tr", trainer, "-device", "cpu")
        code, output = run_command(args, {**self.environment, "nnUNet_n_proc_DA": "0", "SMOKE_STOP_AFTER": "1"})
        assert code in (-2, 1), output  # 1 where tabulate is installed: torch then prints at its end, and Python forgets
        assert output.rstrip().endswith("KeyboardInterrupt"), output
        return output

    def predict(
        self, dataset: str, configuration: str, trainer: str, output: Path, *options: object, really: bool = False, **env: str
    ) -> str:
        """Predicts ``imagesTs`` with fold 0, unless ``options`` say otherwise, without further processes."""
        options = options if "-f" in options else ("-f", 0, *options)
        args = ("-d", dataset[7:10], "-i", self.raw(dataset) / "imagesTs", "-o", output, "-c", configuration, "-tr", trainer)
        return self.run("nnUNetv2_predict", *args, "-device", "cpu", "-npp", 0, "-nps", 0, *options, really=really, **env)

    def summary(self, dataset: str, trainer: str, configuration: str, fold: int | str) -> dict:
        return json.loads((self.model(dataset, trainer, configuration) / f"fold_{fold}/validation/summary.json").read_text())


def write_phantoms(
    folder: Path,
    channel_names: Sequence[str] = ("CT",),
    labels: Mapping[str, int | list[int]] = LABELS,
    extra: Mapping[str, object] | None = None,
    change_labels: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda labels: labels,
) -> None:
    """Writes a data set of small phantoms with any number of channels and any labels.

    Args:
        folder: ``…/nnUNet_raw/DatasetXXX_NAME``.
        channel_names: One for each channel. Channel ``i`` shows the phantom with more noise the higher ``i`` is.
        labels: For ``dataset.json``.
        extra: Further entries of ``dataset.json``.
        change_labels: Takes a label volume ``d h w`` and returns the one to write.
    """
    for index in range(NUM_TRAINING + NUM_TEST):
        phantom = make_phantom(7, index, SHAPE, SPACING_MM)
        part = "Tr" if index < NUM_TRAINING else "Ts"
        for channel in range(len(channel_names)):
            image = _channel(phantom, channel, index)
            write_volume(image, SPACING_MM, folder / f"images{part}" / f"{case_name(index)}_{channel:04d}{FILE_ENDING}")
        write_volume(change_labels(phantom.labels), SPACING_MM, folder / f"labels{part}" / f"{case_name(index)}{FILE_ENDING}")
    description = {
        "channel_names": {str(index): name for index, name in enumerate(channel_names)},
        "labels": dict(labels),
        "numTraining": NUM_TRAINING,
        "file_ending": FILE_ENDING,
        **(extra or {}),
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def _channel(phantom: Phantom, channel: int, index: int) -> NDArray[np.int16]:
    noise = np.random.default_rng([channel, index]).normal(0, 30 * channel, phantom.image_hu.shape)
    return (phantom.image_hu + noise).astype(np.int16)


def add_lowres_and_cascade(plans_file: Path) -> None:
    """Adds ``3d_lowres`` at half the resolution in the plane, and the cascade, to plans whose planner made none."""
    plans = json.loads(plans_file.read_text())
    full = plans["configurations"]["3d_fullres"]
    d, h, w = full["spacing"]
    steps = np.prod(full["architecture"]["arch_kwargs"]["strides"], axis=0).tolist()
    halves = [full["patch_size"][0], full["patch_size"][1] / 2, full["patch_size"][2] / 2]
    plans["configurations"]["3d_lowres"] = {
        "inherits_from": "3d_fullres",
        "data_identifier": "nnUNetPlans_3d_lowres",
        "spacing": [d, 2 * h, 2 * w],
        "patch_size": [int(-(-half // step) * step) for half, step in zip(halves, steps, strict=True)],
        "next_stage": "3d_cascade_fullres",
    }
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans_file.write_text(json.dumps(plans))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Returns the weights in a checkpoint."""
    return torch.load(checkpoint, map_location="cpu", weights_only=False)["network_weights"]
