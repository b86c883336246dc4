"""Neurons in electron microscopy: affinities, fragments, agglomeration, scores, conversion."""

from __future__ import annotations

from nnunet_dino._lazy import names_of

# Imported when first asked for, as scores and their names need none of torch.
_PUBLIC = {
    "LONG_RANGE": "em.affinities",
    "NEAREST": "em.affinities",
    "THRESHOLD": "em.agglomeration",
    "UNKNOWN": "em.affinities",
    "NeuronScores": "em.scores",
    "WeightedMSE": "em.affinities",
    "affinities_of": "em.affinities",
    "agglomerate": "em.agglomeration",
    "balanced_weights": "em.affinities",
    "fragments_of": "em.fragments",
    "neurons_of": "em.blocks",
    "renumbered": "em.agglomeration",
    "score_neurons": "em.scores",
    "widen_borders": "em.affinities",
}
__all__ = list(_PUBLIC)
__getattr__ = names_of(__name__, _PUBLIC)
