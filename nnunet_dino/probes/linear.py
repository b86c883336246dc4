"""One linear layer on frozen features."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_dino._errors import UserError
from nnunet_dino.probes.options import LinearOptions

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": lambda parameters, **options: torch.optim.SGD(parameters, momentum=0.9, **options),
}
INITIAL_STD = 0.01


@dataclass(frozen=True)
class LinearProbe:
    """A trained linear layer.

    Attributes:
        weight: ``c e``.
        bias: ``c``.
        shift: Subtracted from features, ``e``.
        scale: Features are divided by it, ``e``.
        is_exclusive: Whether scores of classes add up to 1.
    """

    weight: Tensor
    bias: Tensor
    shift: Tensor
    scale: Tensor
    is_exclusive: bool

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns probabilities of labels or classes for features ``n e``: ``n c``."""
        inputs = (torch.from_numpy(features) - self.shift) / self.scale
        logits = (inputs @ self.weight.T + self.bias).double()
        return (logits.softmax(1) if self.is_exclusive else logits.sigmoid()).numpy()


def train_linear(
    features: np.ndarray,
    targets: np.ndarray,
    is_exclusive: bool,
    options: LinearOptions,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    device: torch.device | None = None,
) -> LinearProbe:
    """Trains a linear layer: cross-entropy for exclusive classes, else binary cross-entropy per label.

    Args:
        features: ``n e`` of the training part.
        targets: ``n c``, 0 or 1.
        is_exclusive: Whether every input has exactly one class.
        options: How.
        validation: Features and targets by which the best epoch is chosen, if it is asked for.
        device: Where to compute; the CPU by default.

    Raises:
        UserError: The best epoch is asked for without ``validation``.
    """
    if options.keep == "best" and validation is None:
        raise UserError("--keep best: required a val part · got none · keep the last epoch, or give one")
    device = device or torch.device("cpu")
    generator = torch.Generator().manual_seed(options.seed)
    shift, scale = torch.zeros(features.shape[1]), torch.ones(features.shape[1])
    if options.standardise:
        shift = torch.from_numpy(features.mean(0, dtype=np.float64).astype(np.float32))
        scale = torch.from_numpy(features.std(0, dtype=np.float64).astype(np.float32)).clamp(min=1e-6)

    def on_device(vectors: np.ndarray, goals: np.ndarray) -> tuple[Tensor, Tensor]:
        return ((torch.from_numpy(vectors) - shift) / scale).to(device), torch.from_numpy(goals).to(device)

    layer = nn.Linear(features.shape[1], targets.shape[1])
    nn.init.normal_(layer.weight, std=INITIAL_STD, generator=generator)
    nn.init.zeros_(layer.bias)
    layer.to(device)
    inputs, goals = on_device(features, targets)
    held_out = on_device(*validation) if validation is not None and options.keep == "best" else None
    optimizer = OPTIMIZERS[options.optimizer](layer.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    num_steps = options.epochs * -(-len(inputs) // options.batch)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps) if options.schedule == "cosine" else None
    best_loss, best_state = float("inf"), layer.state_dict()  # shares memory with the layer: the last epoch, if none is kept
    for _ in range(options.epochs):
        for chosen in torch.randperm(len(inputs), generator=generator).to(device).split(options.batch):
            optimizer.zero_grad()
            _loss(layer(inputs[chosen]), goals[chosen], is_exclusive).backward()
            optimizer.step()
            if cosine is not None:
                cosine.step()
        if held_out is not None:
            with torch.no_grad():
                loss = float(_loss(layer(held_out[0]), held_out[1], is_exclusive))
            if loss < best_loss:
                best_loss, best_state = loss, copy.deepcopy(layer.state_dict())
    layer.load_state_dict(best_state)
    if not torch.isfinite(layer.weight).all():
        raise UserError(
            f"--lr: required one with which training converges · got {options.lr:g} · try a smaller one, or --standardise"
        )
    return LinearProbe(layer.weight.detach().cpu(), layer.bias.detach().cpu(), shift, scale, is_exclusive)


def _loss(logits: Tensor, targets: Tensor, is_exclusive: bool) -> Tensor:
    return F.cross_entropy(logits, targets) if is_exclusive else F.binary_cross_entropy_with_logits(logits, targets)
