"""The HTML page of a report, which needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from nnunet_dino.reports.plot import Plot
from nnunet_dino.reports.style import STYLE
from nnunet_dino.reports.table import held

NOTHING_LOADED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html_page(title: str, body: Sequence[str], policy: str = NOTHING_LOADED) -> str:
    """Puts the parts of a body, as HTML, into a page; empty parts are left out.

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
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def html_head(title: str, summaries: Sequence[str], warnings: Sequence[str]) -> list[str]:
    """Returns the heading, the result in sentences, and what must be known before the numbers."""
    return [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="lead">{escape(held(text))}</p>' for text in summaries),
        *(f'<p class="warning">{escape(warning)}</p>' for warning in warnings),
    ]


def html_foot(method: Sequence[str], origin: Sequence[tuple[str, str]]) -> list[str]:
    """Returns how it was computed, and by what."""
    names = "".join(f"<dt>{escape(name)}</dt><dd>{_origin(name, text)}</dd>" for name, text in origin)
    return [
        "<h2>Method</h2>",
        '<div class="method">',
        *(f"<p>{escape(text)}</p>" for text in method),
        "</div>",
        f"<dl>{names}</dl>",
    ]


def _origin(name: str, text: str) -> str:
    return f"<code>{escape(text)}</code>" if name == "Command" else escape(text)


def html_plot(plot: Plot | None) -> str:
    """Returns a plot that follows the reader's light or dark screen."""
    if plot is None:
        return ""
    light, dark = (data_uri("image/svg+xml", content) for content in (plot.light, plot.dark))
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(plot.text)}"></picture><figcaption>{escape(plot.text)}</figcaption></figure>'
    )


def html_picture(heading: str, caption: str, png: bytes | None) -> str:
    """Returns a picture under its heading; without a picture only the words."""
    image = f'<img class="case" src="{data_uri("image/png", png)}" alt="{escape(heading)}">' if png else ""
    return f"<figure><h3>{escape(heading)}</h3>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def data_uri(kind: str, content: bytes) -> str:
    """Returns content as an address that can stand in a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
