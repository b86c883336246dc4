"""Stock trainings that start at the class frequencies: the counterparts of trainers with ``prior`` in a comparison."""

from __future__ import annotations

from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam1en3

from nnunet_dino.nnunet.base_trainer import BaseTrainer
from nnunet_dino.nnunet.trainer import short_runs


class nnUNetTrainerPrior(BaseTrainer):
    """nnU-Net's trainer and network, started at the class frequencies."""

    prior = True


class nnUNetTrainerPrior_Adam1en3(BaseTrainer, nnUNetTrainerAdam1en3):
    """The same with the AdamW of nnU-Net's ``nnUNetTrainerAdam1en3``."""

    prior = True


globals().update(short_runs(nnUNetTrainerPrior, nnUNetTrainerPrior_Adam1en3))
