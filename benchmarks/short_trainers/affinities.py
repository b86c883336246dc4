"""Affinity trainers with 4 epochs of 40 iterations and a fixed seed, for comparisons within minutes on a processor.

export nnUNet_extTrainer=benchmarks/short_trainers nnUNet_n_proc_DA=0
nnUNetv2_train 540 3d_fullres 0 -p small -tr nnUNetTrainerAffinities_4x40 -device cpu
"""

import os

import numpy as np
import torch

from nnunet_dino.trainers import nnUNetTrainerAffinities, nnUNetTrainerDINOv3Tiny_Affinities


class FourTimesForty:
    """Mixed into a trainer: 4 epochs of 40 iterations, 2 iterations for the pseudo Dice, seeds of ``EM_SEED``."""

    def run_training(self) -> None:
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 4, 40, 2
        np.random.seed(int(os.environ.get("EM_SEED", "0")))
        torch.manual_seed(int(os.environ.get("EM_SEED", "0")))
        super().run_training()


class nnUNetTrainerAffinities_4x40(FourTimesForty, nnUNetTrainerAffinities):
    """The stock twin."""


class nnUNetTrainerDINOv3Tiny_Affinities_4x40(FourTimesForty, nnUNetTrainerDINOv3Tiny_Affinities):
    """The random tiny ViT."""
