"""Images beside the colours and similarities of their tokens, as a picture."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from nnunet_dino.features.token_colours import foreground, pca_colours, similarity

PANEL_INCHES = 3.4
LETTER_PLACES = ((0.04, 0.5), (0.5, 0.04), (0.96, 0.5), (0.5, 0.96))
LETTERS_PER_INCH = 10  # of a heading, at most


@dataclass(frozen=True)
class TokenView:
    """Images as the backbone was shown them, and their patch tokens.

    Attributes:
        title: Heading.
        notes: What must be known.
        names: Of the images, for example slices.
        images: ``n s s 3``, 0..1.
        tokens: ``n gh gw e``.
        shows_image: Which tokens show the image and not only padding, ``gh gw``.
        letters: What of the patient lies left, on top, right and at the bottom; none where that is not known.
    """

    title: str
    notes: list[str]
    names: list[str]
    images: np.ndarray
    tokens: np.ndarray
    shows_image: np.ndarray
    letters: tuple[str, ...] = ()

    def colours(self) -> np.ndarray:
        """Returns the principal components of the foreground as colours, ``n gh gw 3``."""
        return pca_colours(self.tokens, foreground(self.images, self.shows_image))


def view_png(view: TokenView, place: tuple[int, int, int] | None) -> bytes:
    """Draws every image, its colours, token by token and smoothed, and if one is given the similarity to one token.

    Args:
        view: Images and tokens.
        place: Image, row and column of the token.
    """
    colours = view.colours()
    num_columns = 3 if place is None else 4
    width = PANEL_INCHES * num_columns
    figure = Figure(figsize=(width, PANEL_INCHES * len(view.names) + 0.8), layout="constrained")
    axes = figure.subplots(len(view.names), num_columns, squeeze=False)
    for row, name, image, components in zip(axes, view.names, view.images, colours, strict=True):
        panels = [
            (image, name, "antialiased"),
            (components, "principal components", "nearest"),
            (components, "the same, smoothed", "bicubic"),
        ]
        for axis, (picture, heading, interpolation) in zip(row, panels, strict=False):
            axis.imshow(picture, extent=(0, 1, 1, 0), interpolation=interpolation)
            axis.set_title("\n".join(textwrap.wrap(heading, int(LETTERS_PER_INCH * PANEL_INCHES))), fontsize=9)
        for (x, y), letter in zip(LETTER_PLACES, view.letters, strict=False):
            outline = [withStroke(linewidth=2, foreground="black")]
            row[0].text(x, y, letter, color="white", ha="center", va="center", fontsize=9, path_effects=outline)
    if place is not None:
        _draw_similarity(figure, axes, view.tokens, place)
    for axis in axes.ravel():
        axis.set_axis_off()
    figure.suptitle("\n".join(textwrap.wrap(" · ".join([view.title, *view.notes]), int(LETTERS_PER_INCH * width))), fontsize=10)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, facecolor="white")
    return stream.getvalue()


def _draw_similarity(figure: Figure, axes: np.ndarray, tokens: np.ndarray, place: tuple[int, int, int]) -> None:
    cosines = similarity(tokens, place)
    for axis, values in zip(axes[:, 3], cosines, strict=True):
        drawn = axis.imshow(values, extent=(0, 1, 1, 0), vmin=cosines.min(), vmax=1, interpolation="nearest")
        axis.set_title("cosine to the marked token", fontsize=9)
        figure.colorbar(drawn, ax=axis, shrink=0.8)
    number, row, column = place
    gh, gw = tokens.shape[1:3]
    for axis in axes[number]:
        axis.plot((column + 0.5) / gw, (row + 0.5) / gh, "o", color="white", markeredgecolor="black", markersize=6)
