"""The one table of trainers and planners: classes, look-up, documentation and tests are made from it.

A new size of backbone is one row of ``SIZES``, a new way to train all of them one row of ``VARIANTS``, a trainer that stands
alone one row of ``SINGLE``. Nothing is imported here that costs time: the start-up hook reads this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

DINOV3_UNET = "nnunet_dino.networks.DINOv3UNet"
TOKENS_ONLY = "nnunet_dino.networks.TokensOnly"
MEDDINOV3 = "nnunet_dino.networks.MedDINOv3"


@dataclass(frozen=True)
class Size:
    """One backbone that all variants are made for.

    Attributes:
        name: What stands after ``nnUNetTrainer`` and ``nnUNetPlanner``.
        title: For the docstrings of the classes.
        backbone: Row of the catalogue.
        weights: ``"pretrained"`` or ``"random"``.
        unets: Keys of ``UNETS`` that there is a planner for.
    """

    name: str
    title: str
    backbone: str
    weights: str = "pretrained"
    unets: tuple[str, ...] = ("", "ResEncM", "ResEncL")


@dataclass(frozen=True)
class Preset:
    """What makes one trainer differ from nnU-Net's own.

    Attributes:
        name: Name of the class; of a variant, the end of it.
        title: Its docstring.
        network: Dotted path of the network; None trains the planned stock network.
        dino: Arguments of :class:`nnunet_dino.networks.options.DinoOptions`.
        recipe: Key of :data:`nnunet_dino.nnunet.recipes.RECIPES`.
        vit_lr: Learning rate of the backbone's trained parameters; None takes the recipe's.
        num_epochs: Length; None is nnU-Net's 1000.
        prior: Start with the output biases at the class frequencies.
        has_affinities: Learn affinities of neurons instead of classes.
    """

    name: str
    title: str
    network: str | None = DINOV3_UNET
    dino: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = "sgd"
    vit_lr: float | None = None
    num_epochs: int | None = None
    prior: bool = False
    has_affinities: bool = False


@dataclass(frozen=True)
class PlannerPreset:
    """What makes one planner differ from nnU-Net's.

    Attributes:
        name: Name of the class.
        title: Its docstring.
        plans_name: Of the plans that it writes.
        dino: The DINOv3 side of the network; None plans the stock network, for affinities.
        unet: Key of ``UNETS``: which of nnU-Net's planners it extends.
        has_long_range: Plan affinities over several voxels as well.
        num_features: Of the U-Net's first stage, for affinities; nnU-Net's own number is 32.
    """

    name: str
    title: str
    plans_name: str
    dino: Mapping[str, Any] | None
    unet: str = ""
    has_long_range: bool = False
    num_features: int = 32


SIZES = (
    Size("DINOv3S", "DINOv3 ViT-S/16", "dinov3_vits16"),
    Size("DINOv3SPlus", "DINOv3 ViT-S+/16", "dinov3_vits16plus", unets=()),
    Size("DINOv3B", "DINOv3 ViT-B/16", "dinov3_vitb16"),
    Size("DINOv3L", "DINOv3 ViT-L/16", "dinov3_vitl16"),
    Size("DINOv3HPlus", "DINOv3 ViT-H+/16", "dinov3_vith16plus", unets=()),
    Size("DINOv2S", "DINOv2 ViT-S/14 with registers", "dinov2_vits14_reg", unets=("",)),
    Size("DINOv2B", "DINOv2 ViT-B/14 with registers", "dinov2_vitb14_reg", unets=("",)),
    Size("DINOv2L", "DINOv2 ViT-L/14 with registers", "dinov2_vitl14_reg", unets=("",)),
    Size("DINOv3T", "DINOv3 ViT-T/16, distilled by lightly-train", "dinov3_vitt16", unets=("",)),
    Size("FlexiCT2D", "FlexiCT-2D, a ViT with patches of 8 pixels pretrained on CT", "flexict_2d", unets=("",)),
    Size("DINOv3Tiny", "A random ViT of 0.9 million parameters for demonstrations and tests", "dinov3_tiny", "random", ("",)),
)

VARIANTS = (
    Preset("", "frozen"),
    Preset("_Adam1en3", "frozen, with AdamW", recipe="adam1en3"),
    Preset("_LoRA", "with LoRA", dino={"adaptation": "lora"}, vit_lr=1e-3),
    Preset("_FT", "trained in full", dino={"adaptation": "full"}, vit_lr=1e-4),
    Preset("_TokensOnly", "frozen, tokens only", TOKENS_ONLY, {"token_stride_px": 16}, "tokens_only"),
)

# The variants of VARIANTS that learn affinities too, with one recipe for all.
WITH_AFFINITIES = ("", "_LoRA", "_FT", "_TokensOnly")

_MEDDINOV3 = {"adaptation": "full", "token_stride_px": 16, "drop_path": 0.2}

SINGLE = (
    Preset(
        "nnUNetTrainerMedDINOv3B",
        "MedDINOv3 ViT-B/16, pretrained on CT, trained in full",
        MEDDINOV3,
        {"backbone": "meddinov3_vitb16", **_MEDDINOV3},
        "meddinov3",
        vit_lr=3e-5,
    ),
    Preset(
        "nnUNetTrainerMedDINOv3B_DINOv3Init",
        "MedDINOv3's network, started from plain DINOv3 ViT-B/16",
        MEDDINOV3,
        {"backbone": "dinov3_vitb16", **_MEDDINOV3},
        "meddinov3",
        vit_lr=1e-4,
    ),
    Preset("nnUNetTrainerPrior", "nnU-Net's network, started at the class frequencies", network=None, prior=True),
    Preset(
        "nnUNetTrainerPrior_Adam1en3",
        "nnU-Net's network with AdamW, started at the class frequencies",
        network=None,
        recipe="adam1en3",
        prior=True,
    ),
    Preset(
        "nnUNetTrainerAffinities",
        "nnU-Net's network, affinities of neurons",
        network=None,
        recipe="affinities",
        has_affinities=True,
    ),
)

AFFINITY_PLANNERS = (
    PlannerPreset("nnUNetPlannerAffinities", "Affinities of neurons", "nnUNetAffinitiesPlans", None),
    PlannerPreset(
        "nnUNetPlannerAffinitiesLongRange",
        "Affinities of neurons, with nine over several voxels beside",
        "nnUNetAffinitiesLongRangePlans",
        None,
        has_long_range=True,
    ),
    PlannerPreset(
        "nnUNetPlannerAffinitiesSmall",
        "Affinities of neurons, by a network of half the features, for trainings on a processor",
        "nnUNetAffinitiesSmallPlans",
        None,
        num_features=16,
    ),
)

# What the plans of these planners name: label managers and a preprocessor.
NEURON_CLASSES = (
    "AffinityLabels",
    "AffinityVolumeLabels",
    "AffinityLongRangeLabels",
    "AffinityVolumeLongRangeLabels",
    "NeuronPreprocessor",
)

LENGTHS = (2, 5, 50, 250)
LENGTHS_WITH_PRIOR = (2, 5, 50)

# nnU-Net's planner and the words for its U-Net, by the end of our planner's name.
UNETS = {
    "": ("ExperimentPlanner", "plain"),
    "ResEncM": ("nnUNetPlannerResEncM", "residual encoder M"),
    "ResEncL": ("nnUNetPlannerResEncL", "residual encoder L"),
}


def _full_length_trainers() -> Iterator[Preset]:
    for size in SIZES:
        for variant in VARIANTS:
            preset = replace(
                variant,
                name=f"nnUNetTrainer{size.name}{variant.name}",
                title=f"{size.title}, {variant.title}",
                dino={"backbone": size.backbone, "weights": size.weights, **variant.dino},
            )
            yield preset
            if variant.name in WITH_AFFINITIES:
                name, title = f"{preset.name}_Affinities", f"{preset.title}, affinities of neurons"
                yield replace(preset, name=name, title=title, recipe="affinities", has_affinities=True)
    yield from SINGLE


def _with_short_runs(preset: Preset) -> Iterator[Preset]:
    yield preset
    for epochs in LENGTHS:
        yield replace(
            preset,
            name=f"{preset.name}_{epochs}epochs",
            title=f"{preset.title}; {epochs} epochs",
            num_epochs=epochs,
            prior=not preset.has_affinities and (preset.prior or epochs in LENGTHS_WITH_PRIOR),
        )


def _planners() -> Iterator[PlannerPreset]:
    for size in SIZES:
        for unet in size.unets:
            yield PlannerPreset(
                name=f"nnUNetPlanner{size.name}{unet}",
                title=f"{size.title} on nnU-Net's {UNETS[unet][1]} U-Net",
                plans_name=f"nnUNet{size.name}{unet}Plans",
                dino={"backbone": size.backbone, "weights": size.weights},
                unet=unet,
            )
    yield from AFFINITY_PLANNERS


TRAINERS: dict[str, Preset] = {
    preset.name: preset for full_length in _full_length_trainers() for preset in _with_short_runs(full_length)
}
PLANNERS: dict[str, PlannerPreset] = {preset.name: preset for preset in _planners()}
