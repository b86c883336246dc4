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
    "features.store.reader": ("open_store",),
    "probes.options": (
        "Request",
        "LabelColumns",
        "SplitOptions",
        "EvaluationOptions",
        "LinearOptions",
        "KnnOptions",
        "MilOptions",
        "FoldOptions",
        "MilFolds",
    ),
    "probes.labels": ("Labelled", "read_labels"),
    "probes.evaluation": ("evaluate",),
    "probes.metrics": ("compute_metrics",),
    "probes.linear": ("train_linear", "report_linear"),
    "probes.knn": ("knn_scores", "report_knn"),
    "probes.mil_training": ("train_mil",),
    "probes.cross_validation": ("train_splits",),
    "probes.mil_report": ("report_mil",),
    "probes.comparison": ("compare_probes",),
    "probes.apply": ("apply_probe",),
    "probes.dense_options": ("DenseOptions",),
    "probes.dense": ("DenseProbe",),
}
__all__ = [name for names in _PUBLIC.values() for name in names]
__getattr__ = names_of(__name__, _PUBLIC)
