"""One record of a report, laid out as a page, as Markdown and for a terminal."""

from nnunet_dino.reports.folder import check_folder, write_report
from nnunet_dino.reports.layouts import report_text, table_csv, table_latex
from nnunet_dino.reports.record import Block, Heading, Picture, Plot, Report, Table, origin

__all__ = [
    "Block",
    "Heading",
    "Picture",
    "Plot",
    "Report",
    "Table",
    "check_folder",
    "origin",
    "report_text",
    "table_csv",
    "table_latex",
    "write_report",
]
