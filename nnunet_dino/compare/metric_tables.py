"""Metrics beside Dice in a comparison: tables, CSV, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from nnunet_dino._errors import UserError
from nnunet_dino.compare import formatting
from nnunet_dino.compare.comparison import adjusted
from nnunet_dino.compare.measure import measure_entries
from nnunet_dino.compare.metrics import Metric, aggregated, find_metric, scores
from nnunet_dino.compare.records import Comparison
from nnunet_dino.compare.statistics import Difference, paired_differences
from nnunet_dino.reports import Table

MEAN = "mean"


@dataclass(frozen=True, eq=False)
class MetricScores:
    """One metric of all results.

    Attributes:
        metric: Which.
        tables: For each result a number for each case (row) and label (column), and the column ``mean``: over labels; of an
            aggregated metric one row.
        differences: For each result with a baseline the difference of the mean over labels; None of an aggregated metric.
    """

    metric: Metric
    tables: Sequence[pd.DataFrame]
    differences: Sequence[Difference | None]


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of all results, in their order: ``tables`` by case and label, and the metrics asked for."""

    tables: Sequence[pd.DataFrame]
    metrics: Sequence[MetricScores]


def check_metrics(names: Sequence[str]) -> list[str]:
    """Returns the names without doubles, in order.

    Raises:
        UserError: There is no such metric.
    """
    return [find_metric(name).name for name in dict.fromkeys(names)]


def measure(comparison: Comparison, names: Sequence[str], ignore: int | None = None) -> Measured:
    """Measures all results of a comparison; see :func:`nnunet_dino.compare.measure.measure_entries`.

    Raises:
        UserError: The results are of neurons, or as said there.
    """
    if comparison.kind.headline is not None:
        raise UserError(f"--metric: required results of labels · got neurons, with {', '.join(names)} · leave it out")
    tables = measure_entries(comparison.entries, comparison.pictures, names, ignore)
    return Measured(tables, [_scores(comparison, tables, find_metric(name)) for name in check_metrics(names)])


def _scores(comparison: Comparison, measured: Sequence[pd.DataFrame], metric: Metric) -> MetricScores:
    if metric.aggregated:
        parts = [aggregated(table, metric).to_frame("all cases").T for table in measured]
    else:
        parts = [scores(table, metric) for table in measured]
    tables = [table.assign(**{MEAN: table.mean(axis=1)}) for table in parts]
    differences: list[Difference | None] = []
    for entry in comparison.entries:
        pair = comparison.pair_of(entry)
        if pair is None or metric.aggregated:
            differences.append(None)
            continue
        ours, theirs = (tables[comparison.entries.index(one)][[MEAN]].to_numpy() for one in (entry, pair.baseline))
        differences += paired_differences(theirs, ours, lower_is_better=metric.lower_is_better)
    tested = iter(adjusted([difference for difference in differences if difference]))
    return MetricScores(metric, tables, [difference and next(tested) for difference in differences])


def metric_tables(comparison: Comparison, measured: Measured) -> list[Table]:
    """One table of means with differences, and one of every label."""
    return [_mean_table(comparison, measured), _label_table(comparison, measured)]


def _mean_table(comparison: Comparison, measured: Measured) -> Table:
    rows = []
    for found in measured.metrics:
        for entry, raw, table, difference in zip(
            comparison.entries, measured.tables, found.tables, found.differences, strict=True
        ):
            column = table[MEAN]
            defined = scores(raw.where(raw["defined"] > 0), found.metric).stack() if not found.metric.aggregated else column
            rows.append(
                [
                    heading(found.metric),
                    formatting.shown_name(entry),
                    formatting.mean_and_sd(column.mean(), column.std()),
                    formatting.dice(defined.median()),
                    str(int(column.count())),
                    formatting.change(difference) if difference else formatting.UNKNOWN,
                    formatting.test(difference) if difference else formatting.UNKNOWN,
                    formatting.p_value(difference.p_holm if difference else None),
                    formatting.tally(difference) if difference else formatting.UNKNOWN,
                ]
            )
    headers = ["Metric", "Result", "Mean ± SD", "Median of the defined", "n", "Difference [95 %]", "Wilcoxon p", "p (Holm)"]
    headers.append("better / worse / equal")
    counts = "; ".join(
        f"{formatting.shown_name(entry)}: {_counts(raw)}"
        for entry, raw in zip(comparison.entries, measured.tables, strict=True)
    )
    caption = (
        "Mean over cases of the mean over labels. ↑ higher, ↓ lower is better; “better” respects that. Median of the defined: "
        f"over cases and labels where reference and prediction both hold something. {counts}."
    )
    return Table("Metrics", headers, rows, caption, num_text_columns=2, in_terminal=True)


def heading(metric: Metric) -> str:
    """The name of a metric with unit and direction."""
    return f"{metric.title} {'↓' if metric.lower_is_better else '↑'}"


def _counts(raw: pd.DataFrame) -> str:
    truth, guess = raw["reference_ml"] > 0, raw["predicted_ml"] > 0
    empty = raw["has_foreground"].groupby(level="case").first() == 0
    return (
        f"{int((truth & ~guess).sum())} missed, {int((~truth & guess).sum())} predicted where there is none, "
        f"{int((~truth & ~guess).sum())} excluded as both are empty, {int(empty.sum())} cases without foreground"
    )


def _label_table(comparison: Comparison, measured: Measured) -> Table:
    rows = [
        [
            label,
            heading(found.metric),
            *(formatting.mean_and_sd(table[key].mean(), table[key].std()) for table in found.tables),
        ]
        for key, label in comparison.label_names.items()
        for found in measured.metrics
    ]
    headers = ["Label", "Metric", *(formatting.shown_name(entry) for entry in comparison.entries)]
    return Table("Metrics per label", headers, rows, "Mean and standard deviation over cases.", 2)


def metrics_csv(comparison: Comparison, measured: Measured) -> str:
    """One row per result, metric, case and label, and one for the mean over labels; empty is undefined or does not count."""
    parts = []
    for found in measured.metrics:
        for entry, table in zip(comparison.entries, found.tables, strict=True):
            long = table.rename_axis("case").reset_index().melt("case", var_name="label", value_name="value")
            long.insert(0, "result", entry.name)
            long.insert(1, "metric", found.metric.name)
            long.insert(2, "title", found.metric.title)
            long.insert(3, "lower_is_better", found.metric.lower_is_better)
            parts.append(long)
    return pd.concat(parts).to_csv(index=False, lineterminator="\n")


def metric_method(measured: Measured) -> list[str]:
    """How metrics are computed and what becomes of empty masks."""
    names = {found.metric.name for found in measured.metrics}
    texts = [
        "Empty masks: where a label is absent from reference and prediction it is excluded. Where only one of both is empty, "
        "Dice, NSD and precision are 0, recall is 0 or (absent from the reference) undefined, and HD95 is the diagonal of the "
        "image in mm. Cases whose reference has no foreground at all count for FPV, FNV and aggregated Dice only."
    ]
    if names & {"fpv", "fnv"}:
        texts.append("FPV, FNV: volume in ml of predicted (true) 18-connected components that meet no true (predicted) voxel.")
    if any(name == "hd95" or name.startswith("nsd") for name in names):
        texts.append(
            "HD95: the larger of both directed 95th percentiles of the distances between surface voxels; NSD: the share of "
            "surface voxels of both within the tolerance. As MONAI computes them."
        )
    if "dsc_agg" in names:
        texts.append("Aggregated Dice: twice the common volume of all cases by the sum of all volumes (HECKTOR 2022); no test.")
    return texts
