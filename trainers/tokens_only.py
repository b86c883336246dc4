"""The benchmark's literal design: frozen slice tokens and a light convolutional decoder (arXiv 2509.06467)."""

from __future__ import annotations

from typing import Any

import torch

from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.nnunet.plans import TOKENS_ONLY
from nnunet_dino.nnunet.schedules import EpochSchedule, cosine
from nnunet_dino.nnunet.trainer import DINOv3Trainer, short_runs


class TokensOnlyTrainer(DINOv3Trainer):
    """AdamW at 1e-4, cosine decay, Dice and cross-entropy (nnU-Net's loss), one token for 16 pixels.

    The paper states no weight decay; it is PyTorch's default for AdamW.
    """

    network_class = TOKENS_ONLY

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net reads exactly this signature)
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = 1e-4
        self.weight_decay = 1e-2

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """AdamW and half a cosine to zero."""
        optimizer = torch.optim.AdamW(self.parameter_groups(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, EpochSchedule(optimizer, cosine, self.num_epochs)


class nnUNetTrainerDINOv3S_TokensOnly(TokensOnlyTrainer):
    """DINOv3 ViT-S/16, frozen, tokens only."""

    dino = DinoOptions("dinov3_vits16", token_stride_px=16)


class nnUNetTrainerDINOv3SPlus_TokensOnly(TokensOnlyTrainer):
    """DINOv3 ViT-S+/16, frozen, tokens only."""

    dino = DinoOptions("dinov3_vits16plus", token_stride_px=16)


class nnUNetTrainerDINOv3B_TokensOnly(TokensOnlyTrainer):
    """DINOv3 ViT-B/16, frozen, tokens only."""

    dino = DinoOptions("dinov3_vitb16", token_stride_px=16)


class nnUNetTrainerDINOv3L_TokensOnly(TokensOnlyTrainer):
    """DINOv3 ViT-L/16, frozen, tokens only."""

    dino = DinoOptions("dinov3_vitl16", token_stride_px=16)


class nnUNetTrainerDINOv3HPlus_TokensOnly(TokensOnlyTrainer):
    """DINOv3 ViT-H+/16, frozen, tokens only."""

    dino = DinoOptions("dinov3_vith16plus", token_stride_px=16)


class nnUNetTrainerDINOv3Tiny_TokensOnly(TokensOnlyTrainer):
    """A random ViT of 0.9 million parameters, frozen, tokens only, for demonstrations and tests."""

    dino = DinoOptions("dinov3_tiny", weights="random", token_stride_px=16)


globals().update(
    short_runs(
        nnUNetTrainerDINOv3S_TokensOnly,
        nnUNetTrainerDINOv3SPlus_TokensOnly,
        nnUNetTrainerDINOv3B_TokensOnly,
        nnUNetTrainerDINOv3L_TokensOnly,
        nnUNetTrainerDINOv3HPlus_TokensOnly,
        nnUNetTrainerDINOv3Tiny_TokensOnly,
    )
)
