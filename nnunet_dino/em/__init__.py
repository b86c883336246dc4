"""Neurons in electron microscopy: affinities, fragments, agglomeration, scores, conversion."""

from nnunet_dino.em.affinities import LONG_RANGE, NEAREST, UNKNOWN, WeightedMSE, affinities_of, balanced_weights, widen_borders
from nnunet_dino.em.agglomeration import THRESHOLD, agglomerate, renumbered
from nnunet_dino.em.blocks import neurons_of
from nnunet_dino.em.fragments import fragments_of, require
from nnunet_dino.em.scores import NeuronScores, score_neurons

__all__ = [
    "LONG_RANGE",
    "NEAREST",
    "THRESHOLD",
    "UNKNOWN",
    "NeuronScores",
    "WeightedMSE",
    "affinities_of",
    "agglomerate",
    "balanced_weights",
    "fragments_of",
    "neurons_of",
    "renumbered",
    "require",
    "score_neurons",
    "widen_borders",
]
