"""Plots of paired differences, drawn once for light and once for dark screens."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_dino.compare import formatting
from nnunet_dino.compare.kinds import heading
from nnunet_dino.compare.records import Comparison, PairedComparison
from nnunet_dino.compare.statistics import EQUAL_BELOW, Difference
from nnunet_dino.reports import Plot
from nnunet_dino.reports.plot import Theme, themed

MAX_FOREST_ROWS = 60


def paired_plot(pair: PairedComparison, name: str) -> Plot:
    """Draws every case twice: baseline against result, and the differences in order."""
    side = "below" if pair.entry.kind.lower_is_better else "above"
    text = (
        f"Every case of {pair.entry.name} against {pair.baseline.name}. Left: {side} the line the result is better than the "
        "baseline. Right: differences in order; the band is the 95 % bootstrap interval of their mean."
    )
    return themed(name, text, lambda theme: _paired(pair, theme))


def _paired(pair: PairedComparison, theme: Theme) -> Figure:
    figure = Figure(figsize=(9.6, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.35))
    _scatter(left, pair, theme)
    _sorted_differences(right, pair, theme)
    return figure


def _scatter(axes: Axes, pair: PairedComparison, theme: Theme) -> None:
    differences = pair.case_differences
    base = pair.baseline.case_means[differences.index].to_numpy()
    other = pair.entry.case_means[differences.index].to_numpy()
    low, high = min(base.min(), other.min()), max(base.max(), other.max())
    margin = max(0.05 * (high - low), 0.005)
    limits = (low - margin, high + margin)
    colours = _colours(differences.to_numpy(), pair.entry.kind.lower_is_better, theme)
    axes.plot(limits, limits, color=theme.faint, linewidth=1, zorder=1)
    axes.scatter(base, other, s=26, c=colours, alpha=0.85, linewidths=0, zorder=2)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set(xlabel=_wrapped(pair.baseline.name), ylabel=_wrapped(pair.entry.name))
    axes.set_title(f"{heading(pair.entry.kind.of_case)} of every case", loc="left")


def _sorted_differences(axes: Axes, pair: PairedComparison, theme: Theme) -> None:
    values = pair.case_differences.to_numpy()
    place = np.arange(1, len(values) + 1)
    colours = _colours(values, pair.entry.kind.lower_is_better, theme)
    axes.axhline(0, color=theme.ink, linewidth=0.8)
    if len(values) <= 150:
        axes.vlines(place, 0, values, colors=colours, linewidth=1.5, alpha=0.7)
    axes.scatter(place, values, s=18, c=colours, linewidths=0, zorder=3)
    mean = pair.mean
    if np.isfinite(mean.low):
        axes.axhspan(mean.low, mean.high, color=theme.faint, alpha=0.35, linewidth=0, zorder=0)
    axes.axhline(mean.mean, color=theme.ink, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlim=(0, len(values) + 1), xlabel="Cases, from worst to best change")
    axes.set_ylabel(f"Difference in {pair.entry.kind.of_case}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"Difference of every case; dashed: mean {formatting.change(mean)}", loc="left")


def forest_plot(comparison: Comparison) -> Plot | None:
    """Draws mean differences with their intervals: of the mean Dice and of every label, or of the scores of neurons.

    With too many rows only the mean Dice or VOI sum is drawn; None where a single row would be left.
    """
    title, headline = heading(comparison.kind.of_case), comparison.kind.headline
    groups = [
        [(title, pair.mean), *((comparison.label_names[k], d) for k, d in pair.classes.items() if k != headline)]
        for pair in comparison.pairs
    ]
    if sum(map(len, groups)) > MAX_FOREST_ROWS:
        groups = [group[:1] for group in groups]
    if sum(map(len, groups)) < 2:
        return None
    text = "Mean differences to the baseline and their 95 % bootstrap intervals. Coloured where the interval leaves out zero."
    return themed("differences", text, lambda theme: _forest(comparison, groups, theme))


def _forest(comparison: Comparison, groups: list[list[tuple[str, Difference]]], theme: Theme) -> Figure:
    several = len(groups) > 1
    height = 0.9 + 0.27 * sum(len(group) + several for group in groups)
    figure = Figure(figsize=(9.6, height), layout="constrained")
    axes = figure.subplots()
    ticks: list[tuple[float, str, bool]] = []
    row = 0
    for pair, group in zip(comparison.pairs, groups, strict=True):
        if several:
            ticks.append((row, pair.entry.name, True))
            row += 1
        for name, difference in group:
            _whisker(axes, row, difference, theme, bold=difference is pair.mean)
            ticks.append((row, name, not several and difference is pair.mean))
            row += 1
    axes.axvline(0, color=theme.ink, linewidth=0.8, zorder=0)
    axes.set_yticks([place for place, _, _ in ticks], [text for _, text, _ in ticks])
    for label, (_, _, bold) in zip(axes.get_yticklabels(), ticks, strict=True):
        label.set_fontweight("bold" if bold else "normal")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(row - 0.4, -0.6)
    axes.set_xlabel(f"Difference in {comparison.kind.title} to the baseline, with 95 % bootstrap interval")
    return figure


def _whisker(axes: Axes, row: int, difference: Difference, theme: Theme, bold: bool) -> None:
    if not np.isfinite(difference.mean):
        return
    apart = difference.low > 0 or difference.high < 0
    colour = _colours(np.array([difference.mean]), difference.lower_is_better, theme)[0] if apart else theme.ink
    if np.isfinite(difference.low):
        axes.plot([difference.low, difference.high], [row, row], color=colour, linewidth=2.4 if bold else 1.4)
    axes.plot([difference.mean], [row], "o", color=colour, markersize=7 if bold else 5)


def _colours(differences: np.ndarray, lower_is_better: bool, theme: Theme) -> list[str]:
    gains = -differences if lower_is_better else differences
    return [theme.better if v > EQUAL_BELOW else theme.worse if v < -EQUAL_BELOW else theme.ink for v in gains]


def _wrapped(name: str) -> str:
    return name if len(name) <= 40 else name.replace(" · ", "\n")
