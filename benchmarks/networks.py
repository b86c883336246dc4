"""Networks as nnU-Net plans them for a patch, with and without a slice encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn

from nnunet_dino.networks.unet import PLAIN_UNET, DINOv3UNet, build_stock_unet

BASE_FEATURES, MOST_FEATURES = 32, 320
NUM_CLASSES = 3
BACKBONES = {"S": "dinov3_vits16", "B": "dinov3_vitb16", "L": "dinov3_vitl16", "tiny": "dinov3_tiny"}


def planned(patch_size: Sequence[int]) -> dict[str, Any]:
    """Returns the arguments of the plain U-Net that nnU-Net plans for a patch with 1 mm spacing along every axis."""
    _, strides, kernels, _, _ = get_pool_and_conv_props([1.0] * len(patch_size), patch_size, 4, 999999)
    stages = len(strides)
    conv, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[len(patch_size)]
    return {
        "n_stages": stages,
        "features_per_stage": [min(BASE_FEATURES * 2**stage, MOST_FEATURES) for stage in range(stages)],
        "conv_op": conv,
        "kernel_sizes": kernels,
        "strides": strides,
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": norm,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }


def stock(patch_size: Sequence[int]) -> nn.Module:
    """Builds the planned network as nnU-Net does."""
    return build_stock_unet(PLAIN_UNET, 1, NUM_CLASSES, True, planned(patch_size))


def flagship(patch_size: Sequence[int], backbone: str, **dino: Any) -> DINOv3UNet:
    """Builds the planned network with a slice encoder of random weights."""
    options = {"backbone": BACKBONES[backbone], "weights": "random", **dino}
    return DINOv3UNet(1, NUM_CLASSES, True, unet=PLAIN_UNET, dino=options, **planned(patch_size))


def deep_supervision_loss(num_outputs: int) -> nn.Module:
    """Returns nnU-Net's Dice and cross-entropy loss over the outputs of a decoder."""
    loss = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss
    )
    weights = np.array([1 / 2**i for i in range(num_outputs)])
    weights[-1] = 0
    return DeepSupervisionWrapper(loss, weights / weights.sum())


def targets_like(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns random labels ``b 1 d h w`` for every output."""
    return [torch.randint(NUM_CLASSES, (o.shape[0], 1, *o.shape[2:]), device=o.device).float() for o in outputs]
