"""From nnU-Net's plans and a recipe to a network."""

from __future__ import annotations

import pydoc
from dataclasses import replace
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_dino._errors import UserError
from nnunet_dino.backbones.catalogue import get_spec
from nnunet_dino.backbones.records import to_tensor
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.networks.options_record import different_options, flat_options
from nnunet_dino.networks.unet import stock_unet
from nnunet_dino.nnunet.presets import DINOV3_UNET, MEDDINOV3, TOKENS_ONLY
from nnunet_dino.nnunet.slice_view import fit_to_plans

_FROM_DATA = ("channels", "pixel_aspect", "sees")  # follow from the plans, whatever the entry says


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
        extra["unet"] = stock_unet(stock["arch_kwargs"].get("unet", stock["network_class_name"]))
    return {
        "network_class_name": network,
        "arch_kwargs": {**unet_kwargs, **extra},
        "_kw_requires_import": list(stock["_kw_requires_import"]),
    }


def planned_options(architecture: dict[str, Any]) -> DinoOptions | None:
    """Returns the DINOv3 side of a planned network; None for a network that is not of this package.

    Raises:
        UserError: The plans name a backbone, an option or a U-Net that there is not.
    """
    network = architecture.get("network_class_name")
    arguments = architecture.get("arch_kwargs", {})
    if not str(network).startswith("nnunet_dino.") and "dino" not in arguments:
        return None
    entry = arguments.get("dino")
    if network not in (DINOV3_UNET, TOKENS_ONLY, MEDDINOV3) or not isinstance(entry, dict):
        raise UserError(
            f"plans: required a network of nnunet-dino with a dino entry · got {network} with {entry!r} · plan again"
        )
    try:
        options = DinoOptions.from_plans(entry)
    except (TypeError, ValueError) as error:
        raise (
            error
            if isinstance(error, UserError)
            else UserError(f"plans: required a dino entry as nnunet-dino writes it · got {error} · plan again")
        ) from error
    get_spec(options.backbone)
    dino_architecture(architecture, str(network), options)
    return options


def overruled_options(architecture: dict[str, Any], options: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns what the plans' ``dino`` entry says and what a network has in its place, by the name of the option.

    Args:
        architecture: The ``architecture`` entry of a configuration.
        options: Those of the network's slice encoder.
    """
    entry = flat_options({"lora": {}, **architecture["arch_kwargs"].get("dino", {})})
    differ = different_options(to_tensor(entry), options)
    return {key: values for key, values in differ.items() if key not in _FROM_DATA}


def build_from_plans(
    plans: PlansManager,
    configuration: ConfigurationManager,
    network: str,
    options: DinoOptions,
    input_channels: int,
    num_classes: int,
    deep_supervision: bool,
) -> nn.Module:
    """Builds a network for one configuration of any plans, stock or made by this package's planners.

    See :func:`nnunet_dino.nnunet.slice_view.fit_to_plans` for what the plans tell of slices. MedDINOv3 keeps its paper's grid,
    in which pixels are taken for square.
    """
    stock = configuration.configuration["architecture"]
    intensities = plans.plans.get("foreground_intensity_properties_per_channel", {})
    options = fit_to_plans(options, configuration.configuration, intensities)
    if network == MEDDINOV3:
        options = replace(options, pixel_aspect=1.0)
    architecture = dino_architecture(stock, network, options)
    arguments = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        if arguments[key] is not None:
            arguments[key] = pydoc.locate(arguments[key])
    built: Any = pydoc.locate(network)
    return built(input_channels, num_classes, deep_supervision, **arguments)
