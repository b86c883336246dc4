"""``nnunet-dino demo``: phantom data, nnU-Net's commands on them with and without DINOv3, and a comparison."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from nnunet_dino.demo.children import StageFailed, progress_bar, run_stage
from nnunet_dino.demo.dataset import write_dataset
from nnunet_dino.demo.folder import DemoFolder, DemoOptions
from nnunet_dino.demo.stages import Stage, make_stages, num_validation

ENDING = (
    "What this shows: the whole way works on this machine. What it does not show: what DINOv3 adds, because the backbone "
    "here is tiny and its weights are random; nor which network is better, because after so few steps chance decides which "
    "organs one of them has found."
)


def run_demo(
    path: Path, options: DemoOptions, device: str = "auto", fresh: bool = False, say: Callable[[str], object] = print
) -> int:
    """Runs all stages that are not finished yet.

    Args:
        path: Folder for everything; made, or taken up where an earlier demo stopped.
        options: What is made and trained.
        device: ``cpu``, ``cuda``, or ``auto``: CUDA where there is a device.
        fresh: Delete what an earlier demo left in the folder.
        say: Takes lines for the user.

    Returns:
        Exit code: 1 if a stage failed, else 0.

    Raises:
        UserError: The folder cannot be used, or nnU-Net is not installed.
    """
    device = _resolved(device)
    folder = DemoFolder.open(path, options, fresh)
    stages = make_stages(folder, device)
    start = time.monotonic()
    say(f"Demo in {folder.path}, on {device}. Each finished stage is kept: start again to go on where it stopped.")
    num_stages = len(stages) + 1
    try:
        _step(folder, "data", "make phantoms", 1, num_stages, lambda: _make_data(folder), say)
        for number, stage in enumerate(stages, 2):
            _step(folder, stage.name, stage.title, number, num_stages, lambda stage=stage: _run(folder, stage), say)
    except StageFailed as error:
        say(f"\n{error}")
        return 1
    say(_ending(folder, time.monotonic() - start))
    return 0


def _resolved(device: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _step(
    folder: DemoFolder,
    name: str,
    title: str,
    number: int,
    num_stages: int,
    work: Callable[[], None],
    say: Callable[[str], object],
) -> None:
    """Does one stage unless it is finished."""
    heading = f"[{number}/{num_stages}] {title}"
    if name in folder.seconds:
        say(f"{heading}: finished before")
        return
    start = time.monotonic()
    work()
    folder.finish(name, time.monotonic() - start)
    say(f"{heading}: {_duration(folder.seconds[name])}")


def _make_data(folder: DemoFolder) -> None:
    options = folder.options
    with progress_bar("make phantoms", options.num_cases + options.num_test, "case") as bar:
        for _ in write_dataset(folder.raw, options.num_cases, options.num_test, options.seed):
            bar.update()


def _run(folder: DemoFolder, stage: Stage) -> None:
    run_stage(stage, folder.environment(), folder.log(stage.name))


def _ending(folder: DemoFolder, seconds: float) -> str:
    options = folder.options
    num_validated = num_validation(options.num_cases)
    all_seconds = sum(folder.seconds.values())
    return "\n".join([
        "",
        f"Fold 0, {num_validated} validation cases:",
        _summary(folder.log("compare")),
        "",
        f"{options.num_test} cases that training never saw:",
        _summary(folder.log("compare-unseen")),
        "",
        ENDING,
        "",
        f"This run took {_duration(seconds)}; all stages together {_duration(all_seconds)}.",
        f"Report of unseen cases: {folder.path / 'report-unseen' / 'report.html'}",
        f"Report: {folder.path / 'report' / 'report.html'}",
    ])  # fmt: skip


def _summary(log: Path) -> str:
    """Returns the sentence about the difference from the output of ``nnunet-dino compare``."""
    return next(text for text in log.read_text(encoding="utf-8").split("\n\n") if "mean Dice" in text)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
