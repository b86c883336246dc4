"""Trainers of a few seconds for tests, found by nnU-Net through ``nnUNet_extTrainer``."""

from __future__ import annotations

import os
from dataclasses import replace

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_dino.trainers import (
    nnUNetTrainerAffinities,
    nnUNetTrainerDINOv3Tiny,
    nnUNetTrainerDINOv3Tiny_Affinities,
    nnUNetTrainerDINOv3Tiny_FT_Affinities,
    nnUNetTrainerDINOv3Tiny_LoRA_Affinities,
    nnUNetTrainerDINOv3Tiny_TokensOnly_Affinities,
    nnUNetTrainerPrior,
)


class Short:
    """Two epochs of three steps, and a checkpoint after each; to be named before a trainer."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)
        torch.set_num_threads(1)
        self.num_epochs = 2
        self.num_iterations_per_epoch = 3
        self.num_val_iterations_per_epoch = 1
        self.save_every = 1


class nnUNetTrainerSmoke(Short, nnUNetTrainer):
    """The stock trainer: two epochs of three steps, and a checkpoint after each."""


class nnUNetTrainerDINOv3TinySmoke(Short, nnUNetTrainerDINOv3Tiny):
    """The flagship with a tiny random backbone: two epochs of three steps, and a checkpoint after each.

    The environment variable ``SMOKE_STOP_AFTER`` ends the process after that many epochs, as an interruption does.
    """

    def on_epoch_end(self):
        super().on_epoch_end()
        if os.environ.get("SMOKE_STOP_AFTER") == str(self.current_epoch):
            raise KeyboardInterrupt


class nnUNetTrainerDINOv3TinyPretrainedSmoke(nnUNetTrainerDINOv3TinySmoke):
    """The same, with weights that have to be found."""

    dino = replace(nnUNetTrainerDINOv3Tiny.dino, weights="pretrained")


class nnUNetTrainerDINOv2TinySmoke(nnUNetTrainerDINOv3TinySmoke):
    """The same, with a transformer of DINOv2's kind, whose weights have to be found."""

    dino = replace(nnUNetTrainerDINOv3Tiny.dino, backbone="dinov2_tiny", weights="pretrained")


class nnUNetTrainerDINOv3TinyLoRASmoke(nnUNetTrainerDINOv3TinySmoke):
    """The same, with adapters."""

    dino = replace(nnUNetTrainerDINOv3Tiny.dino, adaptation="lora")


class nnUNetTrainerDINOv3TinyFTSmoke(nnUNetTrainerDINOv3TinySmoke):
    """The same, with a backbone that is trained."""

    dino = replace(nnUNetTrainerDINOv3Tiny.dino, adaptation="full")


class nnUNetTrainerDINOv3TinyPriorSmoke(nnUNetTrainerDINOv3TinySmoke):
    """The same, started at the class frequencies."""

    prior = True


class nnUNetTrainerPriorSmoke(Short, nnUNetTrainerPrior):
    """The stock network started at the class frequencies: two epochs of three steps."""


class nnUNetTrainerAffinitiesSmoke(Short, nnUNetTrainerAffinities):
    """The stock network on affinities: two epochs of three steps."""


class nnUNetTrainerDINOv3Tiny_AffinitiesSmoke(Short, nnUNetTrainerDINOv3Tiny_Affinities):
    """The same, with a tiny random backbone."""


class nnUNetTrainerDINOv3Tiny_LoRA_AffinitiesSmoke(Short, nnUNetTrainerDINOv3Tiny_LoRA_Affinities):
    """The same, with adapters."""


class nnUNetTrainerDINOv3Tiny_FT_AffinitiesSmoke(Short, nnUNetTrainerDINOv3Tiny_FT_Affinities):
    """The same, with a backbone that is trained."""


class nnUNetTrainerDINOv3Tiny_TokensOnly_AffinitiesSmoke(Short, nnUNetTrainerDINOv3Tiny_TokensOnly_Affinities):
    """The same, with a decoder on tokens alone."""
