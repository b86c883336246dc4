"""Trainers with 8 epochs of 50 iterations, for comparisons within minutes on a processor.

export nnUNet_extTrainer=benchmarks/short_trainers
nnUNetv2_train 4 3d_fullres 0 -p nnUNetPlansBS2 -tr nnUNetTrainer_8x50 -device cpu
"""

from dataclasses import replace

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_dino.trainers import (
    nnUNetTrainerDINOv3S,
    nnUNetTrainerDINOv3Tiny,
    nnUNetTrainerDINOv3Tiny_TokensOnly_Affinities,
    nnUNetTrainerMedDINOv3B,
)


class EightTimesFifty:
    """Mixed into a trainer: 8 epochs of 50 iterations, 5 iterations for the pseudo Dice."""

    def run_training(self) -> None:
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 8, 50, 5
        super().run_training()


class OneTimesFour:
    """Mixed into a trainer: one epoch of four iterations, to see that a way is whole."""

    def run_training(self) -> None:
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 4, 1
        super().run_training()


class nnUNetTrainerDINOv3Tiny_1x4(OneTimesFour, nnUNetTrainerDINOv3Tiny):
    """The flagship with the random tiny ViT."""


class nnUNetTrainerDINOv3Tiny_TokensOnly_Affinities_1x4(OneTimesFour, nnUNetTrainerDINOv3Tiny_TokensOnly_Affinities):
    """The paper's network on neurons with the random tiny ViT."""


class nnUNetTrainerMedDINOv3Tiny_1x4(OneTimesFour, nnUNetTrainerMedDINOv3B):
    """MedDINOv3's network with the random tiny ViT."""

    dino = replace(nnUNetTrainerMedDINOv3B.dino, backbone="dinov3_tiny", weights="random")


class nnUNetTrainer_8x50(EightTimesFifty, nnUNetTrainer):
    """Stock."""


class nnUNetTrainerDINOv3S_8x50(EightTimesFifty, nnUNetTrainerDINOv3S):
    """The flagship with ViT-S."""


class nnUNetTrainerDINOv3Tiny_8x50(EightTimesFifty, nnUNetTrainerDINOv3Tiny):
    """The flagship with the random tiny ViT."""
