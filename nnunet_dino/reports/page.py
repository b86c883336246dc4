"""The HTML page of a report, which needs no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape

from nnunet_dino.reports.record import Block, Heading, Picture, Plot, Report, Table
from nnunet_dino.reports.style import STYLE

NOTHING_LOADED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def report_page(report: Report) -> str:
    """Lays a report out as one HTML page with its plots and pictures in it."""
    names = "".join(f"<dt>{escape(name)}</dt><dd>{_origin(name, text)}</dd>" for name, text in report.origin)
    body = [
        *html_head(report.title, report.sentences, report.warnings),
        *(_block(block) for block in report.blocks),
        "<h2>Method</h2>",
        '<div class="method">',
        *(f"<p>{escape(text)}</p>" for text in report.method),
        "</div>",
        f"<dl>{names}</dl>",
    ]
    return html_page(report.title, body)


def html_page(title: str, body: Sequence[str], policy: str = NOTHING_LOADED) -> str:
    """Puts the parts of a body, as HTML, into a page.

    Args:
        title: Of the window.
        body: HTML.
        policy: What the page may load and run.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def html_head(title: str, sentences: Sequence[str], warnings: Sequence[str]) -> list[str]:
    """Returns the heading, the result in words, and what must be known before the numbers."""
    return [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="lead">{escape(_held(text))}</p>' for text in sentences),
        *(f'<p class="warning">{escape(warning)}</p>' for warning in warnings),
    ]


def data_uri(kind: str, content: bytes) -> str:
    """Returns content as an address that can stand in a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _block(block: Block) -> str:
    match block:
        case Heading():
            aside = f" <span>{escape(block.aside)}</span>" if block.aside else ""
            return f"<h2>{escape(block.text)}{aside}</h2>"
        case Table():
            return _table(block)
        case Plot():
            return _plot(block)
        case Picture():
            return _picture(block)


def _table(table: Table) -> str:
    """Lays a table out under its title; wide ones scroll, by keyboard too."""
    kinds = ["text" if position < table.num_text_columns else "number" for position in range(len(table.headers))]
    heads = (f'<th scope="col" class="{kind}">{_breakable(text)}</th>' for kind, text in zip(kinds, table.headers, strict=True))
    rows = []
    for first, *others in table.rows:
        cells = (f'<td class="{kind}">{_breakable(text)}</td>' for kind, text in zip(kinds[1:], others, strict=True))
        rows.append(f'<tr><th scope="row" class="{kinds[0]}">{_breakable(first)}</th>{"".join(cells)}</tr>')
    return (
        f"<h2>{escape(table.title)}</h2>\n"
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(table.title)}"><table>\n'
        f"<caption>{escape(table.caption)}</caption>\n<thead><tr>{''.join(heads)}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(rows)}\n</tbody>\n</table></div>"
    )


def _plot(plot: Plot) -> str:
    """Shows a plot that follows the reader's light or dark screen."""
    light, dark = (data_uri("image/svg+xml", content) for content in (plot.light, plot.dark))
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(plot.text)}"></picture><figcaption>{escape(plot.text)}</figcaption></figure>'
    )


def _picture(picture: Picture) -> str:
    heading = escape(picture.heading)
    image = f'<img class="case" src="{data_uri("image/png", picture.png)}" alt="{heading}">' if picture.png else ""
    return f"<figure><h3>{heading}</h3>{image}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _origin(name: str, text: str) -> str:
    return f"<code>{escape(text)}</code>" if name == "Command" else escape(text)


def _held(text: str) -> str:
    """Keeps ``n = 20``, ``[0.1, 0.2]`` and ``(random weights)`` on one line each."""
    return re.sub(r" [=<] |\[[^\]]*\]|\(random weights\)", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def _breakable(text: str) -> str:
    """Escapes text; the long names of trainers and plans may be broken at their joints."""

    def with_joints(name: re.Match[str]) -> str:
        return re.sub(r"(?<=[a-z0-9])(?=_|DINO)", "\0", name[0])

    return escape(re.sub(r"nnUNet\w+", with_joints, _held(text))).replace("\0", "<wbr>")
