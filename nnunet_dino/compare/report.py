"""The report of a comparison: sentences, tables, plots, pictures of cases, method; and the CSV files beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from nnunet_dino import reports
from nnunet_dino.compare import formatting
from nnunet_dino.compare.csv_tables import cases_csv, summary_csv
from nnunet_dino.compare.metric_tables import check_metrics, measure, metric_method, metric_tables, metrics_csv
from nnunet_dino.compare.overlays import case_picture, changed_cases
from nnunet_dino.compare.plots import forest_plot, paired_plot
from nnunet_dino.compare.records import Comparison
from nnunet_dino.compare.statistics import EQUAL_BELOW, MAX_ENUMERATED, MAX_EXACT, MIN_NONZERO
from nnunet_dino.compare.tables import class_table, cost_table, difference_table, mean_table, source_table
from nnunet_dino.reports import Block, Heading, Report

PACKAGES = ("nnunet-dino", "nnunetv2", "scipy", "numpy", "pandas", "matplotlib", "SimpleITK")
SUMMARY, CASES, METRICS = "summary.csv", "cases.csv", "metrics.csv"


def write_report(
    comparison: Comparison,
    folder: str | Path,
    *,
    overwrite: bool = False,
    pictures: bool = True,
    command: str | None = None,
    metrics: Sequence[str] = (),
) -> Report:
    """Writes a comparison as HTML page, Markdown and CSV.

    Args:
        comparison: The results.
        folder: Where to; made if needed.
        overwrite: Replace the files of an earlier report; others are left alone.
        pictures: Whether to draw plots and single cases.
        command: The command line that asked for it, for the report.
        metrics: Names of metrics beside nnU-Net's Dice, computed from the files.

    Returns:
        What the report says.

    Raises:
        UserError: The folder holds files and ``overwrite`` was not given, or it cannot be written to.
    """
    folder = Path(folder)
    reports.check_folder(folder, overwrite)
    measured = measure(comparison, metrics, comparison.ignore_label) if check_metrics(metrics) else None
    blocks: list[Block] = [mean_table(comparison)]
    blocks += [plot] if pictures and (plot := forest_plot(comparison)) else []
    blocks.append(class_table(comparison))
    blocks += [difference_table(comparison)] if comparison.pairs else []
    blocks += metric_tables(comparison, measured) if measured else []
    blocks += _cases(comparison) if pictures else []
    report = Report(
        title=f"{comparison.title}: results compared",
        sentences=formatting.summaries(comparison),
        warnings=comparison.warnings,
        blocks=[*blocks, cost_table(comparison), source_table(comparison)],
        method=[*_method(comparison), *(metric_method(measured) if measured else []), *comparison.notes],
        origin=reports.origin(command, PACKAGES),
    )
    tables = {SUMMARY: summary_csv(comparison).encode("utf-8"), CASES: cases_csv(comparison).encode("utf-8")}
    if measured:
        tables[METRICS] = metrics_csv(comparison, measured).encode("utf-8")
    reports.write_report(report, folder, tables, overwrite)
    return report


def _cases(comparison: Comparison) -> list[Block]:
    """Returns, for every result with a baseline, the plot of all cases and pictures of the worst, median and best one."""
    blocks: list[Block] = []
    shown = [(pair, changed_cases(pair)) for pair in comparison.pairs]
    with tqdm(total=sum(len(c) for _, c in shown), desc="Drawing cases", unit="case", disable=None, leave=False) as bar:
        for position, (pair, cases) in enumerate(shown, 1):
            blocks.append(Heading(pair.entry.name, f"against {pair.baseline.name}"))
            if len(pair.case_differences):
                blocks.append(paired_plot(pair, f"{position:02d}-{_slug(pair.entry.name)}"))
            for role, case in cases:
                picture = case_picture(comparison, pair, role, case)
                blocks.append(replace(picture, name=f"{position:02d}-{role}-{_slug(case)}"))
                bar.update()
    return blocks


def _slug(name: str) -> str:
    """Returns a name made of letters, digits, dots and dashes, for files."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")[:80]


def _method(comparison: Comparison) -> list[str]:
    kind = comparison.kind
    computed = [kind.method]
    if not comparison.pairs:
        return computed
    several, labels = len(comparison.pairs) > 1, sum(len(pair.classes) for pair in comparison.pairs)
    computed += [
        "Difference: result minus baseline on the same case, averaged over cases. Interval: percentile bootstrap over cases, "
        "10,000 resamples, 95 %, fixed seed.",
        f"Test: Wilcoxon signed-rank, two-sided, paired by case. Differences below {EQUAL_BELOW:g} count as equal; equal cases "
        f"are dropped from the test (Wilcoxon's zero handling). Exact up to {MAX_EXACT} cases without ties and up to "
        f"{MAX_ENUMERATED} with ties, else the normal approximation with tie correction. With fewer than {MIN_NONZERO} "
        "non-zero differences no outcome could reach p < 0.05, and nothing is tested.",
    ]
    families = [f"the {len(comparison.pairs)} tests of {kind.of_case}"] if several else []
    families += [f"the {labels} tests of single {kind.column.lower()}s"] if labels > 1 else []
    if families:
        shown = " and, separately, within ".join(families)
        computed.append(f"Several comparisons: p values are Holm-adjusted within {shown}.")
    computed += [
        f"In words: “better” or “worse” needs {'Holm-adjusted ' if several else ''}p < {formatting.SIGNIFICANT} and an "
        "interval that leaves out zero.",
        "What this cannot show: cases of a fold were predicted by the same trained network, so that test and interval speak "
        "about other cases for these networks. How much results vary when training is repeated takes several runs.",
    ]
    return computed
