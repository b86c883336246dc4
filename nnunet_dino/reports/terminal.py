"""A report in a terminal: sentences, warnings and the tables that are short."""

from __future__ import annotations

import textwrap

from nnunet_dino.reports.record import Report, Table

WIDTH = 100
MAX_ROWS = 40


def report_text(report: Report) -> str:
    """Lays the short part of a report out as plain text."""
    blocks = [report.title, *(textwrap.fill(text, WIDTH) for text in report.sentences)]
    blocks += [textwrap.fill(f"Note: {warning}", WIDTH) for warning in report.warnings]
    return "\n\n".join([*blocks, *(_table(table) for table in report.tables if table.in_terminal)])


def _table(table: Table) -> str:
    """Lays a table out in columns; one with too many rows is only named."""
    if len(table.rows) > MAX_ROWS:
        return f"{table.title}\n({len(table.rows)} rows: see the report)"
    cells = [list(table.headers), *map(list, table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        texts = [
            text.ljust(width) if column < table.num_text_columns else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(texts).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join([table.title, *lines])
