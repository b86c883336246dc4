"""The report of a probe: page, Markdown, JSON and predictions."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

from nnunet_dino.probes.labels import Labelled
from nnunet_dino.reports.page import html_foot, html_head, html_page, html_picture, html_plot
from nnunet_dino.reports.plot import Plot
from nnunet_dino.reports.table import Table, html_table, markdown_cell, markdown_table, text_table

PAGE, TEXT, NUMBERS, PREDICTIONS = "report.html", "report.md", "report.json", "predictions.csv"
NAMES = (PAGE, TEXT, NUMBERS, PREDICTIONS)


@dataclass(frozen=True)
class Picture:
    """A picture in a report."""

    name: str
    heading: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class ProbeReport:
    """What the report of a probe says, in reading order.

    Attributes:
        title: Heading.
        summaries: The result in sentences.
        warnings: What a reader must know before the numbers.
        tables: Numbers.
        plots: ROC curves.
        method: How it was done, one paragraph each.
        origin: Versions, command and date.
        numbers: The same for machines.
        pictures: Attention on slides.
    """

    title: str
    summaries: Sequence[str]
    warnings: Sequence[str]
    tables: Sequence[Table]
    plots: Sequence[Plot]
    method: Sequence[str]
    origin: Sequence[tuple[str, str]]
    numbers: dict[str, Any]
    pictures: Sequence[Picture] = field(default_factory=tuple)


def report_files(report: ProbeReport) -> dict[str, bytes]:
    """Returns the files of a report by their names."""
    plots = {f"pictures/{plot.name}.svg": plot.light for plot in report.plots}
    pictures = {f"pictures/{picture.name}.png": picture.png for picture in report.pictures}
    texts = {PAGE: _html(report), TEXT: _markdown(report), NUMBERS: _json(report)}
    return {name: text.encode("utf-8") for name, text in texts.items()} | plots | pictures


def _html(report: ProbeReport) -> str:
    body = html_head(report.title, report.summaries, report.warnings)
    first, *others = report.tables
    body += [html_table(first), *(html_plot(plot) for plot in report.plots), *(html_table(table) for table in others)]
    if report.pictures:
        body += [f"<h2>{escape('Attention')}</h2>"]
        body += [html_picture(picture.heading, picture.caption, picture.png) for picture in report.pictures]
    return html_page(report.title, [*body, *html_foot(report.method, report.origin)])


def _markdown(report: ProbeReport) -> str:
    blocks = [f"# {report.title}", *report.summaries, *(f"> **Note.** {warning}" for warning in report.warnings)]
    first, *others = report.tables
    blocks += markdown_table(first)
    for plot in report.plots:
        blocks += [f"![{plot.name}](pictures/{plot.name}.svg)", plot.text]
    for table in others:
        blocks += markdown_table(table)
    for picture in report.pictures:
        blocks += [f"### {picture.heading}", f"![{picture.name}](pictures/{picture.name}.png)", picture.caption]
    blocks += ["## Method", *report.method, "\n".join(f"- {name}: {markdown_cell(text)}" for name, text in report.origin)]
    return "\n\n".join(blocks) + "\n"


def _json(report: ProbeReport) -> str:
    return json.dumps(plain(report.numbers), indent=1, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
    """Returns a value as JSON has it; what is undefined is null."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if hasattr(value, "__dataclass_fields__"):
        return plain(asdict(value))
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def terminal_text(report: ProbeReport) -> str:
    """Lays the sentences, the warnings and the first table out as plain text."""
    warnings = [f"Note: {warning}" for warning in report.warnings]
    return "\n\n".join([report.title, *report.summaries, *warnings, text_table(report.tables[0])])


def predictions_csv(labelled: Labelled, scores: Any, extra: dict[str, Sequence[Any]] | None = None) -> bytes:
    """Returns one row per input: id, patient, part, and every label's truth and score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [column for name in labelled.names for column in (name, f"score {name}")]
    writer.writerow(["id", "patient", "split", *(extra or {}), *columns])
    for position, name in enumerate(labelled.ids):
        pairs = zip(labelled.targets[position], scores[position], strict=True)
        cells = [cell for target, score in pairs for cell in (int(target), f"{score:.6g}")]
        others = [values[position] for values in (extra or {}).values()]
        writer.writerow([name, labelled.patients[position], labelled.split[position], *others, *cells])
    return text.getvalue().encode("utf-8")
