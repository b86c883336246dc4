"""nnU-Net asks for classes: each is made from its row of the table when it is first asked for.

They live in ``nnunet_dino.trainers`` and ``nnunet_dino.planners``, so that worker processes can unpickle them by name.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from nnunet_dino.nnunet.presets import PLANNERS, TRAINERS, UNETS


@cache
def trainer_class(name: str) -> type:
    """Returns the trainer class of a row of :data:`nnunet_dino.nnunet.presets.TRAINERS`."""
    from nnunet_dino.networks.options import DinoOptions
    from nnunet_dino.nnunet.recipes import RECIPES
    from nnunet_dino.nnunet.trainer import DINOv3Trainer

    preset = TRAINERS[name]
    base: type = DINOv3Trainer
    if preset.has_affinities:
        from nnunet_dino.nnunet.affinity_trainer import AffinityTrainer as base
    content = {
        "__doc__": f"{preset.title}.",
        "__module__": "nnunet_dino.trainers",
        "dino": DinoOptions(**preset.dino) if preset.network else None,
        "network_class": preset.network,
        "recipe": RECIPES[preset.recipe],
        "vit_lr": preset.vit_lr,
        "short_run_epochs": preset.num_epochs,
        "prior": preset.prior,
    }
    return type(name, (base,), content)


@cache
def planner_class(name: str) -> type:
    """Returns the planner class of a row of :data:`nnunet_dino.nnunet.presets.PLANNERS`."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners

    from nnunet_dino.networks.options import DinoOptions
    from nnunet_dino.nnunet.affinity_planning import AffinityPlanning
    from nnunet_dino.nnunet.planning import DINOv3Planning

    preset = PLANNERS[name]
    stock = getattr(residual_encoder_unet_planners, UNETS[preset.unet][0], ExperimentPlanner)
    content: dict[str, Any] = {
        "__doc__": f"{preset.title}.",
        "__module__": "nnunet_dino.planners",
        "default_plans_name": preset.plans_name,
    }
    if preset.dino is None:
        content |= {"has_long_range": preset.has_long_range, "num_features": preset.num_features}
        return type(name, (AffinityPlanning, stock), content)
    return type(name, (DINOv3Planning, stock), content | {"dino": DinoOptions(**preset.dino)})


def neuron_class(name: str) -> type:
    """Returns the label manager or preprocessor of a row of :data:`nnunet_dino.nnunet.presets.NEURON_CLASSES`."""
    from nnunet_dino.nnunet import neuron_labels

    return getattr(neuron_labels, name)
