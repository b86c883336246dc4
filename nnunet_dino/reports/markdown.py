"""A report as Markdown, with its pictures beside it."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_dino.reports.record import Block, Heading, Picture, Plot, Report, Table


def report_markdown(report: Report) -> str:
    """Lays a report out as Markdown; plots and pictures are those of :func:`picture_files`."""
    blocks = [f"# {report.title}", *report.sentences, *(f"> **Note.** {warning}" for warning in report.warnings)]
    blocks += [text for block in report.blocks for text in _block(block)]
    blocks += ["## Method", *report.method, "\n".join(f"- {name}: {_cell(text)}" for name, text in report.origin)]
    return "\n\n".join(blocks) + "\n"


def picture_files(report: Report) -> dict[str, bytes]:
    """Returns plots and pictures by the paths that the Markdown names."""
    plots = {_path(block): block.light for block in report.blocks if isinstance(block, Plot)}
    pictures = {_path(block): block.png for block in report.blocks if isinstance(block, Picture) and block.png}
    return plots | pictures


def _path(block: Plot | Picture) -> str:
    return f"pictures/{block.name}.{'svg' if isinstance(block, Plot) else 'png'}"


def _block(block: Block) -> list[str]:
    match block:
        case Heading():
            return [f"## {block.text} {block.aside}".strip()]
        case Table():
            return _table(block)
        case Plot():
            return [f"![{block.name}]({_path(block)})", block.text]
        case Picture():
            return [f"### {block.heading}", *([f"![{block.name}]({_path(block)})"] if block.png else []), block.caption]


def _table(table: Table) -> list[str]:
    rules = ["---"] * table.num_text_columns + ["--:"] * (len(table.headers) - table.num_text_columns)
    lines = [_row(table.headers), "|" + "|".join(rules) + "|", *(_row(row) for row in table.rows)]
    return [f"## {table.title}", "\n".join(lines), table.caption]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
