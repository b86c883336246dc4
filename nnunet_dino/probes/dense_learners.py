"""Learning classes from tokens: ridge regression in closed form, and nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnunet_dino.probes.dense_metrics import average_precision, best_threshold
from nnunet_dino.probes.knn import SOFTMAX, knn_scores

RIDGES = tuple(10.0**power for power in range(-6, 2))
"""Penalties to choose from, as a share of the number of tokens; features have unit variance."""

UNCHOSEN = 1e-2
"""The ridge where there is nothing to choose by."""

TOKENS_TO_CHOOSE_BY = 2**16
BANK, QUERIES = 2**14, 2**13


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
        return self.truth.any(0)

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
        shift: Near the mean of the features, ``e``, so that float32 products lose nothing.
    """

    def __init__(self, features: Tensor, truth: np.ndarray, shift: Tensor) -> None:
        targets = torch.from_numpy(truth.astype(np.float32))
        self.shift, self.count = shift, len(features)
        self.sums = torch.zeros(features.shape[1] + targets.shape[1], dtype=torch.float64)
        self.products = torch.zeros(features.shape[1], len(self.sums), dtype=torch.float64)
        for some, goals in zip(features.split(TOKENS_TO_CHOOSE_BY), targets.split(TOKENS_TO_CHOOSE_BY), strict=True):
            both = torch.cat([some.float() - shift, goals], dim=1)
            self.sums += both.double().sum(0)
            self.products += (both[:, : features.shape[1]].T @ both).double()

    def __sub__(self, part: Moments) -> Moments:
        rest = object.__new__(Moments)
        rest.shift, rest.count = self.shift, self.count - part.count
        rest.sums, rest.products = self.sums - part.sums, self.products - part.products
        return rest

    def solve(self, ridges: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
        """Returns weight ``e k`` and bias ``k`` of every ridge: least squares on standardised features plus a penalty."""
        width = len(self.products)
        mean = self.sums / self.count
        covariance = self.products / self.count - mean[:width, None] * mean
        deviation = covariance.diagonal().clamp(min=1e-12).sqrt()
        correlation = covariance[:, :width] / deviation[:, None] / deviation
        target = covariance[:, width:] / deviation[:, None]
        solved = []
        for ridge in ridges:
            factor = torch.linalg.cholesky(correlation + ridge * torch.eye(width, dtype=torch.float64))
            weight = torch.cholesky_solve(target, factor) / deviation[:, None]
            bias = mean[width:] - (mean[:width] + self.shift.double()) @ weight
            solved.append((weight.float(), bias.float()))
        return solved


def fit_linear(tokens: Tokens, rng: np.random.Generator) -> Linear:
    """Fits a ridge regression from tokens to classes.

    The ridge is the one with the highest mean average precision on parts that are held out in turn; the thresholds are those
    of the largest Dice there.

    Args:
        tokens: With two parts or more; with one, nothing is chosen, and thresholds are those of the training tokens.
        rng: Draws what is chosen by, where there are many tokens.
    """
    whole = Moments(tokens.features, tokens.truth, tokens.features[:TOKENS_TO_CHOOSE_BY].float().mean(0))
    judged = tokens.drawn(TOKENS_TO_CHOOSE_BY, rng)
    numbers = np.unique(tokens.parts)
    if len(numbers) < 2:
        ((weight, bias),) = whole.solve((UNCHOSEN,))
        linear = Linear(weight, bias, np.zeros(0), UNCHOSEN)
        return Linear(weight, bias, _thresholds(linear.scores(judged.features), judged.truth), UNCHOSEN)
    held_out = [np.zeros(judged.truth.shape, np.float32) for _ in RIDGES]
    for number in numbers:
        part, mine = tokens.take(tokens.parts == number), judged.parts == number
        features = judged.take(mine).features.float()
        for scores, (weight, bias) in zip(
            held_out, (whole - Moments(part.features, part.truth, whole.shift)).solve(RIDGES), strict=True
        ):
            scores[mine] = (features @ weight + bias).numpy()
    quality = [_mean_precision(scores, judged.truth) for scores in held_out]
    best = int(np.nanargmax(quality)) if np.isfinite(quality).any() else RIDGES.index(UNCHOSEN)
    ((weight, bias),) = whole.solve((RIDGES[best],))
    return Linear(weight, bias, _thresholds(held_out[best], judged.truth), RIDGES[best])


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
