"""Trainers with 8 epochs of 50 iterations and the seed ``SHORT_SEED``, for comparisons within minutes on a processor.

export nnUNet_extTrainer=benchmarks/short_trainers
nnUNetv2_train 4 3d_fullres 0 -p nnUNetPlansBS2 -tr nnUNetTrainer_8x50 -device cpu
"""

import os
from dataclasses import replace

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_dino.nnunet.recipes import RECIPES
from nnunet_dino.trainers import (
    nnUNetTrainerDINOv3S,
    nnUNetTrainerDINOv3Tiny,
    nnUNetTrainerDINOv3Tiny_Adam1en3_2epochs,
    nnUNetTrainerDINOv3Tiny_FT_2epochs,
    nnUNetTrainerDINOv3Tiny_TokensOnly_2epochs,
    nnUNetTrainerPrior_Adam1en3,
)


class EightTimesFifty:
    """Mixed into a trainer: 8 epochs of 50 iterations, 5 iterations for the pseudo Dice, a validation without mirroring."""

    def run_training(self) -> None:
        np.random.seed(int(os.environ.get("SHORT_SEED", "0")))
        torch.manual_seed(int(os.environ.get("SHORT_SEED", "0")))
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))  # nnU-Net overrules it
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 8, 50, 5
        super().run_training()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        self.inference_allowed_mirroring_axes = None
        super().perform_actual_validation(save_probabilities)


class nnUNetTrainerDINOv3Tiny_1x4(nnUNetTrainerDINOv3Tiny):
    """One epoch of four iterations, to see that a way is whole."""

    def run_training(self) -> None:
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 4, 1
        super().run_training()


class nnUNetTrainer_8x50(EightTimesFifty, nnUNetTrainer):
    """Stock."""


class nnUNetTrainerDINOv3S_8x50(EightTimesFifty, nnUNetTrainerDINOv3S):
    """The flagship with ViT-S."""


class nnUNetTrainerDINOv3Tiny_8x50(EightTimesFifty, nnUNetTrainerDINOv3Tiny):
    """The flagship with the random tiny ViT."""


class nnUNetTrainerPrior_Adam1en3_8x50(EightTimesFifty, nnUNetTrainerPrior_Adam1en3):
    """Stock with AdamW, started at the class frequencies."""


class nnUNetTrainerDINOv3Tiny_FT_Adam1en3_8x50(EightTimesFifty, nnUNetTrainerDINOv3Tiny_FT_2epochs):
    """The same with the tiny ViT trained in full from random weights."""

    recipe = RECIPES["adam1en3"]


# Weights by nnUNet_dino_weights: a file, or random.


class nnUNetTrainerDINOv3Tiny_TokensOnly_8x50(EightTimesFifty, nnUNetTrainerDINOv3Tiny_TokensOnly_2epochs):
    """Tokens alone, one per 4 pixels, with the learning rate of the others."""

    recipe = RECIPES["adam1en3"]
    dino = replace(nnUNetTrainerDINOv3Tiny_TokensOnly_2epochs.dino, token_stride_px=4, weights="pretrained")


class nnUNetTrainerDINOv3Tiny_Adam1en3_8x50(EightTimesFifty, nnUNetTrainerDINOv3Tiny_Adam1en3_2epochs):
    """The flagship, one token per 4 pixels."""

    dino = replace(nnUNetTrainerDINOv3Tiny_Adam1en3_2epochs.dino, token_stride_px=4, weights="pretrained")
