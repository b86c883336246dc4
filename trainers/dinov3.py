"""The flagship: the planned U-Net with DINOv3 tokens at every stage; backbone frozen, with LoRA, or trained in full."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.schedules import EpochSchedule, polynomial
from nnunet_dino.nnunet.trainer import DINOv3Trainer, short_runs


class nnUNetTrainerDINOv3S(DINOv3Trainer):
    """DINOv3 ViT-S/16, frozen."""

    dino = DinoOptions("dinov3_vits16")


class nnUNetTrainerDINOv3SPlus(DINOv3Trainer):
    """DINOv3 ViT-S+/16, frozen."""

    dino = DinoOptions("dinov3_vits16plus")


class nnUNetTrainerDINOv3B(DINOv3Trainer):
    """DINOv3 ViT-B/16, frozen."""

    dino = DinoOptions("dinov3_vitb16")


class nnUNetTrainerDINOv3L(DINOv3Trainer):
    """DINOv3 ViT-L/16, frozen."""

    dino = DinoOptions("dinov3_vitl16")


class nnUNetTrainerDINOv3HPlus(DINOv3Trainer):
    """DINOv3 ViT-H+/16, frozen."""

    dino = DinoOptions("dinov3_vith16plus")


class nnUNetTrainerDINOv3Tiny(DINOv3Trainer):
    """A random ViT of 0.9 million parameters, frozen, for demonstrations and tests."""

    dino = DinoOptions("dinov3_tiny", weights="random")


class Adam1en3(DINOv3Trainer):
    """AdamW as in nnU-Net's ``nnUNetTrainerAdam1en3``, its stock twin in a comparison; learns sooner in short trainings."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net reads exactly this signature)
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = 1e-3

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """AdamW with ``amsgrad`` and nnU-Net's polynomial decay."""
        optimizer = torch.optim.AdamW(self.parameter_groups(), self.initial_lr, weight_decay=self.weight_decay, amsgrad=True)
        return optimizer, EpochSchedule(optimizer, polynomial, self.num_epochs)


class nnUNetTrainerDINOv3S_Adam1en3(Adam1en3):
    """DINOv3 ViT-S/16, frozen, with AdamW."""

    dino = nnUNetTrainerDINOv3S.dino


class nnUNetTrainerDINOv3SPlus_Adam1en3(Adam1en3):
    """DINOv3 ViT-S+/16, frozen, with AdamW."""

    dino = nnUNetTrainerDINOv3SPlus.dino


class nnUNetTrainerDINOv3B_Adam1en3(Adam1en3):
    """DINOv3 ViT-B/16, frozen, with AdamW."""

    dino = nnUNetTrainerDINOv3B.dino


class nnUNetTrainerDINOv3L_Adam1en3(Adam1en3):
    """DINOv3 ViT-L/16, frozen, with AdamW."""

    dino = nnUNetTrainerDINOv3L.dino


class nnUNetTrainerDINOv3HPlus_Adam1en3(Adam1en3):
    """DINOv3 ViT-H+/16, frozen, with AdamW."""

    dino = nnUNetTrainerDINOv3HPlus.dino


class nnUNetTrainerDINOv3Tiny_Adam1en3(Adam1en3):
    """A random ViT of 0.9 million parameters, frozen, with AdamW."""

    dino = nnUNetTrainerDINOv3Tiny.dino


class LoRA(DINOv3Trainer):
    """Low-rank adapters, trained with their own learning rate."""

    vit_lr = 1e-3


class nnUNetTrainerDINOv3S_LoRA(LoRA):
    """DINOv3 ViT-S/16 with LoRA."""

    dino = replace(nnUNetTrainerDINOv3S.dino, adaptation="lora")


class nnUNetTrainerDINOv3SPlus_LoRA(LoRA):
    """DINOv3 ViT-S+/16 with LoRA."""

    dino = replace(nnUNetTrainerDINOv3SPlus.dino, adaptation="lora")


