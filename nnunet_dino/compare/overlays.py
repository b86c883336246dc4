"""Pictures of single cases: image, reference outline, and the outline of each result side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from nnunet_dino._errors import UserError
from nnunet_dino.compare import formatting
from nnunet_dino.compare.case_names import volume_of
from nnunet_dino.compare.neuron_pictures import neuron_picture
from nnunet_dino.compare.records import Comparison, PairedComparison
from nnunet_dino.compare.slice_choice import SliceChoice, choose_slice
from nnunet_dino.compare.summary_json import label_values
from nnunet_dino.features.volume import EDGES, Volume, as_shown, read_to_compare, take_plane
from nnunet_dino.reports import Picture
from nnunet_dino.reports.plot import CLASS_COLOURS, NIGHT, NIGHT_TEXT

WINDOW_PERCENTILES = (1, 99)
EDGE = [patheffects.withStroke(linewidth=3, foreground=NIGHT)]
MAX_LEGEND = 10


def changed_cases(pair: PairedComparison) -> list[tuple[str, str]]:
    """Returns (role, case) of the worst, the median and the best changed case; fewer where they coincide."""
    ordered = list(pair.case_differences.index)
    if not ordered:
        return []
    chosen = {"worst": ordered[0], "best": ordered[-1], "median": ordered[(len(ordered) - 1) // 2]}
    unique = {case: role for role, case in reversed(chosen.items())}
    return [(role, chosen[role]) for role in ("worst", "median", "best") if unique[chosen[role]] == role]


def case_picture(comparison: Comparison, pair: PairedComparison, role: str, case: str) -> Picture:
    """Draws one case; files that are missing or do not fit leave a reason instead of a picture."""
    before, after = pair.baseline.case_means[case], pair.entry.case_means[case]
    change = formatting.signed(after - before)
    values = f"{formatting.dice(before)} → {formatting.dice(after)} ({change})"
    heading = f"{role.capitalize()} change: {case}, {pair.entry.kind.of_case} {values}"
    files = {
        "image": comparison.pictures.images.get(volume_of(case)),
        "reference segmentation": comparison.pictures.references.get(volume_of(case)),
        f"prediction of {pair.baseline.name}": pair.baseline.prediction(case),
        f"prediction of {pair.entry.name}": pair.entry.prediction(case),
    }
    lost = [what for what, file in files.items() if file is None or not file.is_file()]
    if lost:
        why = comparison.pictures.missing if lost[0] == "image" and comparison.pictures.missing else "it was not found"
        return Picture(f"{role}-{case}", heading, f"No picture: {' and '.join(lost)} missing ({why}).", None)
    try:
        known = [file for file in files.values() if file is not None]
        if pair.entry.kind.headline is not None:
            image_file, truth_file, base_file, other_file = known
            return Picture(
                f"{role}-{case}", heading, *neuron_picture(pair, case, (image_file, truth_file, base_file, other_file))
            )
        volumes = [read_to_compare(str(file)) for file in known]
        for volume, file in zip(volumes, known, strict=True):
            if volume.values.shape != volumes[0].values.shape:
                raise ValueError(f"{file.name} has shape {volume.values.shape}, the image {volumes[0].values.shape}")
    except (RuntimeError, ValueError, UserError) as error:
        return Picture(f"{role}-{case}", heading, f"No picture: {' '.join(str(error).split())[-200:]}", None)
    image, reference, base, other = volumes
    choice = choose_slice(reference, base.values, other.values)
    panels = [
        ("Reference", None),
        (f"{pair.baseline.name}  {formatting.dice(before)}", base.values),
        (f"{pair.entry.name}  {formatting.dice(after)}", other.values),
    ]
    png = _draw(image, reference, panels, choice, comparison)
    return Picture(f"{role}-{case}", heading, _caption(reference, choice), png)


def _caption(volume: Volume, choice: SliceChoice) -> str:
    if not volume.is_oriented:
        return "2D image. White, dashed: reference. Grey values from the 1st to the 99th percentile of the part shown."
    slices, (rows, columns) = take_plane(volume, choice.plane)
    apart = np.prod(volume.spacing_mm) / (rows * columns)
    letter_left, letter_top = EDGES[choice.plane]
    directions = {"R": "the patient's right", "A": "front", "S": "head"}
    return (
        f"{choice.plane.capitalize()} slice {choice.index + 1} of {len(slices)}: {choice.reason}. "
        f"Pixels {rows:.2g} {formatting.TIMES} {columns:.2g} mm, slices {apart:.2g} mm apart; left edge: "
        f"{directions[letter_left]}, top: {directions[letter_top]}. White, dashed: reference. Grey values from the 1st to the "
        "99th percentile of the part shown."
    )


def _draw(
    image: Volume,
    reference: Volume,
    panels: Sequence[tuple[str, np.ndarray | None]],
    choice: SliceChoice,
    comparison: Comparison,
) -> bytes:
    slices, (row_mm, column_mm) = take_plane(image, choice.plane)
    planes = {name: as_shown(values, choice.plane)[choice.index] for name, values in panels if values is not None}
    truth = as_shown(reference.values, choice.plane)[choice.index]
    rows, columns = _crop([truth, *planes.values()], row_mm, column_mm)
    grey = slices[choice.index][rows, columns].astype(float)
    truth, planes = truth[rows, columns], {name: plane[rows, columns] for name, plane in planes.items()}
    low, high = np.nanpercentile(grey, WINDOW_PERCENTILES)
    height_mm, width_mm = grey.shape[0] * row_mm, grey.shape[1] * column_mm
    extent = (0, width_mm, height_mm, 0)
    panel_width = 3.6
    panel_height = min(max(panel_width * height_mm / width_mm, 1.5), 5.5)
    figure = Figure(figsize=(3 * panel_width, panel_height + 0.65), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.08))
    figure.set_facecolor(NIGHT)
    shown: dict[str, str] = {}
    for axes, (name, values) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(grey, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), extent=extent, interpolation="nearest")
        mask = truth if values is None else planes[name]
        shown |= _outline(axes, mask, comparison, (row_mm, column_mm))
        if values is not None:
            _outline(axes, truth, comparison, (row_mm, column_mm), colour="white")
        axes.set_axis_off()
        axes.set_title(_fitted(name), color=NIGHT_TEXT, fontsize=9, loc="left")
    if image.is_oriented:
        _mark_edges(figure.axes[0], EDGES[choice.plane])
        _scale_bar(figure.axes[0], width_mm, height_mm)
    handles = [Line2D([], [], color=colour, linewidth=2, label=name) for name, colour in list(shown.items())[:MAX_LEGEND]]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, labelcolor=NIGHT_TEXT, fontsize=8.5)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, facecolor=NIGHT, metadata={"Software": None})
    return stream.getvalue()


def _crop(masks: Sequence[np.ndarray], row_mm: float, column_mm: float) -> tuple[slice, slice]:
    """Returns the part around everything labelled, with a margin, about square and never less than 32 pixels wide."""
    any_label = np.any([mask > 0 for mask in masks], axis=0)
    if not any_label.any():
        return slice(None), slice(None)
    spans = [np.flatnonzero(any_label.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    spacing = np.array([row_mm, column_mm])
    lengths = np.array([end - start + 1 for start, end in spans]) * spacing
    wanted = np.maximum(np.maximum(1.4 * lengths, 0.75 * 1.4 * lengths.max()), 32 * spacing.min())
    parts = []
    for (start, end), length, step, size in zip(spans, wanted, spacing, any_label.shape, strict=True):
        half = int(np.ceil(length / step / 2))
        middle = (start + end + 1) // 2
        parts.append(slice(max(0, middle - half), min(size, middle + half)))
    return parts[0], parts[1]


def _outline(
    axes: Axes, mask: np.ndarray, comparison: Comparison, pixel_mm: tuple[float, float], colour: str | None = None
) -> dict[str, str]:
    """Draws the outline of every label in ``mask`` (shape ``h w``); returns name and colour of those present."""
    padded = np.pad(mask, 1)
    centres = [(np.arange(size) - 0.5) * step for size, step in zip(padded.shape, pixel_mm, strict=True)]
    shown = {}
    for position, (key, name) in enumerate(comparison.label_names.items()):
        inside = np.isin(padded, label_values(key))
        if not inside.any():
            continue
        shown[name] = CLASS_COLOURS[position % len(CLASS_COLOURS)]
        style = {"linewidths": 0.9, "linestyles": [(0, (3, 2))]} if colour else {"linewidths": 1.8}
        axes.contour(centres[1], centres[0], inside.astype(float), levels=[0.5], colors=[colour or shown[name]], **style)
    return shown


def _mark_edges(axes: Axes, letters: tuple[str, str]) -> None:
    for x, y, letter, ha, va in ((0.02, 0.5, letters[0], "left", "center"), (0.5, 0.98, letters[1], "center", "top")):
        style: dict[str, Any] = {"color": NIGHT_TEXT, "fontsize": 9, "fontweight": "bold", "path_effects": EDGE}
        axes.text(x, y, letter, ha=ha, va=va, transform=axes.transAxes, **style)


def _scale_bar(axes: Axes, width_mm: float, height_mm: float) -> None:
    length = max((step for step in (1, 2, 5, 10, 20, 50, 100) if step <= width_mm / 3), default=width_mm / 3)
    left, bottom = 0.05 * width_mm, 0.94 * height_mm
    axes.plot([left, left + length], [bottom, bottom], color=NIGHT_TEXT, linewidth=2.5, path_effects=EDGE)
    axes.text(left, bottom - 0.02 * height_mm, f"{length:g} mm", color=NIGHT_TEXT, fontsize=8.5, va="bottom", path_effects=EDGE)


def _fitted(name: str) -> str:
    return name if len(name) <= 48 else f"{name[:22]}…{name[-24:]}"
