"""Neurons in electron microscopy: affinities, fragments, agglomeration, scores, conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunet_dino._lazy import names_of

if TYPE_CHECKING:
    from nnunet_dino.em.affinities import LONG_RANGE as LONG_RANGE
    from nnunet_dino.em.affinities import NEAREST as NEAREST
    from nnunet_dino.em.affinities import UNKNOWN as UNKNOWN
    from nnunet_dino.em.affinities import WeightedMSE as WeightedMSE
    from nnunet_dino.em.affinities import affinities_of as affinities_of
    from nnunet_dino.em.affinities import balanced_weights as balanced_weights
    from nnunet_dino.em.affinities import widen_borders as widen_borders
    from nnunet_dino.em.agglomeration import THRESHOLD as THRESHOLD
    from nnunet_dino.em.agglomeration import agglomerate as agglomerate
    from nnunet_dino.em.agglomeration import renumbered as renumbered
    from nnunet_dino.em.blocks import neurons_of as neurons_of
    from nnunet_dino.em.fragments import fragments_of as fragments_of
    from nnunet_dino.em.scores import NeuronScores as NeuronScores
    from nnunet_dino.em.scores import score_neurons as score_neurons

# Imported when first asked for, as scores and their names need none of torch.
_PUBLIC = {
    "em.affinities": ("LONG_RANGE", "NEAREST", "UNKNOWN", "WeightedMSE", "affinities_of", "balanced_weights", "widen_borders"),
    "em.agglomeration": ("THRESHOLD", "agglomerate", "renumbered"),
    "em.scores": ("NeuronScores", "score_neurons"),
    "em.fragments": ("fragments_of",),
    "em.blocks": ("neurons_of",),
}
__all__ = [name for names in _PUBLIC.values() for name in names]
__getattr__ = names_of(__name__, _PUBLIC)
