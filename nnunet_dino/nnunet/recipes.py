"""How networks are optimised; everything else of a training is nnU-Net's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch.optim import SGD, Adam, AdamW, Optimizer

from nnunet_dino.nnunet.schedules import cosine, linear, polynomial


@dataclass(frozen=True)
class Recipe:
    """An optimiser and how its learning rate falls.

    Attributes:
        optimizer: Takes parameter groups, ``lr`` and ``weight_decay``.
        decay: From the share of the training that is done, in [0, 1), to a factor on the learning rate.
        initial_lr: Learning rate at the start.
        weight_decay: Of the optimiser.
        has_deep_supervision: Whether the lower resolutions of the decoder are supervised, as in nnU-Net.
    """

    optimizer: Callable[..., Optimizer]
    decay: Callable[[float], float]
    initial_lr: float
    weight_decay: float
    has_deep_supervision: bool = True


RECIPES = {
    # nnU-Net's own.
    "sgd": Recipe(partial(SGD, momentum=0.99, nesterov=True), polynomial, 1e-2, 3e-5),
    # nnU-Net's nnUNetTrainerAdam1en3, the stock twin in a comparison; learns sooner in short trainings.
    "adam1en3": Recipe(partial(AdamW, amsgrad=True), polynomial, 1e-3, 3e-5),
    # Liu et al. 2025 (arXiv 2509.06467) with nnU-Net's loss. It states no weight decay; this is PyTorch's default.
    "tokens_only": Recipe(AdamW, cosine, 1e-4, 1e-2),
    # Affinities, after Liu et al. 2025: Adam at 1e-3. It states no decay; nnU-Net's is taken.
    "affinities": Recipe(Adam, polynomial, 1e-3, 0.0, has_deep_supervision=False),
    # Li et al. 2025 (arXiv 2509.02379): meddinov3_base_primus_multiscale_Trainer of https://github.com/ricklisz/MedDINOv3 at
    # a2460c2. It clips gradients at 12, as nnU-Net does.
    "meddinov3": Recipe(partial(AdamW, betas=(0.9, 0.98)), linear, 3e-4, 5e-2, has_deep_supervision=False),
}
