"""A report as Markdown."""

from __future__ import annotations

from nnunet_dino.compare.report import Plot, Report
from nnunet_dino.compare.tables import Table


def markdown(report: Report, picture_files: dict[int, str]) -> str:
    """Lays a report out as Markdown.

    Args:
        report: What to say.
        picture_files: Path of every plot's and picture's file, relative to the document, by the ``id`` of its object.
    """
    blocks = [f"# {report.title}", *report.summaries, *(f"> **Note.** {warning}" for warning in report.warnings)]
    blocks += _table(report.tables["mean"])
    blocks += _plot(report.forest, picture_files)
    for name in ("classes", "differences"):
        blocks += _table(report.tables[name]) if name in report.tables else []
    for section in report.sections:
        blocks.append(f"## {section.versus.entry.name} against {section.versus.baseline.name}")
        blocks += _plot(section.plot, picture_files)
        for picture in section.pictures:
            blocks.append(f"### {picture.heading}")
            blocks += [f"![{picture.case}]({picture_files[id(picture)]})"] if picture.png else []
            blocks.append(picture.caption)
    blocks += _table(report.tables["cost"]) + _table(report.tables["sources"])
    blocks += ["## Method", *report.method, "\n".join(f"- {name}: {_cell(text)}" for name, text in report.origin)]
    return "\n\n".join(blocks) + "\n"


def _table(table: Table) -> list[str]:
    rules = ["---"] * table.num_text_columns + ["--:"] * (len(table.headers) - table.num_text_columns)
    lines = [_row(table.headers), "|" + "|".join(rules) + "|", *(_row(row) for row in table.rows)]
    return [f"## {table.title}", "\n".join(lines), table.caption]


def _row(cells) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plot(plot: Plot | None, picture_files: dict[int, str]) -> list[str]:
    return [f"![{plot.name}]({picture_files[id(plot)]})", plot.text] if plot else []
