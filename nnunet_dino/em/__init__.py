"""Neurons in electron microscopy: affinities, fragments, agglomeration, scores, conversion."""

from __future__ import annotations

import importlib
from typing import Any

# Imported when first asked for, as scores and their names need none of torch.
_PUBLIC = {
    "LONG_RANGE": "affinities",
    "NEAREST": "affinities",
    "THRESHOLD": "agglomeration",
    "UNKNOWN": "affinities",
    "NeuronScores": "scores",
    "WeightedMSE": "affinities",
    "affinities_of": "affinities",
    "agglomerate": "agglomeration",
    "balanced_weights": "affinities",
    "fragments_of": "fragments",
    "neurons_of": "blocks",
    "renumbered": "agglomeration",
    "require": "fragments",
    "score_neurons": "scores",
    "widen_borders": "affinities",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
