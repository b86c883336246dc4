"""nnU-Net asks for classes: each is made from its row of the table when it is first asked for.

They live in ``nnunet_dino.trainers`` and ``nnunet_dino.planners``, so that worker processes can unpickle them by name.
"""

from __future__ import annotations

from functools import cache

from nnunet_dino.nnunet.presets import PLANNERS, TRAINERS, UNETS


@cache
def trainer_class(name: str) -> type:
    """Returns the trainer class of a row of :data:`nnunet_dino.nnunet.presets.TRAINERS`."""
    from nnunet_dino.networks.options import DinoOptions
    from nnunet_dino.nnunet.recipes import RECIPES
    from nnunet_dino.nnunet.trainer import DINOv3Trainer

    preset = TRAINERS[name]
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
    return type(name, (DINOv3Trainer,), content)


@cache
def planner_class(name: str) -> type:
    """Returns the planner class of a row of :data:`nnunet_dino.nnunet.presets.PLANNERS`."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners

    from nnunet_dino.networks.options import DinoOptions
    from nnunet_dino.nnunet.planning import DINOv3Planning

    preset = PLANNERS[name]
    stock = getattr(residual_encoder_unet_planners, UNETS[preset.unet][0], ExperimentPlanner)
    content = {
        "__doc__": f"{preset.title}.",
        "__module__": "nnunet_dino.planners",
        "dino": DinoOptions(**preset.dino),
        "default_plans_name": preset.plans_name,
    }
    return type(name, (DINOv3Planning, stock), content)
