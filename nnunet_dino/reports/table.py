"""A table of text, laid out as HTML, as Markdown and for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

MAX_ROWS_IN_TERMINAL = 40


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: Heading.
        headers: Column headings.
        rows: Cells; as many per row as there are headings.
        caption: How to read it.
        num_text_columns: Leading columns that hold names; the others hold numbers.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    num_text_columns: int = 1


def html_table(table: Table) -> str:
    """Lays a table out as HTML, under its title."""

    def cells(row: Sequence[str], tag: str) -> str:
        kinds = ["text" if position < table.num_text_columns else "number" for position in range(len(row))]
        return "".join(f'<{tag} class="{kind}">{_breakable(text)}</{tag}>' for kind, text in zip(kinds, row, strict=True))

    rows = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    return (
        f'<h2>{escape(table.title)}</h2>\n<div class="wide"><table>\n<thead><tr>{cells(table.headers, "th")}</tr></thead>\n'
        f'<tbody>\n{rows}\n</tbody>\n</table></div>\n<p class="caption">{escape(table.caption)}</p>'
    )


def held(text: str) -> str:
    """Keeps ``n = 20``, ``[0.1, 0.2]`` and ``(random weights)`` on one line each."""
    return re.sub(r" [=<] |\[[^\]]*\]|\(random weights\)", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def _breakable(text: str) -> str:
    """Escapes text; the long names of trainers and plans may be broken at their joints."""

    def with_joints(name: re.Match) -> str:
        return re.sub(r"(?<=[a-z0-9])(?=_|DINO)", "\0", name[0])

    return escape(re.sub(r"nnUNet\w+", with_joints, held(text))).replace("\0", "<wbr>")


def markdown_table(table: Table) -> list[str]:
    """Lays a table out as blocks of Markdown: title, table, caption."""
    rules = ["---"] * table.num_text_columns + ["--:"] * (len(table.headers) - table.num_text_columns)
    lines = [_row(table.headers), "|" + "|".join(rules) + "|", *(_row(row) for row in table.rows)]
    return [f"## {table.title}", "\n".join(lines), table.caption]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown_cell(cell) for cell in cells) + " |"


def markdown_cell(text: str) -> str:
    """Makes text fit into a cell or a line of Markdown."""
    return text.replace("|", "\\|").replace("\n", " ")


def text_table(table: Table) -> str:
    """Lays a table out for a terminal; one with too many rows is only named."""
    if len(table.rows) > MAX_ROWS_IN_TERMINAL:
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
