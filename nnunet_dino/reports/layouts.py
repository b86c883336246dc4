"""A report as an HTML page that needs no other file, as Markdown with its pictures beside it, and in a terminal."""

from __future__ import annotations

import base64
import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace

import jinja2
from markupsafe import Markup, escape

from nnunet_dino._files import csv_text
from nnunet_dino.reports.record import Block, Heading, Picture, Plot, Report, Table

TERMINAL_WIDTH = 100
MAX_TERMINAL_ROWS = 40
MAX_BYTES_IN_PAGE = 5_000_000  # of pictures


def report_page(report: Report) -> str:
    """Lays a report out as one HTML page with its plots and pictures in it; pictures of many megabytes stay beside it."""
    report = without_empty_tables(report)
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("nnunet_dino", "reports"), autoescape=True, trim_blocks=True, keep_trailing_newline=True
    )
    pages.filters |= {"base64": _base64, "held": _held, "breakable": _breakable, "path": _path}
    pictures_bytes = sum(len(block.png) for block in report.blocks if isinstance(block, Picture) and block.png)
    return pages.get_template("page.html").render(report=report, are_beside=pictures_bytes > MAX_BYTES_IN_PAGE)


def without_empty_tables(report: Report) -> Report:
    """Leaves out tables without a row."""
    return replace(report, blocks=[block for block in report.blocks if not isinstance(block, Table) or block.rows])


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _held(text: str) -> str:
    """Keeps ``n = 20``, ``[0.1, 0.2]`` and ``(random weights)`` on one line each."""
    return re.sub(r" [=<] |\[[^\]]*\]|\(random weights\)", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def _breakable(text: str) -> Markup:
    """Escapes text; the long names of trainers and plans may be broken at their joints."""

    def with_joints(name: re.Match[str]) -> str:
        return re.sub(r"(?<=[a-z0-9])(?=_|DINO)", "<wbr>", name[0])

    return Markup(re.sub(r"nnUNet\w+", with_joints, escape(_held(text))))


def report_markdown(report: Report) -> str:
    """Lays a report out as Markdown; plots and pictures are those of :func:`picture_files`."""
    report = without_empty_tables(report)
    blocks = [f"# {report.title}", *report.sentences, *(f"> **Note.** {warning}" for warning in report.warnings)]
    blocks += [text for block in report.blocks for text in _markdown_block(block)]
    blocks += ["## Method", *report.method, "\n".join(f"- {name}: {_markdown_cell(text)}" for name, text in report.origin)]
    return "\n\n".join(blocks) + "\n"


def picture_files(report: Report) -> dict[str, bytes]:
    """Returns plots and pictures by the paths that the Markdown names."""
    plots = {_path(block): block.light for block in report.blocks if isinstance(block, Plot)}
    pictures = {_path(block): block.png for block in report.blocks if isinstance(block, Picture) and block.png}
    return plots | pictures


def _path(block: Plot | Picture) -> str:
    return f"pictures/{block.name}.{'svg' if isinstance(block, Plot) else 'png'}"


def _markdown_block(block: Block) -> list[str]:
    match block:
        case Heading():
            return [f"## {block.text} {block.aside}".strip()]
        case Table():
            rules = ["---"] * block.num_text_columns + ["--:"] * (len(block.headers) - block.num_text_columns)
            rows = [[f"[{text}]({block.links[text]})" if text in block.links else text for text in row] for row in block.rows]
            lines = [_markdown_row(block.headers), f"|{'|'.join(rules)}|", *map(_markdown_row, rows)]
            return [f"## {block.title}", "\n".join(lines), block.caption]
        case Plot():
            return [f"![{block.name}]({_path(block)})", block.text]
        case Picture():
            return [f"### {block.heading}", *([f"![{block.name}]({_path(block)})"] if block.png else []), block.caption]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_markdown_cell, cells))} |"


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def report_text(report: Report) -> str:
    """Lays sentences, warnings and the short tables of a report out for a terminal."""
    report = without_empty_tables(report)
    blocks = [report.title, *(textwrap.fill(text, TERMINAL_WIDTH) for text in report.sentences)]
    blocks += [textwrap.fill(f"Note: {warning}", TERMINAL_WIDTH) for warning in report.warnings]
    return "\n\n".join([*blocks, *(_terminal_table(table) for table in report.tables if table.in_terminal)])


def _terminal_table(table: Table) -> str:
    """Lays a table out in columns; one with too many rows is only named."""
    if len(table.rows) > MAX_TERMINAL_ROWS:
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


def table_csv(table: Table) -> str:
    """Lays a table out as CSV, as its cells read."""
    return csv_text([table.headers, *table.rows])


_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "\\": r"\textbackslash{}"}
_LATEX |= {"±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "−": "$-$", "–": "--", "·": r"$\cdot$", "×": r"$\times$"}
_LATEX |= {"<": "$<$", ">": "$>$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def table_latex(table: Table) -> str:
    """Lays a table out as a LaTeX ``tabular`` with the rules of booktabs."""
    columns = "l" * table.num_text_columns + "r" * (len(table.headers) - table.num_text_columns)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_row(table.headers), r"\midrule"]
    return "\n".join([*lines, *map(_latex_row, table.rows), r"\bottomrule", r"\end{tabular}", ""])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in cells) + r" \\"
