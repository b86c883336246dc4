"""Results against baselines: table, statistics, pictures.

``compare_results`` and ``compare_folders`` read and compute, ``write_report`` writes what they found.
"""

from __future__ import annotations

import importlib
from typing import Any

# Imported when first asked for, as processes that measure and lists of jobs need none of torch.
_PUBLIC = {
    "Comparison": "nnunet_dino.compare.records",
    "Entry": "nnunet_dino.compare.records",
    "Facts": "nnunet_dino.compare.facts",
    "compare_folders": "nnunet_dino.compare.api",
    "compare_results": "nnunet_dino.compare.api",
    "default_output": "nnunet_dino.compare.api",
    "write_report": "nnunet_dino.compare.report",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
