"""The report of a probe: putting it together, and writing it with the predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_dino import reports
from nnunet_dino._files import csv_text
from nnunet_dino.features.encoder import pick_device
from nnunet_dino.features.store.reader import FeatureStore
from nnunet_dino.probes.fold_tables import Judged
from nnunet_dino.probes.given import ENDINGS, GivenVectors, refuse_no_store
from nnunet_dino.probes.labels import Labelled, labelled_vectors
from nnunet_dino.probes.options import Request
from nnunet_dino.probes.result_tables import (
    METHOD_OF_METRICS,
    confusion_table,
    headline,
    label_table,
    method_of_features,
    method_of_split,
    overall_table,
    result_warnings,
    store_warnings,
)
from nnunet_dino.probes.roc_plot import calibration_plot, roc_plot
from nnunet_dino.reports import Block, Heading, Picture, Plot, Report, Table
from nnunet_dino.reports.folder import NUMBERS, PAGE, TEXT

PREDICTIONS = "predictions.csv"
PACKAGES = ("nnunet-dino", "torch", "timm", "scikit-learn", "numpy", "pandas")


def open_request(request: Request) -> tuple[torch.device, FeatureStore | GivenVectors, Labelled, np.ndarray]:
    """Checks where the report goes, and returns the device, the features, and what is labelled with its vectors.

    Raises:
        UserError: The folder, the device, the store or the labels cannot be used.
    """
    reports.check_folder(Path(request.output), request.overwrite)
    device, given = pick_device(request.device), Path(request.store)
    if given.suffix in ENDINGS and given.is_file():
        store: FeatureStore | GivenVectors = GivenVectors(given)
    else:
        refuse_no_store(given, "a .npy, .npz or .parquet file")
        store = FeatureStore(given)
    return device, store, *labelled_vectors(store, request.label_columns, request.features)


def report_scores(
    request: Request,
    store: FeatureStore | GivenVectors | None,
    judged: Judged,
    echo: Callable[[str], object],
    *,
    probe: str,
    what: str,
    title: str,
    method: str,
    numbers: dict[str, Any],
    untrained: Sequence[str] = (),
    warnings: Sequence[str] = (),
    tables: Sequence[Table | Plot] = (),
    pictures: Sequence[Picture] = (),
    files: dict[str, bytes] | None = None,
) -> Report:
    """Puts a report together, writes it with the predictions, and shows the short part of it.

    Args:
        request: What was asked.
        store: Where the features are from; None if from elsewhere.
        judged: Labels, scores, and what they are worth.
        echo: Takes the short part.
        probe: ``linear``, ``knn`` or ``mil``, for machines.
        what: The probe in words, as the first of the result's sentence.
        title: Heading.
        method: How the probe works.
        numbers: What only this probe has to say to machines.
        untrained: Labels of which nothing was learned.
        warnings: More of them.
        tables: More of them, and plots, after the overall one and those of folds.
        pictures: Attention on slides.
        files: Further files by name.

    Raises:
        UserError: The folder cannot be written to.
    """
    labelled, evaluations = judged.labelled, judged.evaluations
    test = evaluations["test"]
    plots = [plot for plot in (roc_plot(test), calibration_plot(test)) if plot]
    store = store if isinstance(store, FeatureStore) else None
    blocks: list[Block] = [overall_table(evaluations, request.evaluation, labelled), *plots, *judged.tables, *tables]
    blocks += [label_table(test)] if len(labelled.names) > 1 else []
    blocks += [confusion_table(test)] if labelled.is_exclusive and len(labelled.names) > 1 else []
    blocks += [Heading("Attention"), *pictures] if pictures else []
    of_features = method_of_features(store.facts, request.features) if store else f"Features: as {request.store} holds them."
    of_store = store_warnings(store, labelled) if store else []
    report = Report(
        title=title,
        sentences=[*filter(None, [judged.sentence]), headline(what + judged.aside, test)],
        warnings=[*of_store, *labelled.notes, *result_warnings(evaluations, request.evaluation, untrained), *warnings],
        blocks=blocks,
        method=[of_features, method_of_split(labelled), method, METHOD_OF_METRICS],
        origin=reports.origin(request.command, PACKAGES),
        numbers={
            "probe": probe,
            "store": asdict(store.facts) if store else request.store,
            "features": request.features if store else None,
            "split": labelled.how_split,
            "evaluation": asdict(request.evaluation),
            **numbers,
            "metrics": {part: one.metrics for part, one in evaluations.items()},
        },
    )
    folder, others = Path(request.output), {PREDICTIONS: _predictions_csv(judged), **(files or {})}
    reports.write_report(report, folder, others, request.overwrite)
    echo(reports.report_text(report))
    echo(f"\nReport: {folder / PAGE}\n  also: {', '.join([TEXT, NUMBERS, *others])}")
    return report


def _predictions_csv(judged: Judged) -> bytes:
    """Returns one row per input: id, patient, part, fold if there are any, and every label's truth and score."""
    labelled, has_folds = judged.labelled, len(judged.fold_of) > 0
    columns = [column for name in labelled.names for column in (name, f"score {name}")]
    rows: list[list[Any]] = [["id", "patient", "split", *(["fold"] if has_folds else []), *columns]]
    for position, name in enumerate(labelled.ids):
        pairs = zip(labelled.targets[position], judged.scores[position], strict=True)
        cells = [cell for target, score in pairs for cell in (int(target), f"{score:.6g}")]
        fold = judged.fold_of[position : position + 1]
        rows.append([name, labelled.patients[position], labelled.split[position], *fold, *cells])
    return csv_text(rows).encode("utf-8")
