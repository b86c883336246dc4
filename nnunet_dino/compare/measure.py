"""Measuring the predictions of results in processes, once: what was measured is kept by the digests of both files."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from nnunet_dino._errors import UserError
from nnunet_dino._files import user_cache, write_atomically
from nnunet_dino.compare.metrics import measure_files, tolerances_mm
from nnunet_dino.compare.records import Entry, Pictures
from nnunet_dino.compare.segmentations import check_grid, check_whole
from nnunet_dino.compare.summary_json import label_values

VERSION = 2
"""Of what is measured and how; another one measures anew."""
START_SECONDS = 4.0
"""About as long as a process takes to import what it measures with."""


@dataclass(frozen=True)
class _Pair:
    prediction: Path
    reference: Path
    labels: tuple[str, ...]
    tolerances: tuple[float, ...]
    ignore: int | None

    @cached_property
    def kept(self) -> Path:
        """Where the measurements are kept."""
        key = hashlib.sha256(repr((VERSION, self.labels, self.tolerances, self.ignore)).encode())
        for file in (self.prediction, self.reference):
            key.update(hashlib.sha256(file.read_bytes()).digest())
        return user_cache() / "metrics" / key.hexdigest()[:2] / f"{key.hexdigest()}.json"

    def earlier(self) -> list[dict[str, float]] | None:
        """Returns what was measured earlier, if it was."""
        try:
            return json.loads(self.kept.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def measured(self) -> list[dict[str, float]]:
        """Measures the files and keeps the outcome.

        Raises:
            UserError: A file is damaged, or they are not on one grid.
        """
        for file in (self.prediction, self.reference):
            check_whole(file)
        check_grid(self.prediction, self.reference)
        values = [label_values(label) for label in self.labels]
        rows = measure_files(self.prediction, self.reference, values, self.tolerances, self.ignore)
        write_atomically(self.kept, json.dumps(rows))
        return rows


def measure_entries(
    entries: Sequence[Entry], pictures: Pictures, metrics: Sequence[str], ignore: int | None = None
) -> list[pd.DataFrame]:
    """Measures every case of results; what was measured earlier is not measured again.

    What takes longer than processes take to start is measured in one for each core.

    Args:
        entries: Results with their predicted files and the same labels.
        pictures: The references.
        metrics: Names, for the tolerances of surfaces.
        ignore: Value of references where nothing counts.

    Returns:
        For each result measurements (:func:`nnunet_dino.compare.metrics.measure_masks`) by case and label.

    Raises:
        UserError: A file is missing, damaged, or not on the grid of its reference.
    """
    labels = tuple(entries[0].dice.columns)
    tolerances = tolerances_mm(metrics)
    keys = [(number, case) for number, entry in enumerate(entries) for case in entry.cases]
    pairs = {(n, case): _Pair(*_files(entries[n], pictures, case), labels, tolerances, ignore) for n, case in keys}
    found = {key: pair.earlier() for key, pair in pairs.items()}
    left = [key for key, rows in found.items() if rows is None]
    with tqdm(total=len(left), desc="Metrics", unit="case", disable=None if left else True, leave=False) as bar:
        until = time.monotonic() + START_SECONDS
        while left and time.monotonic() < until:
            key = left.pop()
            found[key] = pairs[key].measured()
            bar.update()
        if left:
            workers = min(os.cpu_count() or 1, len(left))
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
                jobs = {pool.submit(pairs[key].measured): key for key in left}
                for job in as_completed(jobs):
                    found[jobs[job]] = job.result()
                    bar.update()
    tables = []
    for number, entry in enumerate(entries):
        index = pd.MultiIndex.from_product([entry.cases, labels], names=["case", "label"])
        rows = [row for case in entry.cases for row in found[number, case] or ()]
        tables.append(pd.DataFrame(rows, index=index, dtype=float))
    return tables


def _files(entry: Entry, pictures: Pictures, case: str) -> tuple[Path, Path]:
    prediction, reference = entry.prediction(case), pictures.references.get(case)
    if prediction is None or reference is None:
        lost = "prediction" if prediction is None else "reference segmentation"
        raise UserError(
            f"--metric: required the predicted and the reference segmentation of every case · got no {lost} of {case} for "
            f"{entry.name} · validate again (nnUNetv2_train … --val), or give --labels-folder for folders"
        )
    return prediction, reference
