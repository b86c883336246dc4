"""Plots of a study: critical differences of ranks, and learning curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from nnunet_dino.reports import Plot
from nnunet_dino.reports.plot import CLASS_COLOURS, Theme, themed
from nnunet_dino.study.ranks import Ranks

MARKERS = "osD^v<>Ph*"


def critical_difference_plot(ranks: Ranks) -> Plot:
    """Draws mean ranks on a line; bars join results that do not differ."""
    text = (
        f"Mean ranks over {ranks.num_tasks} tasks, the best at the left. Bars join results whose mean ranks lie closer than "
        f"the critical difference of {ranks.critical:.2f} (Nemenyi, 5 %): they do not differ."
    )
    return themed("critical-difference", text, lambda theme: _ranks(ranks, theme))


def _ranks(ranks: Ranks, theme: Theme) -> Figure:
    num, places = len(ranks.mean), ranks.mean.to_numpy()
    rows = len(ranks.groups)
    figure = Figure(figsize=(9.6, 1.2 + 0.3 * num + 0.2 * rows), layout="constrained")
    axes = figure.subplots()
    for row, (first, last) in enumerate(ranks.groups):
        axes.plot([places[first] - 0.02, places[last] + 0.02], [row * 0.7 + 0.6] * 2, color=theme.ink, linewidth=4)
    for row, (name, place) in enumerate(ranks.mean.items()):
        height = 0.7 * rows + 1.2 + row
        axes.plot([place, place], [0, height], color=theme.faint, linewidth=1)
        axes.plot([place], [0], "o", color=theme.better)
        right = place > (1 + num) / 2
        label = f"{name}  {place:.2f}"
        axes.annotate(
            label,
            (place, height),
            (-4 if right else 4, 0),
            textcoords="offset points",
            va="center",
            color=theme.ink,
            fontsize=9,
            ha="right" if right else "left",
        )
    axes.set(xlim=(0.8, num + 0.2), ylim=(0.7 * rows + 1.7 + num, -0.4), xlabel="Mean rank, 1 is best", yticks=[])
    axes.set_xticks(range(1, num + 1))
    axes.spines["left"].set_visible(False)
    return figure


def learning_curve_plot(dataset: str, curves: Mapping[str, tuple[list[int], list[float], list[float]]]) -> Plot:
    """Draws the mean Dice against the number of training cases: for each result numbers, means and standard deviations."""
    text = (
        f"{dataset}: mean Dice against the number of training cases of a fold; mean and standard deviation over folds and "
        "choices of cases. The axis is logarithmic."
    )
    return themed(f"learning-{dataset}", text, lambda theme: _curves(curves, theme))


def _curves(curves: Mapping[str, tuple[list[int], list[float], list[float]]], theme: Theme) -> Figure:
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    axes = figure.subplots()
    colours = (theme.better, theme.worse, theme.ink, *CLASS_COLOURS)
    for position, (name, (numbers, means, deviations)) in enumerate(curves.items()):
        spread = np.nan_to_num(deviations)
        colour, marker = colours[position % len(colours)], MARKERS[position % len(MARKERS)]
        axes.errorbar(numbers, means, spread, label=name, capsize=3, color=colour, marker=marker)
    ticks = sorted({number for numbers, _, _ in curves.values() for number in numbers})
    axes.set(xscale="log", xlabel="Training cases", ylabel="Mean Dice")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    legend = axes.legend(frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(theme.ink)
    return figure
