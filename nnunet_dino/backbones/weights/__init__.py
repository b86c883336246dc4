"""Weights of backbones: where they are, and reading any known format."""

from nnunet_dino.backbones.weights.conversion import ConversionReport, Dropped
from nnunet_dino.backbones.weights.formats import to_timm
from nnunet_dino.backbones.weights.loading import LoadedWeights, digest_of, load_file
from nnunet_dino.backbones.weights.matching import match
from nnunet_dino.backbones.weights.places import (
    ENVIRONMENT_VARIABLE,
    RANDOM,
    STORE_VARIABLE,
    ensure_local,
    load,
    locate,
    missing_weights_message,
    wants_random,
)

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "RANDOM",
    "STORE_VARIABLE",
    "ConversionReport",
    "Dropped",
    "LoadedWeights",
    "digest_of",
    "ensure_local",
    "load",
    "load_file",
    "locate",
    "match",
    "missing_weights_message",
    "to_timm",
    "wants_random",
]
