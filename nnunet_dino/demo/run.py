"""``nnunet-dino demo``: phantom data, nnU-Net's commands on them with and without DINOv3, and a comparison."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_dino._errors import UserError
from nnunet_dino._nnunet_folders import PURPOSE
from nnunet_dino.demo.commands import CommandFailed, Commands
from nnunet_dino.demo.dataset import BASE, CONFIGURATION, add_demo_configuration, write_dataset

DATASET_ID = 999
DATASET = f"Dataset{DATASET_ID}_Phantom"
NUM_FOLDS = 5
TRAINERS = ("nnUNetTrainerPrior_Adam1en3_{epochs}epochs", "nnUNetTrainerDINOv3Tiny_Adam1en3_{epochs}epochs")
OWN = ("predictions", "report", "report-unseen", "logs")
ENDING = (
    "What this shows: the whole way works on this machine. What it does not show: what DINOv3 adds, because the backbone "
    "here is tiny and its weights are random; nor which network is better, because one training of each says little."
)


@dataclass(frozen=True)
class DemoOptions:
    """What is made and trained.

    Attributes:
        num_cases: Cases to train and validate with; fold 0 validates a fifth of them.
        num_epochs: Length of each training; 2, 5, 50 or 250.
        num_test: Cases that training never sees.
        seed: Of the phantoms.
        trainers: The stock trainer and the one with DINOv3; ``{epochs}`` stands for ``num_epochs``.

    Raises:
        UserError: A number is too small.
    """

    num_cases: int = 20
    num_epochs: int = 2
    num_test: int = 8
    seed: int = 0
    trainers: tuple[str, str] = TRAINERS

    def __post_init__(self) -> None:
        least = (("--cases", self.num_cases, NUM_FOLDS), ("--test-cases", self.num_test, 1), ("--seed", self.seed, 0))
        for option, value, smallest in least:
            if value < smallest:
                raise UserError(f"{option}: required a number from {smallest} · got {value} · take a larger one")


def run_demo(
    folder: Path, options: DemoOptions, device: str = "auto", fresh: bool = False, say: Callable[[str], object] = print
) -> int:
    """Makes phantoms, plans, trains two networks, predicts with both and compares them.

    Args:
        folder: For everything; made if needed.
        options: What is made and trained.
        device: ``cpu``, ``cuda``, or ``auto``: CUDA where there is a device.
        fresh: Delete what an earlier demo left in the folder.
        say: Takes lines for the user.

    Returns:
        Exit code: 1 if a command failed, else 0.

    Raises:
        UserError: The folder cannot be used, the disk is full, or nnU-Net is not installed.
    """
    folder, start = folder.absolute(), time.monotonic()
    try:
        _prepare(folder, fresh)
        say(f"Demo in {folder}. Ctrl-C ends it with everything it started.")
        _run_all(folder, options, _resolved(device), say)
    except CommandFailed as error:
        say(f"\n{error}")
        return 1
    except OSError as error:
        raise UserError(
            f"-o: required a folder that can be written, with some 100 MB free · got {folder}: {error.strerror or error} · "
            "free space, or give another folder"
        ) from error
    say(f"\n{ENDING}\n\nThis took {time.monotonic() - start:.0f} s.")
    for name, title in (("report-unseen", "Report of unseen cases"), ("report", "Report")):
        say(f"{title}: {folder / name / 'report.html'}")
    return 0


def _run_all(folder: Path, options: DemoOptions, device: str, say: Callable[[str], object]) -> None:
    raw, predictions = folder / "nnUNet_raw" / DATASET, folder / "predictions"
    trainers = dict(
        zip(("stock", "dinov3"), (name.format(epochs=options.num_epochs) for name in options.trainers), strict=True)
    )
    commands = Commands(folder / "logs", _environment(folder), 4 + 2 * len(trainers), say)
    with commands.step("make phantoms"):
        write_dataset(raw, options.num_cases, options.num_test, options.seed)
    commands.run(
        "plan and preprocess",
        *("nnUNetv2_plan_and_preprocess", "-d", DATASET_ID, "-c", BASE, "-npfp", 2, "-np", 2, "--verify_dataset_integrity"),
    )
    add_demo_configuration(folder / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json")
    for name, trainer in trainers.items():
        commands.run(
            f"train {name}",
            *("nnUNetv2_train", DATASET_ID, CONFIGURATION, 0, "-tr", trainer, "-device", device),
            show="Epoch ",
        )
    for name, trainer in trainers.items():
        commands.run(
            f"predict {name}",
            *("nnUNetv2_predict", "-d", DATASET_ID, "-i", raw / "imagesTs", "-o", predictions / name, "-c", CONFIGURATION),
            *("-f", 0, "-tr", trainer, "-device", device, "-npp", 0, "-nps", 0),
        )
    compare = ("nnunet-dino", "compare", "-o")
    commands.run("compare the validation", *compare, folder / "report", "-d", DATASET_ID, "-c", CONFIGURATION, show="")
    commands.run(
        "compare unseen cases",
        *(*compare, folder / "report-unseen"),
        *("--folder", f"stock={predictions / 'stock'}", "--folder", f"DINOv3-tiny-random={predictions / 'dinov3'}"),
        *("--labels-folder", raw / "labelsTs", "--images-folder", raw / "imagesTs", "--dataset-json", raw / "dataset.json"),
        show="",
    )


def _prepare(folder: Path, fresh: bool) -> None:
    """Makes the folder; with ``fresh`` deletes what a demo left there.

    Raises:
        UserError: It is a file, or it holds other things, or an earlier demo and ``fresh`` was not given.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"-o: required a folder · got the file {folder} · give another one")
    folder.mkdir(parents=True, exist_ok=True)
    foreign = [path for path in folder.iterdir() if path.name not in (*PURPOSE, *OWN) or path.is_symlink()]
    foreign += [path for name in PURPOSE for path in (folder / name).glob("*") if path.name != DATASET]
    if foreign:
        raise UserError(
            f"-o: required an empty folder, or one that `nnunet-dino demo` made · got {folder}, which holds "
            f"{foreign[0].name} · give another one; nothing was changed"
        )
    if not fresh and any(folder.iterdir()):
        raise UserError(
            f"-o: required an empty folder · got {folder}, which holds an earlier demo · add --fresh to delete it and start "
            "anew, or give another folder"
        )
    for name in (*PURPOSE, *OWN):
        shutil.rmtree(folder / name, ignore_errors=not (folder / name).exists())
    for name in PURPOSE:
        (folder / name).mkdir()


def _environment(folder: Path) -> dict[str, str]:
    """Returns the environment of the commands: few workers for small data, unless the user has set their number."""
    return {
        "nnUNet_n_proc_DA": str(min(8, max(2, (os.cpu_count() or 2) // 2))),
        "nnUNet_def_n_proc": "2",
        **os.environ,
        **{name: str(folder / name) for name in PURPOSE},
        "nnUNet_compile": "f",  # compiling takes longer than so small a network gains
        "nnUNet_wandb_enabled": "0",
        "MPLBACKEND": "Agg",
        "TQDM_MININTERVAL": "5",
    }


def _resolved(device: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
