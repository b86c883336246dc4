"""Affinity trainers with 25 epochs of 100 iterations and a seed, for comparisons within half an hour on a processor.

export nnUNet_extTrainer=benchmarks/short_trainers nnUNet_n_proc_DA=0 nnUNet_compile=f
nnUNetv2_train 540 3d_fullres 0 -p nnUNetAffinitiesSmallPlans -tr nnUNetTrainerAffinities_25x100 -device cpu
"""

import os

import numpy as np
import torch

from nnunet_dino.trainers import nnUNetTrainerAffinities, nnUNetTrainerDINOv3Tiny_Affinities


class TwentyFiveTimesHundred:
    """Mixed into a trainer: 25 epochs of 100 iterations, 2 iterations for the pseudo Dice, the seed ``EM_SEED``.

    On a processor the network computes in bfloat16 during training, as nnU-Net's does in float16 on a GPU, and in as many
    threads as ``OMP_NUM_THREADS`` says, which nnU-Net overrules.
    """

    def run_training(self) -> None:
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 25, 100, 2
        np.random.seed(int(os.environ.get("EM_SEED", "0")))
        torch.manual_seed(int(os.environ.get("EM_SEED", "0")))
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
        super().run_training()

    def train_step(self, batch: dict) -> dict:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.device.type == "cpu"):
            return super().train_step(batch)


class nnUNetTrainerAffinities_25x100(TwentyFiveTimesHundred, nnUNetTrainerAffinities):
    """The stock twin."""


class nnUNetTrainerDINOv3Tiny_Affinities_25x100(TwentyFiveTimesHundred, nnUNetTrainerDINOv3Tiny_Affinities):
    """The random tiny ViT."""
