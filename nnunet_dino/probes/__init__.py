"""Classification probes: linear layer, nearest neighbours, attention over bags, on features from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunet_dino._lazy import names_of

if TYPE_CHECKING:
    from nnunet_dino.features.store.reader import open_store as open_store
    from nnunet_dino.probes.apply import apply_probe as apply_probe
    from nnunet_dino.probes.comparison import compare_probes as compare_probes
    from nnunet_dino.probes.cross_validation import train_splits as train_splits
    from nnunet_dino.probes.dense import DenseProbe as DenseProbe
    from nnunet_dino.probes.dense_options import DenseOptions as DenseOptions
    from nnunet_dino.probes.evaluation import evaluate as evaluate
    from nnunet_dino.probes.knn import knn_scores as knn_scores
    from nnunet_dino.probes.knn import report_knn as report_knn
    from nnunet_dino.probes.labels import Labelled as Labelled
    from nnunet_dino.probes.labels import read_labels as read_labels
    from nnunet_dino.probes.linear import report_linear as report_linear
    from nnunet_dino.probes.linear import train_linear as train_linear
    from nnunet_dino.probes.metrics import compute_metrics as compute_metrics
    from nnunet_dino.probes.mil_report import report_mil as report_mil
    from nnunet_dino.probes.mil_training import train_mil as train_mil
    from nnunet_dino.probes.options import EvaluationOptions as EvaluationOptions
    from nnunet_dino.probes.options import FoldOptions as FoldOptions
    from nnunet_dino.probes.options import KnnOptions as KnnOptions
    from nnunet_dino.probes.options import LabelColumns as LabelColumns
    from nnunet_dino.probes.options import LinearOptions as LinearOptions
    from nnunet_dino.probes.options import MilFolds as MilFolds
    from nnunet_dino.probes.options import MilOptions as MilOptions
    from nnunet_dino.probes.options import Request as Request
    from nnunet_dino.probes.options import SplitOptions as SplitOptions

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
