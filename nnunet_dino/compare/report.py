"""What a report says, before it is laid out: sentences, tables, figures, pictures, method."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from nnunet_dino.compare import words
from nnunet_dino.compare.comparison import Comparison, Versus
from nnunet_dino.compare.overlays import CasePicture, case_picture, changed_cases
from nnunet_dino.compare.plots import forest_plot, paired_plot
from nnunet_dino.compare.statistics import EQUAL_BELOW, MAX_ENUMERATED, MAX_EXACT, MIN_NONZERO
from nnunet_dino.compare.tables import all_tables
from nnunet_dino.reports.origin import origin
from nnunet_dino.reports.plot import DARK, LIGHT, Plot
from nnunet_dino.reports.table import Table

PACKAGES = ("nnunet-dino", "nnunetv2", "scipy", "numpy", "pandas", "matplotlib", "SimpleITK")


@dataclass(frozen=True)
class Section:
    """Plot and pictures of one comparison."""

    versus: Versus
    plot: Plot | None
    pictures: Sequence[CasePicture]


@dataclass(frozen=True)
class Report:
    """Everything a report shows, in reading order.

    Attributes:
        title: Heading.
        summaries: The result in sentences.
        warnings: What a reader must know before the numbers.
        tables: By name, see :func:`nnunet_dino.compare.tables.all_tables`.
        forest: Overview of all differences.
        sections: One per comparison.
        method: How it was computed, one paragraph each.
        origin: Versions, command and date, as name and text.
    """

    title: str
    summaries: Sequence[str]
    warnings: Sequence[str]
    tables: dict[str, Table]
    forest: Plot | None
    sections: Sequence[Section]
    method: Sequence[str]
    origin: Sequence[tuple[str, str]]


def make_report(comparison: Comparison, *, command: str | None = None, pictures: bool = True) -> Report:
    """Computes tables, plots and pictures of a report.

    Args:
        comparison: The results.
        command: The command line that asked for it.
        pictures: Whether to draw plots and single cases.
    """
    sections, forest = [], None
    if pictures:
        forest = _forest(comparison)
        shown = [(versus, changed_cases(versus)) for versus in comparison.versus]
        with tqdm(total=sum(len(c) for _, c in shown), desc="Drawing cases", unit="case", disable=None, leave=False) as bar:
            sections = [_section(comparison, position, versus, cases, bar) for position, (versus, cases) in enumerate(shown, 1)]
    return Report(
        title=f"{comparison.title}: results compared",
        summaries=words.summaries(comparison),
        warnings=comparison.warnings,
        tables=all_tables(comparison),
        forest=forest,
        sections=sections,
        method=[*_method(comparison), *comparison.notes],
        origin=origin(command, PACKAGES),
    )


def slug(name: str) -> str:
    """Returns a name made of letters, digits, dots and dashes, for files."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")[:80]


def _forest(comparison: Comparison) -> Plot | None:
    light, dark = (forest_plot(comparison, theme) for theme in (LIGHT, DARK))
    text = "Mean differences to the baseline and their 95 % bootstrap intervals. Coloured where the interval leaves out zero."
    return Plot("differences", text, light, dark) if light and dark else None


def _section(comparison: Comparison, position: int, versus: Versus, cases: Sequence[tuple[str, str]], bar: tqdm) -> Section:
    plot = None
    if len(versus.case_differences):
        light, dark = (paired_plot(versus, theme) for theme in (LIGHT, DARK))
        text = (
            f"Every case of {versus.entry.name} against {versus.baseline.name}. Left: above the line the result is better than "
            "the baseline. Right: differences in order; the band is the 95 % bootstrap interval of their mean."
        )
        plot = Plot(f"{position:02d}-{slug(versus.entry.name)}", text, light, dark)
    drawn = []
    for role, case in cases:
        drawn.append(case_picture(comparison, versus, role, case))
        bar.update()
    return Section(versus, plot, drawn)


def _method(comparison: Comparison) -> list[str]:
    computed = [
        "Dice: per case and label, as nnU-Net computes it (2 TP / (2 TP + FP + FN)). Where a label is absent from the "
        "reference and from the prediction, Dice is undefined and left out of every mean, as nnU-Net does; the tables count "
        "such cases. A case's mean is the mean over its defined labels. ± is the standard deviation over cases (n - 1)."
    ]
    if not comparison.versus:
        return computed
    several, labels = len(comparison.versus) > 1, sum(len(versus.classes) for versus in comparison.versus)
    computed += [
        "Difference: result minus baseline on the same case, averaged over cases. Interval: percentile bootstrap over cases, "
        "10,000 resamples, 95 %, fixed seed.",
        f"Test: Wilcoxon signed-rank, two-sided, paired by case. Differences below {EQUAL_BELOW:g} count as equal; equal cases "
        f"are dropped from the test (Wilcoxon's zero handling). Exact up to {MAX_EXACT} cases without ties and up to "
        f"{MAX_ENUMERATED} with ties, else the normal approximation with tie correction. With fewer than {MIN_NONZERO} "
        "non-zero differences no outcome could reach p < 0.05, and nothing is tested.",
    ]
    families = [f"the {len(comparison.versus)} tests of mean Dice"] if several else []
    families += [f"the {labels} tests of single labels"] if labels > 1 else []
    if families:
        shown = " and, separately, within ".join(families)
        computed.append(f"Several comparisons: p values are Holm-adjusted within {shown}.")
    computed += [
        f"In words: “better” or “worse” needs {'Holm-adjusted ' if several else ''}p < {words.SIGNIFICANT} and an interval "
        "that leaves out zero.",
        "What this cannot show: cases of a fold were predicted by the same trained network, so that test and interval speak "
        "about other cases for these networks. How much results vary when training is repeated takes several runs.",
    ]
    return computed
