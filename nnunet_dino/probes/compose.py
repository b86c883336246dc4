"""Putting the report of a probe together, and writing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_dino import reports
from nnunet_dino.features.store.layout import StoreFacts
from nnunet_dino.probes.evaluation import Judged
from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.prepare import Request
from nnunet_dino.probes.report import PREDICTIONS, predictions_csv
from nnunet_dino.probes.result_tables import (
    METHOD_OF_METRICS,
    headline,
    judged_warnings,
    label_table,
    method_of_features,
    method_of_split,
    overall_table,
    store_warnings,
)
from nnunet_dino.probes.roc_plot import roc_plot
from nnunet_dino.reports import Block, Heading, Picture, Report, Table
from nnunet_dino.reports.folder import NUMBERS, PAGE, TEXT

PACKAGES = ("nnunet-dino", "torch", "timm", "scikit-learn", "numpy", "pandas")


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
    judged: dict[str, Judged],
    method: str,
    numbers: dict[str, Any],
    untrained: Sequence[str] = (),
    warnings: Sequence[str] = (),
    tables: Sequence[Table] = (),
    pictures: Sequence[Picture] = (),
) -> Report:
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
        judged: The scores.
        method: How the probe works.
        numbers: What only this probe has to say to machines.
        untrained: Labels of which nothing was learned.
        warnings: More of them.
        tables: More of them, after the overall one.
        pictures: Attention on slides.
    """
    test, plot = judged["test"], roc_plot(judged["test"])
    of_store = store_warnings(facts, num_failed, labelled) if facts else []
    several = [label_table(test)] if len(labelled.names) > 1 else []
    of_features = method_of_features(facts, request.features) if facts else f"Features: as {request.store} holds them."
    blocks: list[Block] = [overall_table(judged, request.judging), *([plot] if plot else []), *tables, *several]
    blocks += [Heading("Attention"), *pictures] if pictures else []
    return Report(
        title=title,
        sentences=[headline(what, test)],
        warnings=[*of_store, *judged_warnings(judged, request.judging, untrained), *warnings],
        blocks=blocks,
        method=[of_features, method_of_split(labelled, how_split), method, METHOD_OF_METRICS],
        origin=reports.origin(request.command, PACKAGES),
        numbers={
            "probe": probe,
            "store": asdict(facts) if facts else request.store,
            "features": request.features if facts else None,
            "split": how_split,
            "judging": asdict(request.judging),
            **numbers,
            "metrics": {part: one.metrics for part, one in judged.items()},
        },
    )


def write_report(
    echo: Callable[[str], object],
    request: Request,
    report: Report,
    labelled: Labelled,
    scores: np.ndarray,
    more: dict[str, bytes] | None = None,
) -> None:
    """Writes a report with its predictions, and shows the short part of it.

    Raises:
        UserError: The folder cannot be written to.
    """
    folder, files = Path(request.output), {PREDICTIONS: predictions_csv(labelled, scores), **(more or {})}
    reports.write_report(report, folder, files, request.overwrite)
    echo(reports.report_text(report))
    echo(f"\nReport: {folder / PAGE}\n  also: {', '.join([TEXT, NUMBERS, *files])}")
