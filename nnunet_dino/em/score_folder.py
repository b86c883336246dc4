"""Scores of folders of predictions, in the form of nnU-Net's ``summary.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_dino._errors import UserError
from nnunet_dino._files import write_atomically
from nnunet_dino.em.scores import score_neurons

NEURONS = "neurons"
ENDINGS = (".tif", ".tiff", ".nii.gz", ".nii", ".nrrd", ".mha")
TITLES = {
    "voi_split": "VOI split",
    "voi_merge": "VOI merge",
    "voi_sum": "VOI sum",
    "arand": "ARAND",
    "arand_cremi": "ARAND CREMI",
}


def score_files(predictions: Iterable[Path], truth: Path, read: Callable[[Path], NDArray[Any]]) -> dict[str, Any]:
    """Scores predictions against the labels of the same name.

    Args:
        predictions: Files.
        truth: Folder of labels.
        read: Reads a file into a volume of ids.

    Returns:
        As nnU-Net's summaries, with VOI and ARAND of ``"neurons"`` where those have Dice of a label.
    """
    cases: list[dict[str, Any]] = [
        {
            "prediction_file": str(file),
            "reference_file": str(truth / file.name),
            "metrics": {NEURONS: score_neurons(read(truth / file.name), read(file)).as_dict()},
        }
        for file in predictions
    ]
    mean = {name: float(np.mean([case["metrics"][NEURONS][name] for case in cases])) for name in cases[0]["metrics"][NEURONS]}
    return {"metric_per_case": cases, "mean": {NEURONS: mean}, "foreground_mean": mean}


def write_summary(summary: dict[str, Any], file: Path) -> None:
    """Writes a summary as JSON."""
    write_atomically(file, json.dumps(summary, indent=2) + "\n")


def score_folder(predictions: Path, truth: Path, output: Path | None = None) -> list[str]:
    """Scores a folder of TIFF, NIfTI or other volumes that nnU-Net writes, writes ``summary.json``, and returns a table.

    Raises:
        UserError: A folder is missing or empty, a prediction has no labels, or a pair cannot be compared.
    """
    for folder in (predictions, truth):
        if not folder.is_dir():
            raise UserError(f"{folder}: required a folder of volumes · it does not exist · check the path")
    files = sorted(file for file in predictions.iterdir() if file.name.endswith(ENDINGS))
    if not files:
        raise UserError(f"{predictions}: required segmentations ({', '.join(ENDINGS)}) · got none · check the path")
    if lost := [file.name for file in files if not (truth / file.name).is_file()]:
        raise UserError(f"{truth}: required labels for every segmentation · got none for {lost[0]} · check the folder")
    summary = score_files(tqdm(files, desc="Scoring", unit="volume", disable=None, leave=False), truth, read_ids)
    write_summary(summary, output or predictions / "summary.json")
    rows = [(Path(case["prediction_file"]).name, case["metrics"][NEURONS]) for case in summary["metric_per_case"]]
    lines = [f"{'':30} {' '.join(f'{title:>12}' for title in TITLES.values())}"]
    for name, scores in [*rows, ("mean", summary["foreground_mean"])]:
        lines.append(f"{name:30} {' '.join(f'{scores[key]:12.4f}' for key in TITLES)}")
    return lines


def read_ids(file: Path) -> NDArray[Any]:
    """Reads a volume of ids ``d h w``.

    Raises:
        UserError: It cannot be read.
    """
    try:
        if file.name.endswith((".tif", ".tiff")):
            import tifffile

            return tifffile.imread(file)
        import SimpleITK

        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))
    except Exception as error:  # every reader has errors of its own
        raise UserError(f"{file}: required a volume that can be read · got {type(error).__name__} · make it again") from error
