"""Small planned networks and backbones that several test files build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.catalogue import get_spec
from nnunet_dino.backbones.vit import Backbone
from nnunet_dino.networks.unet import PLAIN_UNET, RESIDUAL_UNET, DINOv3UNet

TINY = "dinov3_tiny"
FEATURES = [4, 6, 8]


def planned(unet: str, num_axes: int, num_more_stages: int = 0) -> dict[str, Any]:
    """Returns ``arch_kwargs`` as nnU-Net plans them: three stages, and further ones of the same size.

    The slices of a volume are not pooled in the first step.
    """
    conv_op = {2: nn.Conv2d, 3: nn.Conv3d}[num_axes]
    norm_op = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[num_axes]
    strides = {2: [[1, 1], [2, 2], [2, 2]], 3: [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}[num_axes]
    blocks = {PLAIN_UNET: "n_conv_per_stage", RESIDUAL_UNET: "n_blocks_per_stage"}[unet]
    num_stages = 3 + num_more_stages
    return {
        "n_stages": num_stages,
        "features_per_stage": FEATURES + FEATURES[-1:] * num_more_stages,
        "conv_op": conv_op,
        "kernel_sizes": [[3] * num_axes] * num_stages,
        "strides": strides + [[1] * num_axes] * num_more_stages,
        blocks: [1, 2, 1] + [1] * num_more_stages,
        "n_conv_per_stage_decoder": [1] * (num_stages - 1),
        "conv_bias": True,
        "norm_op": norm_op,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }


def small_unet(
    unet: str = PLAIN_UNET, num_axes: int = 3, input_channels: int = 1, deep_supervision: bool = False, **dino: Any
) -> DINOv3UNet:
    """Builds a DINOv3UNet with a random tiny backbone unless ``dino`` says otherwise."""
    options = {"backbone": TINY, "weights": "random", "neck_width": 10, **dino}
    return DINOv3UNet(input_channels, 3, deep_supervision, unet=unet, dino=options, **planned(unet, num_axes))


def volume(batch: int = 2, channels: int = 1, seed: int = 0) -> torch.Tensor:
    """Returns ``b c d h w`` with five different sizes."""
    return torch.randn(batch, channels, 6, 20, 12, generator=torch.Generator().manual_seed(seed))


def write_weights(folder: Path, seed: int, name: str = TINY, **metadata: str) -> Path:
    """Writes weights that :func:`nnunet_dino.backbones.weights.locate` finds when the environment names ``folder``."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file(Backbone(get_spec(name), random=True).vit.state_dict(), path, metadata)
    return path


def refuse(rank: int) -> None:
    """Raises what a trainer raises in a process that torch spawned."""
    raise UserError(f"required a · got b in process {rank}")