class nnUNetTrainerDINOv3B_LoRA(LoRA):
    """DINOv3 ViT-B/16 with LoRA."""

    dino = replace(nnUNetTrainerDINOv3B.dino, adaptation="lora")


class nnUNetTrainerDINOv3L_LoRA(LoRA):
    """DINOv3 ViT-L/16 with LoRA."""

    dino = replace(nnUNetTrainerDINOv3L.dino, adaptation="lora")


class nnUNetTrainerDINOv3HPlus_LoRA(LoRA):
    """DINOv3 ViT-H+/16 with LoRA."""

    dino = replace(nnUNetTrainerDINOv3HPlus.dino, adaptation="lora")


class nnUNetTrainerDINOv3Tiny_LoRA(LoRA):
    """A random ViT of 0.9 million parameters with LoRA, for tests."""

    dino = replace(nnUNetTrainerDINOv3Tiny.dino, adaptation="lora")


class FullTuning(DINOv3Trainer):
    """Every parameter trained; the ViT with a hundredth of the learning rate of the rest."""

    vit_lr = 1e-4


class nnUNetTrainerDINOv3S_FT(FullTuning):
    """DINOv3 ViT-S/16, trained in full."""

    dino = replace(nnUNetTrainerDINOv3S.dino, adaptation="full")


class nnUNetTrainerDINOv3SPlus_FT(FullTuning):
    """DINOv3 ViT-S+/16, trained in full."""

    dino = replace(nnUNetTrainerDINOv3SPlus.dino, adaptation="full")


class nnUNetTrainerDINOv3B_FT(FullTuning):
    """DINOv3 ViT-B/16, trained in full."""

    dino = replace(nnUNetTrainerDINOv3B.dino, adaptation="full")


class nnUNetTrainerDINOv3L_FT(FullTuning):
    """DINOv3 ViT-L/16, trained in full."""

    dino = replace(nnUNetTrainerDINOv3L.dino, adaptation="full")


class nnUNetTrainerDINOv3HPlus_FT(FullTuning):
    """DINOv3 ViT-H+/16, trained in full."""

    dino = replace(nnUNetTrainerDINOv3HPlus.dino, adaptation="full")


class nnUNetTrainerDINOv3Tiny_FT(FullTuning):
    """A random ViT of 0.9 million parameters, trained in full, for tests."""

    dino = replace(nnUNetTrainerDINOv3Tiny.dino, adaptation="full")


globals().update(
    short_runs(
        nnUNetTrainerDINOv3S,
        nnUNetTrainerDINOv3SPlus,
        nnUNetTrainerDINOv3B,
        nnUNetTrainerDINOv3L,
        nnUNetTrainerDINOv3HPlus,
        nnUNetTrainerDINOv3Tiny,
        nnUNetTrainerDINOv3S_Adam1en3,
        nnUNetTrainerDINOv3SPlus_Adam1en3,
        nnUNetTrainerDINOv3B_Adam1en3,
        nnUNetTrainerDINOv3L_Adam1en3,
        nnUNetTrainerDINOv3HPlus_Adam1en3,
        nnUNetTrainerDINOv3Tiny_Adam1en3,
        nnUNetTrainerDINOv3S_LoRA,
        nnUNetTrainerDINOv3SPlus_LoRA,
        nnUNetTrainerDINOv3B_LoRA,
        nnUNetTrainerDINOv3L_LoRA,
        nnUNetTrainerDINOv3HPlus_LoRA,
        nnUNetTrainerDINOv3Tiny_LoRA,
        nnUNetTrainerDINOv3S_FT,
        nnUNetTrainerDINOv3SPlus_FT,
        nnUNetTrainerDINOv3B_FT,
        nnUNetTrainerDINOv3L_FT,
        nnUNetTrainerDINOv3HPlus_FT,
        nnUNetTrainerDINOv3Tiny_FT,
    )
)
