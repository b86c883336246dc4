"""Plots for light and for dark screens."""

from __future__ import annotations

import io
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours of a plot; better and worse differ for colour-blind readers as well."""

    ink: str
    faint: str
    better: str
    worse: str


LIGHT = Theme(ink="#2b2f36", faint="#b9bec7", better="#1f6fb2", worse="#d1701f")
DARK = Theme(ink="#d5d9e0", faint="#565d69", better="#6cb4ee", worse="#f0a35e")


@dataclass(frozen=True)
class Plot:
    """A plot for light and for dark screens, as SVG."""

    name: str
    text: str
    light: bytes
    dark: bytes


def svg(figure: Figure, theme: Theme) -> bytes:
    """Returns a figure as SVG in the colours of a theme; the same figure gives the same bytes."""
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(theme.faint)
        axes.tick_params(colors=theme.ink, labelsize=9, color=theme.faint)
        for text in (axes.xaxis.label, axes.yaxis.label):
            text.set(color=theme.ink, fontsize=9.5)
        axes.title.set(color=theme.ink)
        axes._left_title.set(color=theme.ink, fontsize=10)
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "nnunet-dino", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", facecolor="none", metadata={"Date": None})
    return stream.getvalue()
