"""Planners that write a DINOv3 network into the plans, on nnU-Net's plain and residual-encoder U-Nets."""

from __future__ import annotations

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncM,
)

from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.planning import DINOv3Planning


class nnUNetPlannerDINOv3Tiny(DINOv3Planning, ExperimentPlanner):
    """A random ViT of 0.9 million parameters, for demonstrations and tests."""

    dino = DinoOptions("dinov3_tiny", weights="random")
    default_plans_name = "nnUNetDINOv3TinyPlans"


class nnUNetPlannerDINOv3S(DINOv3Planning, ExperimentPlanner):
    """DINOv3 ViT-S/16 on the plain U-Net."""

    dino = DinoOptions("dinov3_vits16")
    default_plans_name = "nnUNetDINOv3SPlans"


class nnUNetPlannerDINOv3SResEncM(DINOv3Planning, nnUNetPlannerResEncM):
    """DINOv3 ViT-S/16 on the residual-encoder U-Net, size M."""

    dino = nnUNetPlannerDINOv3S.dino
    default_plans_name = "nnUNetDINOv3SResEncMPlans"


class nnUNetPlannerDINOv3SResEncL(DINOv3Planning, nnUNetPlannerResEncL):
    """DINOv3 ViT-S/16 on the residual-encoder U-Net, size L."""

    dino = nnUNetPlannerDINOv3S.dino
    default_plans_name = "nnUNetDINOv3SResEncLPlans"


class nnUNetPlannerDINOv3B(DINOv3Planning, ExperimentPlanner):
    """DINOv3 ViT-B/16 on the plain U-Net."""

    dino = DinoOptions("dinov3_vitb16")
    default_plans_name = "nnUNetDINOv3BPlans"


class nnUNetPlannerDINOv3BResEncM(DINOv3Planning, nnUNetPlannerResEncM):
    """DINOv3 ViT-B/16 on the residual-encoder U-Net, size M."""

    dino = nnUNetPlannerDINOv3B.dino
    default_plans_name = "nnUNetDINOv3BResEncMPlans"


class nnUNetPlannerDINOv3BResEncL(DINOv3Planning, nnUNetPlannerResEncL):
    """DINOv3 ViT-B/16 on the residual-encoder U-Net, size L."""

    dino = nnUNetPlannerDINOv3B.dino
    default_plans_name = "nnUNetDINOv3BResEncLPlans"


class nnUNetPlannerDINOv3L(DINOv3Planning, ExperimentPlanner):
    """DINOv3 ViT-L/16 on the plain U-Net."""

    dino = DinoOptions("dinov3_vitl16")
    default_plans_name = "nnUNetDINOv3LPlans"


class nnUNetPlannerDINOv3LResEncM(DINOv3Planning, nnUNetPlannerResEncM):
    """DINOv3 ViT-L/16 on the residual-encoder U-Net, size M."""

    dino = nnUNetPlannerDINOv3L.dino
    default_plans_name = "nnUNetDINOv3LResEncMPlans"


class nnUNetPlannerDINOv3LResEncL(DINOv3Planning, nnUNetPlannerResEncL):
    """DINOv3 ViT-L/16 on the residual-encoder U-Net, size L."""

    dino = nnUNetPlannerDINOv3L.dino
    default_plans_name = "nnUNetDINOv3LResEncLPlans"
