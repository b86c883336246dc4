"""A report in a terminal: sentences and the short tables."""

from __future__ import annotations

import textwrap

from nnunet_dino.compare.report import Report
from nnunet_dino.reports.table import text_table

WIDTH = 100


def terminal_text(report: Report) -> str:
    """Lays the sentences, the warnings and the tables of a report out as plain text."""
    blocks = [report.title, *(textwrap.fill(text, WIDTH) for text in report.summaries)]
    blocks += [textwrap.fill(f"Note: {warning}", WIDTH) for warning in report.warnings]
    blocks += [text_table(report.tables[name]) for name in ("mean", "classes", "differences", "cost") if name in report.tables]
    return "\n\n".join(blocks)
