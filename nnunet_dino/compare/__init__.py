"""Results against baselines: table, statistics, pictures.

``compare_results`` and ``compare_folders`` read and compute, ``write_report`` writes what they found.
"""

from nnunet_dino.compare.api import compare_folders, compare_results, default_output
from nnunet_dino.compare.facts import Facts
from nnunet_dino.compare.records import Comparison, Entry
from nnunet_dino.compare.report import write_report

__all__ = ["Comparison", "Entry", "Facts", "compare_folders", "compare_results", "default_output", "write_report"]
