"""Results against baselines: table, statistics, pictures.

``compare_results`` and ``compare_folders`` read and compute, ``write_report`` writes what they found.
"""

from __future__ import annotations

from nnunet_dino._lazy import names_of

# Imported when first asked for, as processes that measure and lists of jobs need none of torch.
_PUBLIC = {
    "Comparison": "compare.records",
    "Entry": "compare.records",
    "Facts": "compare.facts",
    "compare_folders": "compare.api",
    "compare_results": "compare.api",
    "default_output": "compare.api",
    "write_report": "compare.report",
}
__all__ = list(_PUBLIC)
__getattr__ = names_of(__name__, _PUBLIC)
