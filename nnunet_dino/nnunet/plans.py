"""From nnU-Net's plans and a recipe to a network."""

from __future__ import annotations

import pydoc
from dataclasses import replace
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.networks.unet import check_stock_unet

DINOV3_UNET = "nnunet_dino.networks.DINOv3UNet"
TOKENS_ONLY = "nnunet_dino.networks.TokensOnly"
MEDDINOV3 = "nnunet_dino.networks.MedDINOv3"


def dino_architecture(stock: dict[str, Any], network: str, options: DinoOptions) -> dict[str, Any]:
    """Returns a plans ``architecture`` entry that puts a DINOv3 network in the place of a planned stock one.

    Args:
        stock: The ``architecture`` entry of a stock plan, or one made by this function before.
        network: Dotted path of the network class.
        options: The DINOv3 side.

    Raises:
        UserError: the plan's network is not one that can be extended.
    """
    unet_kwargs = {key: value for key, value in stock["arch_kwargs"].items() if key not in ("unet", "dino")}
    extra: dict[str, Any] = {"dino": options.to_plans()}
    if network == DINOV3_UNET:
        extra["unet"] = stock["arch_kwargs"].get("unet", stock["network_class_name"])
        check_stock_unet(extra["unet"])
    return {
        "network_class_name": network,
        "arch_kwargs": {**unet_kwargs, **extra},
        "_kw_requires_import": list(stock["_kw_requires_import"]),
    }


def build_from_plans(
    configuration: ConfigurationManager,
    network: str,
    options: DinoOptions,
    input_channels: int,
    num_classes: int,
    deep_supervision: bool,
) -> nn.Module:
    """Builds a network for one configuration of any plans, stock or made by this package's planners.

    The number of image channels is the number of planned normalisation schemes: the one-hot channels that a cascade adds
    have none. Of the recipe's token stride and the one in the plans' ``dino`` entry, if any, the coarser counts: ``2d_896`` is
    planned for one token per 16 pixels.
    """
    stock = configuration.configuration["architecture"]
    planned_stride_px = stock["arch_kwargs"].get("dino", {}).get("token_stride_px", 0)
    options = replace(
        options,
        num_image_channels=len(configuration.normalization_schemes),
        token_stride_px=max(options.token_stride_px, planned_stride_px),
    )
    architecture = dino_architecture(stock, network, options)
    arguments = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        if arguments[key] is not None:
            arguments[key] = pydoc.locate(arguments[key])
    return pydoc.locate(network)(input_channels, num_classes, deep_supervision, **arguments)
