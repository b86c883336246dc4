"""Images beside the colours and similarities of their tokens, as PNG or as a page to click on."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from nnunet_dino.features.look import Seen, pca_colours, similarity
from nnunet_dino.features.look_script import SCRIPT, STYLE
from nnunet_dino.reports.page import data_uri, html_head, html_page

PANEL_INCHES = 3.4
RUNS_ITS_SCRIPT = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def look_png(seen: Seen, place: tuple[int, int, int] | None, title: str) -> bytes:
    """Draws every image, its colours and, if a token is given, the similarity of all tokens to it.

    Args:
        seen: Images and tokens.
        place: Image, row and column of the token.
        title: Heading.
    """
    colours = pca_colours(seen.tokens)
    cosines = similarity(seen.tokens, place) if place else None
    columns = 2 if place is None else 3
    figure = Figure(figsize=(PANEL_INCHES * columns, PANEL_INCHES * len(seen.names) + 0.8), layout="constrained")
    axes = figure.subplots(len(seen.names), columns, squeeze=False)
    for number, name in enumerate(seen.names):
        panels = [(seen.images[number], name), (colours[number], "principal components")]
        for axis, (picture, heading) in zip(axes[number], panels, strict=False):
            axis.imshow(picture, extent=(0, 1, 1, 0), interpolation="nearest")
            axis.set_title(heading, fontsize=9)
        if place:
            drawn = axes[number][2].imshow(
                cosines[number], extent=(0, 1, 1, 0), vmin=cosines.min(), vmax=1, interpolation="nearest"
            )
            axes[number][2].set_title("cosine to the marked token", fontsize=9)
            figure.colorbar(drawn, ax=axes[number][2], shrink=0.8)
        if place and place[0] == number:
            gh, gw = seen.tokens.shape[1:3]
            for axis in axes[number]:
                axis.plot(
                    (place[2] + 0.5) / gw, (place[1] + 0.5) / gh, "o", color="white", markeredgecolor="black", markersize=6
                )
    for axis in axes.ravel():
        axis.set_axis_off()
    figure.suptitle(title, fontsize=10)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, facecolor="white")
    return stream.getvalue()


def look_html(seen: Seen, place: tuple[int, int, int], title: str, notes: Sequence[str]) -> str:
    """Returns a page on which a click chooses the token that all others are compared with.

    Args:
        seen: Images and tokens.
        place: Image, row and column of the token chosen at first.
        title: Heading.
        notes: What must be known.
    """
    rows = []
    for name, image, colours in zip(seen.names, seen.images, pca_colours(seen.tokens), strict=True):
        pictures = [_png(image), _png(colours)]
        labels = [escape(name), "principal components", "cosine to the chosen token"]
        images = "".join(
            f'<figure><img src="{data_uri("image/png", content)}" alt="{label}"><figcaption>{label}</figcaption></figure>'
            for content, label in zip(pictures, labels, strict=False)
        )
        rows.append(f'<div class="row">{images}<figure><canvas></canvas><figcaption>{labels[2]}</figcaption></figure></div>')
    steps = (matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    data = {
        "shape": seen.tokens.shape,
        "tokens": base64.b64encode(quantised(seen.tokens).tobytes()).decode("ascii"),
        "colours": base64.b64encode(steps.tobytes()).decode("ascii"),
        "place": place,
    }
    body = html_head(title, ["Click on a picture: all tokens are compared with the one you chose."], notes)
    script = SCRIPT.replace("DATA", json.dumps(data))
    body += [f"<style>{STYLE}</style>", *rows, '<p class="caption" id="range"></p>', f"<script>{script}</script>"]
    return html_page(title, body, RUNS_ITS_SCRIPT)


def gradient(cosines: np.ndarray) -> np.ndarray:
    """Returns colours ``n 3`` from the smallest cosine (dark) to 1 (yellow)."""
    low = float(cosines.min())
    return matplotlib.colormaps["viridis"]((cosines - low) / max(1e-6, 1 - low))[:, :3]


def quantised(tokens: np.ndarray) -> np.ndarray:
    """Returns tokens as whole numbers from -127 to 127, each token scaled by itself; cosines stay nearly as they are."""
    largest = np.maximum(np.abs(tokens).max(-1, keepdims=True), 1e-12)
    return (tokens / largest * 127).round().astype(np.int8)


def _png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(stream, "PNG", optimize=True)
    return stream.getvalue()
