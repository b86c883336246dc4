"""Classification probes: linear layer, nearest neighbours, attention over bags, on features from disk."""

from __future__ import annotations

import importlib
from typing import Any

# Imported when first asked for, as the processes that train need none of the others.
_PUBLIC = {
    "open_store": "nnunet_dino.features.store.reader",
    "Request": "nnunet_dino.probes.options",
    "LabelColumns": "nnunet_dino.probes.options",
    "Labelled": "nnunet_dino.probes.labels",
    "read_labels": "nnunet_dino.probes.labels",
    "SplitOptions": "nnunet_dino.probes.options",
    "EvaluationOptions": "nnunet_dino.probes.options",
    "evaluate": "nnunet_dino.probes.evaluation",
    "compute_metrics": "nnunet_dino.probes.metrics",
    "LinearOptions": "nnunet_dino.probes.options",
    "train_linear": "nnunet_dino.probes.linear",
    "report_linear": "nnunet_dino.probes.linear",
    "KnnOptions": "nnunet_dino.probes.options",
    "knn_scores": "nnunet_dino.probes.knn",
    "report_knn": "nnunet_dino.probes.knn",
    "MilOptions": "nnunet_dino.probes.options",
    "train_mil": "nnunet_dino.probes.mil_training",
    "FoldOptions": "nnunet_dino.probes.options",
    "MilFolds": "nnunet_dino.probes.options",
    "train_splits": "nnunet_dino.probes.cross_validation",
    "report_mil": "nnunet_dino.probes.mil_report",
    "compare_probes": "nnunet_dino.probes.comparison",
    "apply_probe": "nnunet_dino.probes.apply",
    "DenseOptions": "nnunet_dino.probes.dense_options",
    "DenseProbe": "nnunet_dino.probes.dense",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
