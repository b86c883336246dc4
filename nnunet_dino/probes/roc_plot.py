"""Curves of scores: ROC, and calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from nnunet_dino.probes.evaluation import Evaluation
from nnunet_dino.probes.metrics import LabelMetrics
from nnunet_dino.reports import Plot
from nnunet_dino.reports.plot import Theme, themed

MAX_CURVES = 20
NUM_BINS, MIN_IN_BIN = 10, 5

Labels = Sequence[tuple[int, LabelMetrics]]  # with their column


def roc_plot(evaluation: Evaluation) -> Plot | None:
    """Draws the curve of every label that has both classes; of more than 20, those with the lowest and highest area."""
    labels = [(c, label) for c, label in enumerate(evaluation.metrics.labels) if np.isfinite(label.auroc.value)]
    if not labels:
        return None
    areas = "; ".join(f"{label.name} {label.auroc.value:.3f}" for _, label in labels[:MAX_CURVES])
    text = f"ROC curves on {evaluation.part}; a dot is where decisions are made. Areas: {areas}."
    if len(labels) > MAX_CURVES:
        labels = sorted(labels, key=lambda pair: pair[1].auroc.value)
        labels = [*labels[: MAX_CURVES // 2], *labels[-MAX_CURVES // 2 :]]
        text += f" Of all labels, the {MAX_CURVES // 2} with the smallest and the {MAX_CURVES // 2} with the largest area."
    return themed("roc", text, lambda theme: _draw(evaluation, labels, theme))


def _draw(evaluation: Evaluation, labels: Labels, theme: Theme) -> Figure:
    def curve(axes: Axes, c: int, label: LabelMetrics, name: str, colour: Any) -> None:
        false_rate, true_rate, _ = roc_curve(evaluation.targets[:, c], evaluation.scores[:, c], drop_intermediate=False)
        axes.plot(false_rate, true_rate, color=colour, linewidth=1.8, label=f"{name}  {label.auroc.value:.3f}")
        axes.plot(1 - label.specificity.value, label.recall.value, "o", color=colour, markersize=6)

    figure = _square(labels, theme, curve, "False positive rate", "True positive rate")
    figure.axes[0].set_title(f"ROC on {evaluation.part}, with the area under each curve", loc="left")
    return figure


def calibration_plot(evaluation: Evaluation) -> Plot | None:
    """Draws how often what scores say is true: of every label in ten equally full bins, of more than 20 labels of none."""
    labels = [(c, label) for c, label in enumerate(evaluation.metrics.labels) if np.isfinite(label.auroc.value)]
    if not labels or len(labels) > MAX_CURVES:
        return None
    text = (
        f"Calibration on {evaluation.part}: mean score of at most {NUM_BINS} bins with equally many inputs, and the share "
        "of them that have the label. On the diagonal a score is a probability."
    )
    return themed("calibration", text, lambda theme: _draw_calibration(evaluation, labels, theme))


def calibration(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean scores of bins with equally many inputs, and the share of them that are 1; fewer bins of few inputs."""
    order = np.argsort(scores, kind="stable")
    bins = np.array_split(order, max(1, min(NUM_BINS, len(order) // MIN_IN_BIN)))
    return np.array([scores[bin].mean() for bin in bins]), np.array([targets[bin].mean() for bin in bins])


def _draw_calibration(evaluation: Evaluation, labels: Labels, theme: Theme) -> Figure:
    def curve(axes: Axes, c: int, label: LabelMetrics, name: str, colour: Any) -> None:
        said, true = calibration(evaluation.targets[:, c], evaluation.scores[:, c])
        axes.plot(said, true, "o-", color=colour, linewidth=1.5, markersize=4, label=f"{name}  Brier {label.brier.value:.3f}")

    figure = _square(labels, theme, curve, "Mean score", "Share that have the label")
    figure.axes[0].set_title(f"Calibration on {evaluation.part}", loc="left")
    return figure


def _square(labels: Labels, theme: Theme, curve: Callable[..., None], x: str, y: str) -> Figure:
    """Draws a curve for every label between 0 and 1, with the diagonal and names below, where a narrow page has room."""
    figure = Figure(figsize=(4.8, 5 + 0.2 * len(labels)), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab20" if len(labels) > 10 else "tab10"]
    axes.plot([0, 1], [0, 1], color=theme.faint, linewidth=1)
    for position, (c, label) in enumerate(labels):
        colour = theme.better if len(labels) == 1 else colours(position % colours.N)
        curve(axes, c, label, label.name if len(label.name) <= 40 else label.name[:39] + "…", colour)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xlabel=x, ylabel=y)
    figure.legend(loc="outside lower left", frameon=False, fontsize=8.5, labelcolor=theme.ink)
    return figure
