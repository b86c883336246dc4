"""Plots for light and for dark screens."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from nnunet_dino.reports.record import Plot

CLASS_COLOURS = ("#56b4e9", "#e69f00", "#2fd18b", "#f0e442", "#e58ac0", "#ff6b35", "#8f7cff", "#9be564")
NIGHT, NIGHT_TEXT = "#101216", "#e6e8ec"
"""Ground and letters of pictures of images."""


@dataclass(frozen=True)
class Theme:
    """Colours of a plot; better and worse differ for colour-blind readers as well."""

    ink: str
    faint: str
    better: str
    worse: str


LIGHT = Theme(ink="#2b2f36", faint="#b9bec7", better="#1f6fb2", worse="#d1701f")
DARK = Theme(ink="#d5d9e0", faint="#565d69", better="#6cb4ee", worse="#f0a35e")


def themed(name: str, text: str, draw: Callable[[Theme], Figure]) -> Plot:
    """Draws a plot once for light and once for dark screens."""
    return Plot(name, text, svg(draw(LIGHT), LIGHT), svg(draw(DARK), DARK))


def svg(figure: Figure, theme: Theme) -> bytes:
    """Returns a figure as SVG in the colours of a theme; the same figure gives the same bytes."""
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(theme.faint)
        axes.tick_params(colors=theme.ink, labelsize=9, color=theme.faint)
        for text in (axes.xaxis.label, axes.yaxis.label):
            text.set(color=theme.ink, fontsize=9.5)
        axes.set_title(axes.get_title(loc="left"), loc="left", color=theme.ink, fontsize=10)
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "nnunet-dino", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", facecolor="none", metadata={"Date": None})
    return stream.getvalue()
