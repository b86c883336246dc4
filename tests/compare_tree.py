"""A small tree of nnU-Net results on disk: real NIfTI files, summaries written by nnU-Net's own evaluation."""

from __future__ import annotations

import json
import multiprocessing.pool
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import SimpleITK as sitk

DATASET = "Dataset905_Phantom"
LABELS = {"background": 0, "liver": 1, "spleen": 2}
SHAPE = (6, 22, 27)
SPACING_MM = (3.0, 0.8, 0.6)


def reference(case: int) -> np.ndarray:
    """Two boxes, ``d h w``; every case has its own sizes, and case 3 has no spleen."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:5, 3 : 10 + case % 3, 4:15] = 1
    if case != 3:
        labels[2:4, 13:19, 5 : 12 + case % 5] = 2
    return labels


def shifted(labels: np.ndarray, pixels: int) -> np.ndarray:
    """A prediction: the reference moved by whole pixels along the width."""
    return np.roll(labels, pixels, axis=2)


def save(values: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(SPACING_MM[::-1])
    sitk.WriteImage(image, str(file))


def evaluate(references: Path, predictions: Path, summary: Path, labels: list = (1, 2), ignore: int | None = None) -> None:
    """Runs nnU-Net's ``compute_metrics_on_folder``, with threads in place of its worker processes."""
    from nnunetv2.evaluation import evaluate_predictions
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    threads = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=lambda _: multiprocessing.pool.ThreadPool(1)))
    with mock.patch.object(evaluate_predictions, "multiprocessing", threads):
        evaluate_predictions.compute_metrics_on_folder(
            str(references), str(predictions), str(summary), SimpleITKIO(), ".nii.gz", list(labels), ignore, 1
        )


class Tree:
    """nnU-Net's three folders with one data set and as many results as a test adds."""

    def __init__(self, root: Path, num_cases: int = 8) -> None:
        self.raw, self.preprocessed, self.results = (root / name for name in ("raw", "preprocessed", "results"))
        self.cases = [f"case_{number:02d}" for number in range(num_cases)]
        self.description = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": num_cases, "file_ending": ".nii.gz"}
        self.references = self.preprocessed / DATASET / "gt_segmentations"
        rng = np.random.default_rng(7)
        for number, case in enumerate(self.cases):
            labels = reference(number)
            save(labels, self.references / f"{case}.nii.gz")
            noise = rng.normal(100 * labels, 20).astype(np.float32)
            save(noise, self.raw / DATASET / "imagesTr" / f"{case}_0000.nii.gz")
        self.write_json(self.raw / DATASET / "dataset.json", self.description)
        (self.results / DATASET).mkdir(parents=True)

    @property
    def folder(self) -> Path:
        return self.results / DATASET

    @staticmethod
    def write_json(file: Path, content: dict) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")

    def cases_of_fold(self, fold: int | str) -> list[str]:
        return self.cases if fold == "all" else self.cases[int(fold) :: 2]

    def add(
        self,
        trainer: str,
        shift: int | Mapping[str, int] = 1,
        *,
        plans: str = "nnUNetPlans",
        configuration: str = "3d_fullres",
        folds: tuple = (0, 1),
        epoch_s: tuple[float, ...] = (12.5, 10.0, 11.0),
        debug: Mapping[str, str] | None = None,
        facts: Mapping | None = None,
    ) -> Path:
        """Adds a result whose predictions are the references moved by ``shift`` pixels (one number, or one per case)."""
        model = self.folder / f"{trainer}__{plans}__{configuration}"
        self.write_json(model / "dataset.json", self.description)
        for fold in folds:
            output = model / f"fold_{fold}"
            for case in self.cases_of_fold(fold):
                pixels = shift if isinstance(shift, int) else shift.get(case, 0)
                save(shifted(reference(self.cases.index(case)), pixels), output / "validation" / f"{case}.nii.gz")
            evaluate(self.references, output / "validation", output / "validation" / "summary.json")
            lines = [f"2026-01-02 03:04:05.678901: Epoch time: {seconds} s" for seconds in epoch_s]
            (output / "training_log_2026_1_2_03_04_05.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            if debug:
                self.write_json(output / "debug.json", dict(debug))
            if facts:
                self.write_json(output / "nnunet_dino.json", dict(facts))
        return model

    def use(self, monkeypatch) -> None:
        """Points nnU-Net's environment variables here."""
        for name in ("raw", "preprocessed", "results"):
            monkeypatch.setenv(f"nnUNet_{name}", str(getattr(self, name)))


def moving(cases: list[str], shifts: list[int]) -> dict[str, int]:
    """One shift per case."""
    return dict(zip(cases, shifts, strict=True))
