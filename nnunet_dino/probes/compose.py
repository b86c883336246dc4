"""Putting the report of a probe together, and writing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_dino.features.store.layout import StoreFacts
from nnunet_dino.probes.evaluation import Evaluation
from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.report import NAMES, PREDICTIONS, Picture, ProbeReport, predictions_csv, report_files, terminal_text
from nnunet_dino.probes.request import Request
from nnunet_dino.probes.result_tables import (
    METHOD_OF_METRICS,
    headline,
    label_table,
    method_of_features,
    method_of_split,
    overall_table,
    result_warnings,
    store_warnings,
)
from nnunet_dino.probes.roc_plot import roc_plot
from nnunet_dino.reports.folder import ReportFolder
from nnunet_dino.reports.origin import origin
from nnunet_dino.reports.table import Table

PACKAGES = ("nnunet-dino", "torch", "timm", "scikit-learn", "numpy", "pandas")


def report_folder(request: Request, *more: str) -> ReportFolder:
    """Returns the folder of the report, found to be usable.

    Args:
        request: Names it.
        more: Files that this probe writes beside those that all write.

    Raises:
        UserError: It cannot be used.
    """
    folder = ReportFolder(Path(request.output), "probe", (*NAMES, *more), request.overwrite)
    folder.check()
    return folder


def compose(
    request: Request,
    *,
    probe: str,
    what: str,
    title: str,
    facts: StoreFacts | None,
    num_failed: int,
    labelled: Labelled,
    how_split: str,
    evaluations: dict[str, Evaluation],
    method: str,
    numbers: dict[str, Any],
    untrained: Sequence[str] = (),
    warnings: Sequence[str] = (),
    tables: Sequence[Table] = (),
    pictures: Sequence[Picture] = (),
) -> ProbeReport:
    """Puts a report together.

    Args:
        request: What was asked.
        probe: ``linear``, ``knn`` or ``mil``, for machines.
        what: The probe in words, as the first of the result's sentence.
        title: Heading.
        facts: Of the store; None if the features come from elsewhere.
        num_failed: Inputs that could not be read.
        labelled: Labels and parts.
        how_split: How the parts came about.
        evaluations: Of the scores, by part.
        method: How the probe works.
        numbers: What only this probe has to say to machines.
        untrained: Labels of which nothing was learned.
        warnings: More of them.
        tables: More of them, after the overall one.
        pictures: Attention on slides.
    """
    test, plot = evaluations["test"], roc_plot(evaluations["test"])
    of_store = [*(store_warnings(facts, num_failed, labelled) if facts else []), *labelled.notes]
    several = [label_table(test)] if len(labelled.names) > 1 else []
    of_features = method_of_features(facts, request.features) if facts else f"Features: as {request.store} holds them."
    return ProbeReport(
        title=title,
        summaries=[headline(what, test)],
        warnings=[*of_store, *result_warnings(evaluations, request.evaluation, untrained), *warnings],
        tables=[overall_table(evaluations, request.evaluation), *tables, *several],
        plots=[plot] if plot else [],
        method=[of_features, method_of_split(labelled, how_split), method, METHOD_OF_METRICS],
        origin=origin(request.command, PACKAGES),
        numbers={
            "probe": probe,
            "store": asdict(facts) if facts else request.store,
            "features": request.features if facts else None,
            "split": how_split,
            "evaluation": asdict(request.evaluation),
            **numbers,
            "metrics": {part: one.metrics for part, one in evaluations.items()},
        },
        pictures=pictures,
    )


def write_report(
    echo: Callable[[str], object],
    folder: ReportFolder,
    report: ProbeReport,
    labelled: Labelled,
    scores: np.ndarray,
    more: dict[str, bytes] | None = None,
    extra: dict[str, Sequence[Any]] | None = None,
) -> None:
    """Writes a report with its predictions, and shows the short part of it.

    Raises:
        UserError: The folder cannot be written to.
    """
    folder.write({**report_files(report), PREDICTIONS: predictions_csv(labelled, scores, extra), **(more or {})})
    echo(terminal_text(report))
    echo(f"\nReport: {folder.path / NAMES[0]}\n  also: {', '.join([*NAMES[1:], *(more or {})])}")
