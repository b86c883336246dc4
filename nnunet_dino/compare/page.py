"""A report as one HTML page that needs no other file."""

from __future__ import annotations

from html import escape

from nnunet_dino.compare.report import Report, Section
from nnunet_dino.reports.page import html_foot, html_head, html_page, html_picture, html_plot
from nnunet_dino.reports.table import html_table


def html(report: Report) -> str:
    """Lays a report out as an HTML page with embedded plots and pictures."""
    body = html_head(report.title, report.summaries, report.warnings)
    body += [html_table(report.tables["mean"]), html_plot(report.forest)]
    body += [html_table(report.tables[name]) for name in ("classes", "differences") if name in report.tables]
    body += [_section(section) for section in report.sections]
    body += [html_table(report.tables["cost"]), html_table(report.tables["sources"])]
    return html_page(report.title, [*body, *html_foot(report.method, report.origin)])


def _section(section: Section) -> str:
    versus = section.versus
    heading = f"<h2>{escape(versus.entry.name)} <span>against {escape(versus.baseline.name)}</span></h2>"
    pictures = (html_picture(picture.heading, picture.caption, picture.png) for picture in section.pictures)
    return "\n".join([heading, html_plot(section.plot), *pictures])
