"""Tables and curves of the dense probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from nnunet_dino.probes.dense import PIXELS, DenseProbe, DenseResult
from nnunet_dino.probes.dense_backbones import NamedBackbone
from nnunet_dino.probes.encoder_cost import BATCH
from nnunet_dino.probes.metrics import Estimate, estimate
from nnunet_dino.probes.result_tables import number, with_interval
from nnunet_dino.reports import Plot, Table
from nnunet_dino.reports.plot import CLASS_COLOURS, Theme, themed

LINEAR, KNN = METHODS = ("linear", "k-NN")


@dataclass(frozen=True)
class Asked:
    """One backbone with its answer and its cost; raw pixels have none."""

    named: NamedBackbone
    result: DenseResult
    num_parameters: int | None = None
    ms_per_slice: float | None = None


def means_table(probe: DenseProbe, asked: Sequence[Asked]) -> Table:
    """Returns the means over classes of every backbone, by number of training cases."""
    rows = []
    for count in probe.numbers_of_cases:
        for one in asked:
            scores = [one.result.score(method, count) for method in METHODS]
            cells = [cell for score in scores for cell in (with_interval(score.average_precision), number(score.dice.value))]
            rows.append([one.named.title, str(count), *cells])
    headers = ["Backbone", "Cases", *(f"{what}, {method}" for method in METHODS for what in ("AP", "Dice"))]
    caption = (
        "AP: average precision of tokens; Dice of tokens. Means over classes that are in the training and in the test cases, "
        "so over fewer classes where few training cases lack some. In brackets: 95 % intervals from drawing patients with "
        "replacement."
    )
    return Table("Mean over classes", headers, rows, caption, num_text_columns=1, in_terminal=True)


def differences_table(probe: DenseProbe, asked: Sequence[Asked]) -> Table:
    """Returns every backbone against the first one, patient by patient the same drawings."""
    first, *others = asked
    rows = [
        [one.named.title, str(count), *(with_interval(difference(one, first, method, count)) for method in METHODS)]
        for count in probe.numbers_of_cases
        for one in others
    ]
    headers = ["Backbone", "Cases", *(f"AP, {method}" for method in METHODS)]
    caption = f"Mean average precision minus that of {first.named.title}; an interval on one side of 0 is a difference."
    return Table(f"Against {first.named.title}", headers, rows, caption)


def difference(one: Asked, other: Asked, method: str, count: int) -> Estimate:
    """Returns the mean average precision of one backbone minus that of another."""
    return estimate(one.result.score(method, count).rounds - other.result.score(method, count).rounds)


def classes_table(probe: DenseProbe, asked: Sequence[Asked], count: int) -> Table:
    """Returns what every backbone knows of every class, with one number of training cases."""
    rows = []
    for index, name in enumerate(probe.cases.classes):
        for one in asked:
            scores = [one.result.score(method, count).classes[index] for method in METHODS]
            cells = [c for score in scores for c in (with_interval(score.average_precision), with_interval(score.dice))]
            of = scores[0]
            where = f"not in {of.absent} cases" if of.absent else f"{of.num_positive} tokens, {of.num_patients} patients"
            rows.append([name, one.named.title, where, *cells])
    headers = ["Class", "Backbone", "In test", *(f"{what}, {method}" for method in METHODS for what in ("AP", "Dice"))]
    caption = "– is undefined: a class that is absent is left out of the means and not counted as 0."
    return Table(f"Classes, {count} training case{'s' * (count > 1)}", headers, rows, caption, num_text_columns=3)


def costs_table(probe: DenseProbe, asked: Sequence[Asked], device: str) -> Table:
    """Returns what every backbone costs."""
    rows = [
        [
            one.named.title,
            f"{one.num_parameters / 1e6:.1f} M" if one.num_parameters else "–",
            f"{one.ms_per_slice:.1f}" if one.ms_per_slice else "–",
        ]
        for one in asked
    ]
    gh, gw = probe.slices(probe.cases.test[0]).known.shape[1:]
    caption = f"Time of the backbone alone: on {device}, at most {BATCH} slices at a time, each of {gh} × {gw} tokens."
    return Table("Cost", ["Backbone", "Parameters", "ms a slice"], rows, caption)


def curves(probe: DenseProbe, asked: Sequence[Asked]) -> Plot:
    """Draws the mean average precision by number of training cases."""
    counts = probe.numbers_of_cases

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(9.2, 3.6), layout="constrained")
        for axes, method in zip(figure.subplots(1, 2, sharey=True), METHODS, strict=True):
            for place, one in enumerate(asked):
                points = [one.result.score(method, count).average_precision for count in counts]
                x = np.arange(len(counts)) + 0.06 * (place - (len(asked) - 1) / 2)
                colour = theme.faint if one.named.backbone == PIXELS else CLASS_COLOURS[place % len(CLASS_COLOURS)]
                axes.plot(x, [p.value for p in points], "o-", color=colour, label=one.named.title, markersize=5)
                axes.vlines(x, [p.low for p in points], [p.high for p in points], color=colour, linewidth=1.2)
            axes.set_xticks(range(len(counts)), [str(count) for count in counts])
            axes.set_xlabel("Training cases")
            axes.set_title(method, loc="left")
        figure.axes[0].set(ylabel="Mean average precision", ylim=(0, None))
        figure.legend(
            handles=figure.axes[0].lines, loc="outside lower center", ncols=4, frameon=False, labelcolor=theme.ink, fontsize=8.5
        )
        return figure

    return themed("cases", "Mean average precision by training cases, with 95 % bootstrap intervals.", draw)
