"""A report in a terminal: sentences and the short tables."""

from __future__ import annotations

import textwrap

from nnunet_dino.compare.report import Report
from nnunet_dino.compare.tables import Table

WIDTH = 100
MAX_ROWS = 40


def terminal_text(report: Report) -> str:
    """Lays the sentences, the warnings and the tables of a report out as plain text."""
    blocks = [report.title, *(textwrap.fill(text, WIDTH) for text in report.summaries)]
    blocks += [textwrap.fill(f"Note: {warning}", WIDTH) for warning in report.warnings]
    blocks += [_table(report.tables[name]) for name in ("mean", "classes", "differences", "cost") if name in report.tables]
    return "\n\n".join(blocks)


def _table(table: Table) -> str:
    if len(table.rows) > MAX_ROWS:
        return f"{table.title}\n({len(table.rows)} rows: see the report)"
    cells = [list(table.headers), *map(list, table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.headers))]
    lines = []
    for row in cells:
        texts = [
            text.ljust(width) if column < table.num_text_columns else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(texts).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join([table.title, *lines])
