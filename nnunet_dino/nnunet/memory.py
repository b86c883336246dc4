"""What a backbone costs in nnU-Net's currency: outputs of convolutions, without building the backbone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_dino.backbones.catalogue import get_spec
from nnunet_dino.backbones.rgb import num_images
from nnunet_dino.backbones.vit import TOKENS_AT_ONCE
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.networks.slices import token_grid

# nnU-Net calibrates 560e6 convolution outputs at batch size 2 to about 8 GB, which is about 7 bytes an output and sample.
BYTES_PER_OUTPUT = 7
# Bytes a token and channel of one block's activations take in bfloat16 (input, qkv, attention, mlp).
BYTES_PER_ACTIVATION = 2 * 14


def backbone_outputs(options: DinoOptions, patch_size: Sequence[int], input_channels: int, batch_size: int) -> int:
    """Returns the backbone's memory for one sample, as a number of convolution outputs.

    Counted are the stored maps of all taps (and their copy in the neck's precision), the checkpointed input of every block
    where the backbone is trained, and the share of one sample in what does not grow with the batch: the weights and the
    activations of one chunk of slices.

    Args:
        options: The DINOv3 side of the network.
        patch_size: ``(d, h, w)`` or ``(h, w)``.
        input_channels: Image channels.
        batch_size: Samples that share the fixed part.
    """
    spec = get_spec(options.backbone)
    gh, gw = token_grid(patch_size[-2:], options.token_stride_px, options.pixel_aspect)
    num_slices = int(np.prod(patch_size[:-2], dtype=int)) * num_images(len(options.sees) or input_channels, options.rgb)
    tokens = num_slices * (gh * gw + spec.num_prefix_tokens)
    per_token = len(spec.taps) * spec.embed_dim * 2 * 2
    if options.adaptation != "frozen":
        per_token += (max(spec.taps) + 1) * spec.embed_dim * 2
    bytes_per_weight = 2 if options.adaptation == "frozen" else 4
    if options.adaptation == "full":
        bytes_per_weight += 3 * 4  # gradient and two moments of the optimiser
    fixed = spec.num_parameters * bytes_per_weight
    fixed += min(TOKENS_AT_ONCE, tokens * batch_size) * spec.embed_dim * BYTES_PER_ACTIVATION
    return round((tokens * per_token + fixed / batch_size) / BYTES_PER_OUTPUT)
