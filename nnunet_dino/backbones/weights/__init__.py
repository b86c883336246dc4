"""Weights of backbones: where they are, and reading any known format."""

from nnunet_dino.backbones.weights.conversion import ConversionReport as ConversionReport
from nnunet_dino.backbones.weights.conversion import Dropped as Dropped
from nnunet_dino.backbones.weights.formats import to_timm as to_timm
from nnunet_dino.backbones.weights.loading import LoadedWeights as LoadedWeights
from nnunet_dino.backbones.weights.loading import digest_of as digest_of
from nnunet_dino.backbones.weights.loading import load_file as load_file
from nnunet_dino.backbones.weights.matching import match as match
from nnunet_dino.backbones.weights.places import ENVIRONMENT_VARIABLE as ENVIRONMENT_VARIABLE
from nnunet_dino.backbones.weights.places import RANDOM as RANDOM
from nnunet_dino.backbones.weights.places import STORE_VARIABLE as STORE_VARIABLE
from nnunet_dino.backbones.weights.places import ensure_local as ensure_local
from nnunet_dino.backbones.weights.places import load as load
from nnunet_dino.backbones.weights.places import locate as locate
from nnunet_dino.backbones.weights.places import missing_weights_message as missing_weights_message
from nnunet_dino.backbones.weights.places import wants_random as wants_random
