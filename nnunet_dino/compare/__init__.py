"""Results against baselines: table, statistics, pictures.

``compare_results`` and ``compare_folders`` read and compute, ``write_report`` writes what they found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunet_dino._lazy import names_of

if TYPE_CHECKING:
    from nnunet_dino.compare.api import compare_folders as compare_folders
    from nnunet_dino.compare.api import compare_results as compare_results
    from nnunet_dino.compare.api import default_output as default_output
    from nnunet_dino.compare.facts import Facts as Facts
    from nnunet_dino.compare.records import Comparison as Comparison
    from nnunet_dino.compare.records import Entry as Entry
    from nnunet_dino.compare.report import write_report as write_report

# Imported when first asked for, as processes that measure and lists of jobs need none of torch.
_PUBLIC = {
    "compare.records": ("Comparison", "Entry"),
    "compare.facts": ("Facts",),
    "compare.api": ("compare_folders", "compare_results", "default_output"),
    "compare.report": ("write_report",),
}
__all__ = [name for names in _PUBLIC.values() for name in names]
__getattr__ = names_of(__name__, _PUBLIC)
