"""Trainers whose outcome does not depend on interruptions: the weights are those of a seed, and the learning rate is 0."""

from __future__ import annotations

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerStillA(nnUNetTrainer):
    """Two epochs of one step, and a checkpoint after each."""

    seed = 1

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)
        torch.set_num_threads(1)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 1, 1
        self.save_every, self.initial_lr = 1, 0.0

    def initialize(self):
        torch.manual_seed(self.seed + self.fold)
        super().initialize()


class nnUNetTrainerStillB(nnUNetTrainerStillA):
    """The same with other weights."""

    seed = 11
