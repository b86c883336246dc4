"""Numbers and results in words, as the report prints them."""

from __future__ import annotations

import math

from nnunet_dino.compare.facts import RANDOM
from nnunet_dino.compare.records import Comparison, Entry, PairedComparison
from nnunet_dino.compare.statistics import Difference

UNKNOWN = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
SIGNIFICANT = 0.05


def dice(value: float) -> str:
    """``0.853``, or a dash for an undefined value."""
    return UNKNOWN if math.isnan(value) else f"{value:.3f}"


def mean_and_sd(mean: float, sd: float) -> str:
    """``0.853 ± 0.041``; without the spread where one case has none."""
    return dice(mean) if math.isnan(sd) else f"{dice(mean)} ± {sd:.3f}"


def signed(value: float) -> str:
    """``+0.012`` or ``−0.003``, with a real minus sign; ``0.000`` without a sign."""
    if math.isnan(value):
        return UNKNOWN
    text = f"{abs(value):.3f}"
    sign = "" if float(text) == 0 else "+" if value > 0 else MINUS
    return sign + text


def change(difference: Difference) -> str:
    """``+0.012 [−0.003, +0.025]``, or the mean alone where there is no interval."""
    interval = "" if math.isnan(difference.low) else f" [{signed(difference.low)}, {signed(difference.high)}]"
    return signed(difference.mean) + interval


def p_value(p: float | None) -> str:
    """``0.21``, ``0.034``, ``< 0.001``, or a dash."""
    if p is None:
        return UNKNOWN
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def test(difference: Difference) -> str:
    """The p value, or that there is none and why."""
    return f"not testable ({difference.test.reason})" if difference.test.p is None else p_value(difference.test.p)


def tally(difference: Difference) -> str:
    """``12 / 6 / 2``: cases better, worse, equal."""
    return f"{difference.num_better} / {difference.num_worse} / {difference.num_equal}"


def count(number: int | None) -> str:
    """``31.2 M`` for a number of parameters."""
    return UNKNOWN if number is None else _scaled(number, ("", " k", " M", " G"))


def size(num_bytes: int | None) -> str:
    """``118 MB`` (decimal units)."""
    return UNKNOWN if num_bytes is None else _scaled(num_bytes, (" B", " kB", " MB", " GB"))


def _scaled(value: float, units: tuple[str, ...]) -> str:
    power = 0
    while value >= 1000 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    digits = 0 if power == 0 or value >= 100 else 1
    return f"{value:.{digits}f}{units[power]}"


def seconds(value: float | None) -> str:
    """``12.3 s``."""
    return UNKNOWN if value is None else f"{value:.1f} s"


def shown_name(entry: Entry) -> str:
    """The name of a result; random weights are part of it."""
    return f"{entry.name} (random weights)" if entry.facts.weights == RANDOM else entry.name


def cases(number: int) -> str:
    """``n = 20 cases``."""
    return f"n = {number} case{'' if number == 1 else 's'}"


def verdict(difference: Difference) -> str:
    """What test and interval say together, in a few words."""
    if difference.num_pairs == 0:
        return "nothing to compare"
    if difference.num_equal == difference.num_pairs:
        return "no difference in any case"
    p = difference.test.p if difference.p_holm is None else difference.p_holm
    if p is None:
        return f"not testable ({difference.test.reason})"
    apart = difference.low > 0 or difference.high < 0
    if p < SIGNIFICANT and apart:
        return "better" if (difference.mean < 0) == difference.lower_is_better else "worse"
    return "no clear difference" if p >= SIGNIFICANT and not apart else "unclear, as test and interval disagree"


def summary(pair: PairedComparison) -> str:
    """One sentence about one result against its baseline."""
    difference = pair.mean
    p = f"p = {p_value(difference.test.p)}".replace("= <", "<") if difference.test.p is not None else ""
    if difference.p_holm is not None:
        p += f" (Holm-adjusted {p_value(difference.p_holm)})"
    what = f"{pair.entry.kind.of_case} {change(difference)}"
    parts = [f"{what} against {shown_name(pair.baseline)}", cases(difference.num_pairs), p]
    return f"{shown_name(pair.entry)}: {', '.join(part for part in parts if part)}: {verdict(difference)}."


def summaries(comparison: Comparison) -> list[str]:
    """The sentences a report begins with: one per comparison, or the plain result where there is only one."""
    if comparison.pairs:
        return [summary(pair) for pair in comparison.pairs]
    entry = comparison.entries[0]
    means = entry.case_means
    result = mean_and_sd(means.mean(), means.std())
    alone = "There is no other result to compare it with."
    return [f"{shown_name(entry)}: {entry.kind.of_case} {result}, {cases(int(means.count()))}. {alone}"]
