"""Ranks over tasks: which result is best where, and how far apart mean ranks must lie to say so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.05


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks over the tasks in which every result is known.

    Attributes:
        mean: Mean rank of each result, best first; 1 is best, ties share their mean.
        num_tasks: How many.
        friedman_p: That all results rank alike; None with fewer than three results or two tasks.
        critical: Difference of mean ranks beyond which two differ at 5 % (Nemenyi); None with fewer than two tasks.
        groups: Results that do not differ from one another, as first and last place in ``mean``.
    """

    mean: pd.Series
    num_tasks: int
    friedman_p: float | None
    critical: float | None
    groups: list[tuple[int, int]]


def ranks_of(scores: pd.DataFrame) -> Ranks:
    """Ranks results (columns) within each task (row), higher is better; tasks with a missing score are left out.

    Source:
        J. Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7, 2006: Friedman's test, section 3.2.2,
        Nemenyi's critical difference.
    """
    whole = scores.dropna()
    num_tasks, num_results = whole.shape
    mean = whole.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    if num_tasks < 2 or num_results < 2:
        return Ranks(mean, num_tasks, None, None, [])
    friedman = stats.friedmanchisquare(*whole.to_numpy().T).pvalue if num_results > 2 else None
    quantile = stats.studentized_range.ppf(1 - LEVEL, num_results, np.inf) / np.sqrt(2)
    critical = float(quantile * np.sqrt(num_results * (num_results + 1) / (6 * num_tasks)))
    places = mean.to_numpy()
    spans = [(first, int(np.flatnonzero(places <= places[first] + critical)[-1])) for first in range(num_results)]
    groups = [(a, b) for a, b in spans if b > a and not any(c <= a and b <= d and (c, d) != (a, b) for c, d in spans)]
    return Ranks(mean, num_tasks, None if friedman is None or np.isnan(friedman) else float(friedman), critical, groups)
