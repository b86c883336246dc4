"""Learning classes from tokens: ridge regression in closed form, and nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from nnunet_dino.probes.dense_metrics import average_precision, best_threshold
from nnunet_dino.probes.knn import SOFTMAX, knn_scores

RIDGES = tuple(10.0**power for power in range(-6, 2))
"""Penalties to choose from, as a share of the number of tokens; features have unit variance."""

UNCHOSEN = 1e-2
"""The ridge where there is nothing to choose by."""

CONSTANT = 1e-12
"""Share of the largest variance below which a feature counts as constant."""

TOKENS_TO_CHOOSE_BY = 2**16
TOKENS_AT_ONCE = 2**13
BANK, QUERIES = 2**13, 2**13


@dataclass(frozen=True)
class Tokens:
    """Tokens with known classes.

    Attributes:
        features: ``n e``.
        truth: ``n k``, boolean.
        parts: To which of several parts a token belongs, ``n``; parts are held out in turn to choose settings and thresholds.
    """

    features: Tensor
    truth: np.ndarray
    parts: np.ndarray

    @property
    def is_learned(self) -> np.ndarray:
        """Whether each class occurs, ``k``."""
        return np.asarray(self.truth.any(0))

    def take(self, chosen: np.ndarray) -> Tokens:
        """Returns some of the tokens."""
        return Tokens(self.features[torch.from_numpy(chosen)], self.truth[chosen], self.parts[chosen])

    def drawn(self, most: int, rng: np.random.Generator) -> Tokens:
        """Returns at most ``most`` tokens, drawn at random."""
        if len(self.truth) <= most:
            return self
        return self.take(np.sort(rng.choice(len(self.truth), most, replace=False)))


@dataclass(frozen=True)
class Linear:
    """A linear function of a token per class: ``setting`` is the ridge, ``thresholds`` are those of the largest Dice."""

    weight: Tensor
    bias: Tensor
    thresholds: np.ndarray
    setting: float

    def scores(self, features: Tensor) -> np.ndarray:
        """Returns ``n k``."""
        return (features.float() @ self.weight + self.bias).numpy()


class Moments:
    """Sums over tokens that ridge regression needs; those of parts add up.

    Args:
        features: ``n e``.
        truth: ``n k``.
    """

    def __init__(self, features: Tensor, truth: np.ndarray) -> None:
        targets = torch.from_numpy(truth.astype(np.float64))
        self.count = len(features)
        self.sums = torch.zeros(features.shape[1] + targets.shape[1], dtype=torch.float64)
        self.products = torch.zeros(features.shape[1], len(self.sums), dtype=torch.float64)
        for some, goals in zip(features.split(TOKENS_AT_ONCE), targets.split(TOKENS_AT_ONCE), strict=True):
            both = torch.cat([some.double(), goals], dim=1)
            self.sums += both.sum(0)
            self.products += both[:, : features.shape[1]].T @ both

    def plus(self, other: Moments, sign: int = 1) -> Moments:
        """Returns the sums with those of another part added, or taken away with ``sign`` -1."""
        both = object.__new__(Moments)
        both.count = self.count + sign * other.count
        both.sums, both.products = self.sums + sign * other.sums, self.products + sign * other.products
        return both

    def solve(self, ridges: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
        """Returns weight ``e k`` and bias ``k`` of every ridge: least squares on standardised features plus a penalty.

        A feature that does not vary gets no weight.
        """
        width = len(self.products)
        mean = self.sums / self.count
        covariance = self.products / self.count - mean[:width, None] * mean
        variance = covariance.diagonal()
        deviation = torch.where(variance > CONSTANT * variance.max(), variance, torch.inf).sqrt()
        correlation = covariance[:, :width] / deviation[:, None] / deviation
        target = covariance[:, width:] / deviation[:, None]
        solved = []
        for ridge in ridges:
            factor = torch.linalg.cholesky(correlation + ridge * torch.eye(width, dtype=torch.float64))
            weight = torch.cholesky_solve(target, factor) / deviation[:, None]
            solved.append((weight.float(), (mean[width:] - mean[:width] @ weight).float()))
        return solved


def fit_linear(tokens: Tokens, rng: np.random.Generator) -> Linear:
    """Fits a ridge regression from tokens to classes.

    The ridge is the one with the highest mean average precision on parts that are held out in turn; the thresholds are those
    of the largest Dice there.

    Args:
        tokens: With two parts or more; with one, nothing is chosen, and thresholds are those of the training tokens.
        rng: Draws what is chosen by, where there are many tokens.
    """
    numbers = np.unique(tokens.parts)
    members = [tokens.take(np.flatnonzero(tokens.parts == number)) for number in numbers]
    parts = [Moments(part.features, part.truth) for part in members]
    whole = reduce(Moments.plus, parts)
    judged = tokens.drawn(TOKENS_TO_CHOOSE_BY, rng)
    if len(parts) < 2:
        return _finish(whole, UNCHOSEN, judged, None)
    held_out = [np.zeros(judged.truth.shape, np.float32) for _ in RIDGES]
    for number, part in zip(numbers, parts, strict=True):
        mine = np.flatnonzero(judged.parts == number)
        features = judged.take(mine).features.float()
        for scores, (weight, bias) in zip(held_out, whole.plus(part, -1).solve(RIDGES), strict=True):
            scores[mine] = (features @ weight + bias).numpy()
    quality = [_mean_precision(scores, judged.truth) for scores in held_out]
    best = int(np.argmax(quality)) if np.isfinite(quality).all() else RIDGES.index(UNCHOSEN)
    return _finish(whole, RIDGES[best], judged, held_out[best])


def _finish(moments: Moments, ridge: float, judged: Tokens, held_out: np.ndarray | None) -> Linear:
    ((weight, bias),) = moments.solve((ridge,))
    scores = (judged.features.float() @ weight + bias).numpy() if held_out is None else held_out
    return Linear(weight, bias, _thresholds(scores, judged.truth), ridge)


@dataclass(frozen=True)
class Neighbours:
    """Cosine k-NN: the nearest tokens vote, weighted by the softmax of their similarity; ``setting`` is ``k``."""

    bank: Tokens
    setting: int
    thresholds: np.ndarray

    def scores(self, features: Tensor) -> np.ndarray:
        """Returns ``n k``."""
        return _votes(self.bank, features, np.full(len(features), -1), self.setting)


def fit_neighbours(tokens: Tokens, num_neighbours: int, rng: np.random.Generator) -> Neighbours:
    """Takes tokens as a bank; the thresholds are those of the largest Dice where no neighbour is of a token's own part.

    A bank that would be too large keeps tokens with a class before those without.

    Raises:
        UserError: There are fewer tokens than neighbours.
    """
    bank = tokens
    if len(tokens.truth) > BANK:
        has_class = tokens.truth.any(1)
        with_class = rng.permutation(np.flatnonzero(has_class))[: BANK // 2]
        without = rng.permutation(np.flatnonzero(~has_class))[: BANK - len(with_class)]
        bank = tokens.take(np.sort(np.concatenate([with_class, without])))
    asked = tokens.drawn(QUERIES, rng)
    parts = asked.parts if len(np.unique(bank.parts)) > 1 else np.full(len(asked.parts), -1)
    return Neighbours(bank, num_neighbours, _thresholds(_votes(bank, asked.features, parts, num_neighbours), asked.truth))


def _votes(bank: Tokens, features: Tensor, parts: np.ndarray, num_neighbours: int) -> np.ndarray:
    arguments = bank.features.float().numpy(), bank.truth, bank.parts, features.float().numpy(), parts
    return knn_scores(*arguments, num_neighbours=(num_neighbours,))[num_neighbours, SOFTMAX].astype(np.float32)


def _mean_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    values = [average_precision(scores[:, number], truth[:, number]) for number in np.flatnonzero(truth.any(0))]
    return float(np.mean(values)) if values else float("nan")


def _thresholds(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.array([best_threshold(scores[:, number], truth[:, number]) for number in range(truth.shape[1])])
