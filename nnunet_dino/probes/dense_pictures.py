"""Pictures of the dense probe: a slice, its truth token by token, and what is found with each backbone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnunet_dino.probes.dense import DenseProbe
from nnunet_dino.reports import Picture
from nnunet_dino.reports.plot import CLASS_COLOURS, NIGHT, NIGHT_TEXT

GREY_PERCENTILES = (1, 99)
DARK, MARGIN_PX = 0.1, 3
COLOUR_STRENGTH = 0.6
PANELS_IN_A_ROW = 4
PANEL_INCHES = 3.0
MAX_LEGEND = 12


def case_picture(probe: DenseProbe, case: str, found: Mapping[str, np.ndarray]) -> Picture:
    """Draws one slice of a test case.

    Args:
        probe: Has the slice and its truth.
        case: The case.
        found: By title of the backbone: ``gh gw k``, boolean.
    """
    slices, index = probe.slices(case), probe.drawn_slice(case)
    labels = slices.labels[index].numpy()
    image = slices.images[index]
    channel = image.shape[0] // (2 * len(probe.cases.dino.channels))  # of the first channel, the slice itself
    names = list(probe.cases.classes)
    panels: list[tuple[str, np.ndarray | None]] = [("Slice", None), ("Truth", probe.truth(case)[index].numpy()), *found.items()]
    columns = min(PANELS_IN_A_ROW, len(panels))
    rows = -(-len(panels) // columns)
    top, bottom, left, right = _content(image[channel].numpy(), labels)
    height = PANEL_INCHES * min(2.0, max(0.4, (bottom - top) * probe.cases.dino.pixel_aspect / (right - left)))
    figure = Figure(figsize=(PANEL_INCHES * columns, (height + 0.3) * rows + 0.4), layout="constrained", facecolor=NIGHT)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    outlines = [np.isin(labels, values) for values in probe.cases.classes.values()]
    for axis, (title, cells) in zip(axes, panels, strict=False):
        _panel(axis, image[channel].numpy(), cells, outlines, labels >= 0)
        axis.set_title(title if len(title) <= 34 else f"{title[:12]}…{title[-20:]}", color=NIGHT_TEXT, fontsize=9, loc="left")
        axis.set(xlim=(left, right), ylim=(bottom, top), aspect=probe.cases.dino.pixel_aspect)
    shown = [number for number in range(len(names)) if any(c is not None and c[..., number].any() for _, c in panels)]
    handles = [Line2D([], [], color=_colour(number), linewidth=5, label=names[number]) for number in shown[:MAX_LEGEND]]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, labelcolor=NIGHT_TEXT, fontsize=8.5)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, facecolor=NIGHT, metadata={"Software": None})
    depth = f"slice {slices.numbers[index] + 1}"
    return Picture(
        f"case-{case}",
        f"{case}, {depth}",
        "Of the slices that were read, the one with most classes. Colours: classes of tokens, the small over the large; "
        "predictions are of the linear probe with all training cases asked for. White: outlines of the labels.",
        stream.getvalue(),
    )


def _content(image: np.ndarray, labels: np.ndarray) -> tuple[int, int, int, int]:
    """Returns top, bottom, left and right of what is labelled or brighter than the dark ground, without the padding."""
    low, high = np.percentile(image[labels >= 0], GREY_PERCENTILES)
    shown = (labels > 0) | ((labels >= 0) & (image > low + DARK * (high - low)))
    edges = []
    for axis in (0, 1):
        held, known = (np.flatnonzero(mask.any(1 - axis)) for mask in (shown if shown.any() else labels >= 0, labels >= 0))
        edges += [max(held[0] - MARGIN_PX, known[0]), min(held[-1] + MARGIN_PX, known[-1]) + 1]
    return tuple(map(int, edges))  # type: ignore[return-value]


def _panel(axes: Axes, image: np.ndarray, cells: np.ndarray | None, outlines: Sequence[np.ndarray], inside: np.ndarray) -> None:
    low, high = np.percentile(image[inside], GREY_PERCENTILES)
    extent = (0, image.shape[1], image.shape[0], 0)
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), extent=extent, interpolation="nearest")
    if cells is None:
        return
    axes.imshow(_painted(cells), extent=extent, interpolation="nearest")
    rows, columns = (np.arange(size) + 0.5 for size in image.shape)
    for outline in outlines:
        if outline.any() and not outline.all():
            axes.contour(columns, rows, outline.astype(float), levels=[0.5], colors="white", linewidths=0.7)


def _painted(cells: np.ndarray) -> np.ndarray:
    """Returns colours ``gh gw 4``, transparent where no class is; classes with few tokens lie over those with many."""
    painted = np.zeros((*cells.shape[:2], 4))
    for number in np.argsort(-cells.sum((0, 1)), kind="stable"):
        painted[cells[..., number]] = (*to_rgb(_colour(int(number))), COLOUR_STRENGTH)
    return painted


def _colour(number: int) -> str:
    return CLASS_COLOURS[number % len(CLASS_COLOURS)]
