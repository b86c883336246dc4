"""Trainers of a few hundred iterations that repeat with their seed: what tokens cost, what pretraining gives.

All start with biases at the class frequencies. ``SHORT_SEED`` sets first weights, patches and augmentation; ``SHORT_CASES``
takes the first cases of the fold's training part, ``SHORT_VALIDATION`` those of its validation part. ``nnUNet_dino_weights``
says which weights the transformer has: a file, or ``random``. ``nnUNet_n_proc_DA=0`` keeps the augmentation in this process,
where the seed holds. With ``SHORT_BFLOAT16=1`` networks compute in bfloat16, as nnU-Net's do in float16 on a GPU.
"""

import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_dino.networks.options import DinoOptions
from nnunet_dino.trainers import (
    nnUNetTrainerDINOv3Tiny,
    nnUNetTrainerDINOv3Tiny_Adam1en3,
    nnUNetTrainerDINOv3Tiny_TokensOnly,
    nnUNetTrainerPrior,
    nnUNetTrainerPrior_Adam1en3,
)

TINY = {"backbone": "dinov3_tiny", "weights": "pretrained", "token_stride_px": 8}


def in_bfloat16(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Returns ``forward`` under a processor's bfloat16 autocast, with logits in float32."""

    def forward_in_bfloat16(*inputs: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = forward(*inputs)
        return [output.float() for output in outputs] if isinstance(outputs, list | tuple) else outputs.float()

    return forward_in_bfloat16


class Seeded:
    """Mixed into a trainer: `fifties` epochs of 50 iterations, and a seed."""

    prior = True
    fifties = 8

    def initialize(self) -> None:
        seed = int(os.environ["SHORT_SEED"])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        torch.set_num_threads(1)  # nnUNetv2_train takes all cores of a machine
        super().initialize()
        if os.environ.get("SHORT_BFLOAT16") == "1":
            self.network.to(memory_format=torch.channels_last_3d).forward = in_bfloat16(self.network.forward)

    def run_training(self) -> None:
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = self.fifties, 50, 5
        super().run_training()


class nnUNetTrainerPrior_Seeded8x50(Seeded, nnUNetTrainerPrior):
    """nnU-Net's network and optimiser."""


class nnUNetTrainerDINOv3Tiny_Seeded8x50(Seeded, nnUNetTrainerDINOv3Tiny):
    """The flagship, with nnU-Net's optimiser."""


class FewCases(Seeded):
    """Mixed into a trainer: 300 iterations on few cases, without mirroring."""

    fifties = 6

    def do_split(self):
        training, validation = super().do_split()
        num_validation = int(os.environ.get("SHORT_VALIDATION", len(validation)))
        return training[: int(os.environ["SHORT_CASES"])], validation[:num_validation]

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        rotation, dummy, size, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return rotation, dummy, size, None


class nnUNetTrainer_FewCases(FewCases, nnUNetTrainerPrior_Adam1en3):
    """nnU-Net's network."""


class nnUNetTrainerDINOv3Tiny_FewCases(FewCases, nnUNetTrainerDINOv3Tiny_Adam1en3):
    """The flagship."""

    dino = DinoOptions(**TINY)


class nnUNetTrainerDINOv3Tiny_TokensOnly_FewCases(FewCases, nnUNetTrainerDINOv3Tiny_TokensOnly):
    """Tokens and no convolutional encoder, with the same optimiser."""

    recipe = nnUNetTrainerDINOv3Tiny_Adam1en3.recipe
    dino = DinoOptions(**TINY)
