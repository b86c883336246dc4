"""Classification probes: linear layer, nearest neighbours, attention over bags, on features from disk."""

from __future__ import annotations

from nnunet_dino._lazy import names_of

# Imported when first asked for, as the processes that train need none of the others.
_PUBLIC = {
    "open_store": "features.store.reader",
    "Request": "probes.options",
    "LabelColumns": "probes.options",
    "Labelled": "probes.labels",
    "read_labels": "probes.labels",
    "SplitOptions": "probes.options",
    "EvaluationOptions": "probes.options",
    "evaluate": "probes.evaluation",
    "compute_metrics": "probes.metrics",
    "LinearOptions": "probes.options",
    "train_linear": "probes.linear",
    "report_linear": "probes.linear",
    "KnnOptions": "probes.options",
    "knn_scores": "probes.knn",
    "report_knn": "probes.knn",
    "MilOptions": "probes.options",
    "train_mil": "probes.mil_training",
    "FoldOptions": "probes.options",
    "MilFolds": "probes.options",
    "train_splits": "probes.cross_validation",
    "report_mil": "probes.mil_report",
    "compare_probes": "probes.comparison",
    "apply_probe": "probes.apply",
    "DenseOptions": "probes.dense_options",
    "DenseProbe": "probes.dense",
}
__all__ = list(_PUBLIC)
__getattr__ = names_of(__name__, _PUBLIC)
