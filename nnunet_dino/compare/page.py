"""A report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import re
from html import escape

from nnunet_dino.compare.overlays import CasePicture
from nnunet_dino.compare.page_style import STYLE
from nnunet_dino.compare.report import Plot, Report, Section
from nnunet_dino.compare.tables import Table

NOTHING_LOADED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html(report: Report) -> str:
    """Lays a report out as an HTML page with embedded plots and pictures."""
    body = [f"<h1>{escape(report.title)}</h1>", *(f'<p class="lead">{escape(_held(text))}</p>' for text in report.summaries)]
    body += [f'<p class="warning">{escape(warning)}</p>' for warning in report.warnings]
    body += [_table(report.tables["mean"]), _plot(report.forest)]
    body += [_table(report.tables[name]) for name in ("classes", "differences") if name in report.tables]
    body += [_section(section) for section in report.sections]
    body += [_table(report.tables["cost"]), _table(report.tables["sources"])]
    body += ["<h2>Method</h2>", '<div class="method">', *(f"<p>{escape(text)}</p>" for text in report.method), "</div>"]
    origin = "".join(f"<dt>{escape(name)}</dt><dd>{_origin(name, text)}</dd>" for name, text in report.origin)
    body.append(f"<dl>{origin}</dl>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{NOTHING_LOADED}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _held(text: str) -> str:
    """Keeps ``n = 20``, ``[0.1, 0.2]`` and ``(random weights)`` on one line each."""
    return re.sub(r" [=<] |\[[^\]]*\]|\(random weights\)", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def _breakable(text: str) -> str:
    """Escapes text; the long names of trainers and plans may be broken at their joints."""

    def with_joints(name: re.Match) -> str:
        return re.sub(r"(?<=[a-z0-9])(?=_|DINO)", "\0", name[0])

    return escape(re.sub(r"nnUNet\w+", with_joints, _held(text))).replace("\0", "<wbr>")


def _table(table: Table) -> str:
    def cells(row, tag: str) -> str:
        kinds = ["text" if position < table.num_text_columns else "number" for position in range(len(row))]
        return "".join(f'<{tag} class="{kind}">{_breakable(text)}</{tag}>' for kind, text in zip(kinds, row, strict=True))

    rows = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    return (
        f'<h2>{escape(table.title)}</h2>\n<div class="wide"><table>\n<thead><tr>{cells(table.headers, "th")}</tr></thead>\n'
        f'<tbody>\n{rows}\n</tbody>\n</table></div>\n<p class="caption">{escape(table.caption)}</p>'
    )


def _plot(plot: Plot | None) -> str:
    if plot is None:
        return ""
    light, dark = (_data_uri("image/svg+xml", content) for content in (plot.light, plot.dark))
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(plot.text)}"></picture><figcaption>{escape(plot.text)}</figcaption></figure>'
    )


def _section(section: Section) -> str:
    versus = section.versus
    heading = f"<h2>{escape(versus.entry.name)} <span>against {escape(versus.baseline.name)}</span></h2>"
    return "\n".join([heading, _plot(section.plot), *(_picture(picture) for picture in section.pictures)])


def _picture(picture: CasePicture) -> str:
    image = ""
    if picture.png:
        image = f'<img class="case" src="{_data_uri("image/png", picture.png)}" alt="{escape(picture.heading)}">'
    return f"<figure><h3>{escape(picture.heading)}</h3>{image}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _origin(name: str, text: str) -> str:
    return f"<code>{escape(text)}</code>" if name == "Command" else escape(text)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
