"""The report of a probe: putting it together, and writing it with the predictions."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_dino import reports
from nnunet_dino.features.store.layout import StoreFacts
from nnunet_dino.probes.evaluation import Evaluation
from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.options import Request
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
from nnunet_dino.reports import Block, Heading, Picture, Report, Table
from nnunet_dino.reports.folder import NUMBERS, PAGE, TEXT

PREDICTIONS = "predictions.csv"
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
    evaluations: dict[str, Evaluation],
    method: str,
    numbers: dict[str, Any],
    untrained: Sequence[str] = (),
    warnings: Sequence[str] = (),
    sentences: Sequence[str] = (),
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
        evaluations: Of the scores, by part.
        method: How the probe works.
        numbers: What only this probe has to say to machines.
        untrained: Labels of which nothing was learned.
        warnings: More of them.
        sentences: The result in words, before that on the test part.
        tables: More of them, after the overall one.
        pictures: Attention on slides.
    """
    test, plot = evaluations["test"], roc_plot(evaluations["test"])
    of_store = [*(store_warnings(facts, num_failed, labelled) if facts else []), *labelled.notes]
    several = [label_table(test)] if len(labelled.names) > 1 else []
    of_features = method_of_features(facts, request.features) if facts else f"Features: as {request.store} holds them."
    blocks: list[Block] = [
        overall_table(evaluations, request.evaluation, labelled),
        *([plot] if plot else []),
        *tables,
        *several,
    ]
    blocks += [Heading("Attention"), *pictures] if pictures else []
    return Report(
        title=title,
        sentences=[*sentences, headline(what, test)],
        warnings=[*of_store, *result_warnings(evaluations, request.evaluation, untrained), *warnings],
        blocks=blocks,
        method=[of_features, method_of_split(labelled, how_split), method, METHOD_OF_METRICS],
        origin=reports.origin(request.command, PACKAGES),
        numbers={
            "probe": probe,
            "store": asdict(facts) if facts else request.store,
            "features": request.features if facts else None,
            "split": how_split,
            "evaluation": asdict(request.evaluation),
            **numbers,
            "metrics": {part: one.metrics for part, one in evaluations.items()},
        },
    )


def write_report(
    echo: Callable[[str], object],
    request: Request,
    report: Report,
    labelled: Labelled,
    scores: np.ndarray,
    more: dict[str, bytes] | None = None,
    extra: dict[str, Sequence[Any]] | None = None,
) -> None:
    """Writes a report with its predictions, and shows the short part of it.

    Args:
        echo: Takes the short part.
        request: Names the folder.
        report: What to write.
        labelled: Labels and parts.
        scores: ``n c``.
        more: Further files by name.
        extra: Further columns of the predictions, each ``n``.

    Raises:
        UserError: The folder cannot be written to.
    """
    folder, files = Path(request.output), {PREDICTIONS: _predictions_csv(labelled, scores, extra or {}), **(more or {})}
    reports.write_report(report, folder, files, request.overwrite)
    echo(reports.report_text(report))
    echo(f"\nReport: {folder / PAGE}\n  also: {', '.join([TEXT, NUMBERS, *files])}")


def _predictions_csv(labelled: Labelled, scores: np.ndarray, extra: dict[str, Sequence[Any]]) -> bytes:
    """Returns one row per input: id, patient, part, and every label's truth and score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [column for name in labelled.names for column in (name, f"score {name}")]
    writer.writerow(["id", "patient", "split", *extra, *columns])
    for position, name in enumerate(labelled.ids):
        pairs = zip(labelled.targets[position], scores[position], strict=True)
        cells = [cell for target, score in pairs for cell in (int(target), f"{score:.6g}")]
        others = [values[position] for values in extra.values()]
        writer.writerow([name, labelled.patients[position], labelled.split[position], *others, *cells])
    return text.getvalue().encode("utf-8")
