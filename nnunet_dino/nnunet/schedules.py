"""Learning rate schedules in nnU-Net's manner: set from the epoch number, without a state of their own."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer


class EpochSchedule:
    """Scales every parameter group's own learning rate by the same factor.

    Args:
        optimizer: Its groups' learning rates, as they are when first seen, are the ones that are scaled.
        factor: From the share of the training that is done, in [0, 1), to a factor.
        num_epochs: Length of the training.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[float], float], num_epochs: int) -> None:
        self._optimizer = optimizer
        self._start: list[float] = []
        self._see_new_groups()
        self._factor = factor
        self._num_epochs = num_epochs

    def step(self, epoch: int) -> None:
        """Sets the learning rates for ``epoch`` (from 0)."""
        self._see_new_groups()
        factor = self._factor(epoch / self._num_epochs)
        for group, start in zip(self._optimizer.param_groups, self._start, strict=True):
            group["lr"] = start * factor

    def _see_new_groups(self) -> None:
        self._start += [group["lr"] for group in self._optimizer.param_groups[len(self._start) :]]


def polynomial(done: float) -> float:
    """nnU-Net's decay, ``(1 − done)^0.9``."""
    return (1 - done) ** 0.9


def cosine(done: float) -> float:
    """Half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * done))


def linear(done: float) -> float:
    """A straight line from 1 to 0."""
    return 1 - done
