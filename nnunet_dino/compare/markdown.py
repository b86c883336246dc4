"""A report as Markdown."""

from __future__ import annotations

from nnunet_dino.compare.report import Report
from nnunet_dino.reports.plot import Plot
from nnunet_dino.reports.table import markdown_cell, markdown_table


def markdown(report: Report, picture_files: dict[int, str]) -> str:
    """Lays a report out as Markdown.

    Args:
        report: What to say.
        picture_files: Path of every plot's and picture's file, relative to the document, by the ``id`` of its object.
    """
    blocks = [f"# {report.title}", *report.summaries, *(f"> **Note.** {warning}" for warning in report.warnings)]
    blocks += markdown_table(report.tables["mean"])
    blocks += _plot(report.forest, picture_files)
    for name in ("classes", "differences"):
        blocks += markdown_table(report.tables[name]) if name in report.tables else []
    for section in report.sections:
        blocks.append(f"## {section.versus.entry.name} against {section.versus.baseline.name}")
        blocks += _plot(section.plot, picture_files)
        for picture in section.pictures:
            blocks.append(f"### {picture.heading}")
            blocks += [f"![{picture.case}]({picture_files[id(picture)]})"] if picture.png else []
            blocks.append(picture.caption)
    blocks += markdown_table(report.tables["cost"]) + markdown_table(report.tables["sources"])
    blocks += ["## Method", *report.method, "\n".join(f"- {name}: {markdown_cell(text)}" for name, text in report.origin)]
    return "\n\n".join(blocks) + "\n"


def _plot(plot: Plot | None, picture_files: dict[int, str]) -> list[str]:
    return [f"![{plot.name}]({picture_files[id(plot)]})", plot.text] if plot else []
