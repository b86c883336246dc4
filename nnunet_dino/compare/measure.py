"""Measuring the predictions of results in processes, once: what was measured is kept by the digests of both files."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from nnunet_dino._errors import UserError
from nnunet_dino._files import user_cache, write_atomically
from nnunet_dino.compare.metrics import measure_files, tolerances_mm
from nnunet_dino.compare.records import Entry, Pictures
from nnunet_dino.compare.segmentations import check_grid, check_whole
from nnunet_dino.compare.summary_json import label_values

VERSION = 1
"""Of what is measured and how; another one measures anew."""


@dataclass(frozen=True)
class _Pair:
    prediction: Path
    reference: Path
    labels: tuple[str, ...]
    tolerances: tuple[float, ...]
    ignore: int | None

    def measured(self) -> list[dict[str, float]]:
        """Measures the files, or takes what was kept.

        Raises:
            UserError: A file is damaged, or they are not on one grid.
        """
        key = hashlib.sha256(repr((VERSION, self.labels, self.tolerances, self.ignore)).encode())
        for file in (self.prediction, self.reference):
            key.update(hashlib.sha256(file.read_bytes()).digest())
        kept = user_cache() / "metrics" / key.hexdigest()[:2] / f"{key.hexdigest()}.json"
        try:
            return json.loads(kept.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            pass
        for file in (self.prediction, self.reference):
            check_whole(file)
        check_grid(self.prediction, self.reference)
        values = [label_values(label) for label in self.labels]
        rows = measure_files(self.prediction, self.reference, values, self.tolerances, self.ignore)
        write_atomically(kept, json.dumps(rows))
        return rows


def measure_entry(
    entry: Entry, pictures: Pictures, metrics: Sequence[str], ignore: int | None = None, num_processes: int | None = None
) -> pd.DataFrame:
    """Measures every case of a result.

    Args:
        entry: The result, with its predicted files.
        pictures: The references.
        metrics: Names, for the tolerances of surfaces.
        ignore: Value of references where nothing counts.
        num_processes: By default one for each core.

    Returns:
        Measurements (:func:`nnunet_dino.compare.metrics.measure_masks`) by case and label.

    Raises:
        UserError: A file is missing, damaged, or not on the grid of its reference.
    """
    labels = tuple(entry.dice.columns)
    pairs = {case: _Pair(*_files(entry, pictures, case), labels, tolerances_mm(metrics), ignore) for case in entry.cases}
    spawn = multiprocessing.get_context("spawn")
    num_processes = min(num_processes or os.cpu_count() or 1, len(pairs))
    with (
        ProcessPoolExecutor(num_processes, spawn) as pool,
        tqdm(total=len(pairs), desc=f"Metrics of {entry.name}", unit="case", disable=None, leave=False) as bar,
    ):
        jobs = {pool.submit(pair.measured): case for case, pair in pairs.items()}
        rows = {}
        for job in as_completed(jobs):
            for label, row in zip(labels, job.result(), strict=True):
                rows[jobs[job], label] = row
            bar.update()
    index = pd.MultiIndex.from_product([entry.cases, labels], names=["case", "label"])
    return pd.DataFrame([rows[key] for key in index], index=index, dtype=float)


def _files(entry: Entry, pictures: Pictures, case: str) -> tuple[Path, Path]:
    prediction, reference = entry.prediction(case), pictures.references.get(case)
    if prediction is None or reference is None:
        lost = "prediction" if prediction is None else "reference segmentation"
        raise UserError(
            f"--metric: required the predicted and the reference segmentation of every case · got no {lost} of {case} for "
            f"{entry.name} · validate again (nnUNetv2_train … --val), or give --labels-folder for folders"
        )
    return prediction, reference
