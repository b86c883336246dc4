"""MedDINOv3's literal design: 2D, ViT-B trained in full, best with the 2d_896 configuration (arXiv 2509.02379)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_dino._errors import UserError, one_line_in_stock_commands
from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.plans import MEDDINOV3
from nnunet_dino.nnunet.schedules import EpochSchedule, linear
from nnunet_dino.nnunet.trainer import DINOv3Trainer, short_runs


class MedDINOv3Trainer(DINOv3Trainer):
    """Hyper-parameters of the published ``meddinov3_base_primus_multiscale_Trainer``; the clipping at 12 is nnU-Net's own.

    Source: https://github.com/ricklisz/MedDINOv3, as read in its fork sash9966/MedDINOv3 at commit
    bc5a6b7fa88ca41ceedc647a3edba5f06506d8f0. It trains a ViT that starts from plain DINOv3 weights with ``vit_lr`` 1e-4.
    """

    network_class = MEDDINOV3

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net reads exactly this signature)
    ) -> None:
        with one_line_in_stock_commands():
            check_is_2d(plans, configuration)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = 3e-4
        self.weight_decay = 5e-2
        self.enable_deep_supervision = False

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """AdamW with a learning rate of its own for the ViT; both fall linearly to zero."""
        optimizer = torch.optim.AdamW(
            self.parameter_groups(), self.initial_lr, betas=(0.9, 0.98), weight_decay=self.weight_decay
        )
        return optimizer, EpochSchedule(optimizer, linear, self.num_epochs)


class nnUNetTrainerMedDINOv3B(MedDINOv3Trainer):
    """MedDINOv3 ViT-B/16, pretrained on CT, trained in full."""

    dino = DinoOptions("meddinov3_vitb16", adaptation="full", token_stride_px=16, drop_path=0.2)
    vit_lr = 3e-5


class nnUNetTrainerMedDINOv3B_DINOv3Init(MedDINOv3Trainer):
    """The same network, started from plain DINOv3 ViT-B/16."""

    dino = replace(nnUNetTrainerMedDINOv3B.dino, backbone="dinov3_vitb16")
    vit_lr = 1e-4


def check_is_2d(plans: dict, configuration: str) -> None:
    """Raises :class:`UserError` unless ``configuration`` is planned with patches of two axes."""
    patch_size = PlansManager(plans).get_configuration(configuration).patch_size
    if len(patch_size) != 2:
        raise UserError(f"MedDINOv3: required a 2D configuration, it is 2D only · got {configuration} · use -c 2d or 2d_896")


globals().update(short_runs(nnUNetTrainerMedDINOv3B, nnUNetTrainerMedDINOv3B_DINOv3Init))
