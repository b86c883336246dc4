"""Results against baselines: table, statistics, pictures.

``compare_results`` and ``compare_folders`` read and compute, ``write_report`` writes what they found.
"""

from nnunet_dino.compare.api import compare_folders, compare_results, default_output
from nnunet_dino.compare.facts import Facts
from nnunet_dino.compare.records import Comparison, Entry, PairedComparison
from nnunet_dino.compare.report import make_report, write_report
from nnunet_dino.compare.statistics import Difference, SignedRank

__all__ = [
    "Comparison",
    "Difference",
    "Entry",
    "Facts",
    "PairedComparison",
    "SignedRank",
    "compare_folders",
    "compare_results",
    "default_output",
    "make_report",
    "write_report",
]
