"""From a volume to slices, to tokens, to stages, to logits: the networks that plans name by dotted path.

Every constructor takes ``(input_channels, num_classes, deep_supervision, **arch_kwargs)``, as nnU-Net calls it.
"""

from nnunet_dino.networks.meddinov3 import MedDINOv3 as MedDINOv3
from nnunet_dino.networks.options import DinoOptions as DinoOptions
from nnunet_dino.networks.tokens_only import TokensOnly as TokensOnly
from nnunet_dino.networks.unet import DINOv3UNet as DINOv3UNet
