"""The stages of the demo and the commands behind them: nnU-Net's own, and ``nnunet-dino compare``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_dino._errors import UserError
from nnunet_dino.demo.folder import DATASET_ID, NUM_FOLDS, DemoFolder
from nnunet_dino.demo.plans import BASE, CONFIGURATION, add_demo_configuration

PLANS = "nnUNetPlans"
NETWORKS = {"stock": "nnUNetTrainer", "dinov3": "nnUNetTrainerDINOv3Tiny"}


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        name: Short name; also that of its log.
        title: What a person reads.
        command: Program and arguments.
        total: Steps until it is finished.
        unit: What a step is.
        num_done: Takes the text of the log so far and returns how many steps are done.
        after: Called once the command has succeeded.
    """

    name: str
    title: str
    command: tuple[str, ...]
    total: int
    unit: str
    num_done: Callable[[str], int]
    after: Callable[[], None] = _nothing


def make_stages(folder: DemoFolder, device: str) -> list[Stage]:
    """Returns all stages but the first, which makes the data.

    Args:
        folder: Where everything lies.
        device: ``cpu`` or ``cuda``, for nnU-Net's ``-device``.

    Raises:
        UserError: A command of nnU-Net is not installed.
    """
    prepared = folder.preprocessed / f"{PLANS}_{BASE}"
    trainers = {key: f"{trainer}_{folder.options.num_epochs}epochs" for key, trainer in NETWORKS.items()}
    stages = [
        Stage(
            "plan",
            "plan and preprocess",
            (program("nnUNetv2_plan_and_preprocess"), "-d", str(DATASET_ID), "-c", BASE, "-npfp", "2", "-np", "2",
             "--verify_dataset_integrity"),
            folder.options.num_cases,
            "case",
            lambda log: len(list(prepared.glob("*.pkl"))),
            lambda: add_demo_configuration(folder.preprocessed / f"{PLANS}.json"),
        )
    ]  # fmt: skip
    for key, trainer in trainers.items():
        stages.append(
            Stage(
                f"train-{key}",
                f"train {key}",
                (program("nnUNetv2_train"), str(DATASET_ID), CONFIGURATION, "0", "-tr", trainer, "-p", PLANS, "-device", device,
                 "--c"),
                folder.options.num_epochs + 1,
                "epochs and validation",
                lambda log: log.count(": Epoch time:"),
            )
        )  # fmt: skip
    for key, trainer in trainers.items():
        stages.append(
            Stage(
                f"predict-{key}",
                f"predict {key}",
                (program("nnUNetv2_predict"), "-d", str(DATASET_ID), "-i", str(folder.raw / "imagesTs"),
                 "-o", str(predictions(folder, key)), "-c", CONFIGURATION, "-f", "0", "-tr", trainer, "-p", PLANS,
                 "-device", device, "-npp", "0", "-nps", "0"),
                folder.options.num_test,
                "case",
                lambda log, key=key: len(list(predictions(folder, key).glob("*.nii.gz"))),
            )
        )  # fmt: skip
    return [*stages, *_comparisons(folder)]


def _comparisons(folder: DemoFolder) -> list[Stage]:
    compare = (sys.executable, "-m", "nnunet_dino.cli.main", "compare", "-o")
    return [
        Stage(
            "compare",
            "compare the validation",
            (*compare, str(folder.path / "report"), "-d", str(DATASET_ID), "-c", CONFIGURATION),
            1,
            "report",
            lambda log: 0,
        ),
        Stage(
            "compare-unseen",
            "compare unseen cases",
            (*compare, str(folder.path / "report-unseen"),
             "--folder", f"stock={predictions(folder, 'stock')}",
             "--folder", f"DINOv3-tiny-random={predictions(folder, 'dinov3')}",
             "--labels-folder", str(folder.raw / "labelsTs"),
             "--images-folder", str(folder.raw / "imagesTs"),
             "--dataset-json", str(folder.raw / "dataset.json")),
            1,
            "report",
            lambda log: 0,
        ),
    ]  # fmt: skip


def predictions(folder: DemoFolder, key: str) -> Path:
    """Returns where the predictions of unseen cases go."""
    return folder.path / "predictions" / key


def num_validation(num_cases: int) -> int:
    """Returns how many cases fold 0 of nnU-Net's five folds validates: its folds differ by one case at most."""
    return -(-num_cases // NUM_FOLDS)


def program(name: str) -> str:
    """Returns the path of a command: that of this Python's environment, else the first on the path.

    Raises:
        UserError: There is none.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise UserError(f"the command {name} required · got none beside {sys.executable} · pip install nnunet-dino")
    return found
