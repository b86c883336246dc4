"""Training attention over bags: one bag per step, early stopping on ``val``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_dino._errors import UserError, nearest
from nnunet_dino.probes.linear import OPTIMIZERS
from nnunet_dino.probes.mil import AttentionMIL


@dataclass(frozen=True)
class MilOptions:
    """The network over bags, and how it is trained.

    Attributes:
        projection: Widths of the projection's layers, as text with commas; empty for none.
        attention: Width of the gated attention.
        relu: Whether a ReLU follows every layer of the projection.
        dropout: Rate after every layer of the projection.
        optimizer: ``sgd`` (with momentum 0.9), ``adam`` or ``adamw``.
        lr: Learning rate.
        weight_decay: Of the optimiser.
        epochs: Passes over the training bags, at most.
        patience: Epochs without a better loss on ``val`` after which training stops; 0 trains all epochs and keeps the last.
        min_epochs: Epochs before it may stop.
        bags: Bags per step; shorter ones are filled up.
        balanced: Whether every class is drawn equally often.
        standardise: Whether features are given zero mean and unit variance, by the training bags.
        seed: Of the first weights and of the order.

    Raises:
        UserError: A value is none of these.
    """

    projection: str = "512"
    attention: int = 256
    relu: bool = False
    dropout: float = 0.0
    optimizer: str = "sgd"
    lr: float = 2e-4
    weight_decay: float = 1e-5
    epochs: int = 200
    patience: int = 20
    min_epochs: int = 50
    bags: int = 1
    balanced: bool = True
    standardise: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            hint = nearest(self.optimizer, OPTIMIZERS)
            raise UserError(f"--optimizer: required one of {', '.join(OPTIMIZERS)} · got {self.optimizer!r}{hint}")
        if not all(part.strip().isdigit() and int(part) for part in self.projection.split(",") if self.projection):
            raise UserError(f"--projection: required widths from 1, with commas · got {self.projection!r}")
        for name, least in (("attention", 1), ("epochs", 1), ("bags", 1), ("patience", 0), ("min_epochs", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')}: required a number from {least} · got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout: required a rate from 0 to below 1 · got {self.dropout:g}")
        if not self.lr > 0:
            raise UserError(f"--lr: required a positive number · got {self.lr:g}")

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.projection.split(",") if self.projection)


class TrainedMIL:
    """A trained network over bags.

    Args:
        network: The network.
        shift: Subtracted from features.
        scale: Features are divided by it.
        num_epochs: Passes that it was trained for.
    """

    def __init__(self, network: AttentionMIL, shift: Tensor, scale: Tensor, num_epochs: int) -> None:
        self.network, self.shift, self.scale, self.num_epochs = network, shift, scale, num_epochs

    @torch.no_grad()
    def __call__(self, bag: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns probabilities of the classes ``c`` and the attention weights ``n`` of a bag ``n e``."""
        instances = (torch.from_numpy(bag).to(self.shift.device) - self.shift) / self.scale
        logits, attention = self.network.eval()(instances[None])
        return logits[0].cpu().double().softmax(0).numpy(), attention[0].cpu().numpy()


def train_mil(
    bags: Sequence[np.ndarray],
    classes: np.ndarray,
    num_classes: int,
    train: np.ndarray,
    val: np.ndarray,
    options: MilOptions,
    device: torch.device,
) -> TrainedMIL:
    """Trains attention over bags by cross-entropy.

    Args:
        bags: Each ``n e``.
        classes: Number of the class of every bag.
        num_classes: Number of classes.
        train: Positions of the training bags.
        val: Positions of the bags by whose loss the epoch is chosen; may be empty if ``patience`` is 0.
        options: How.
        device: Where to compute.

    Raises:
        UserError: Early stopping has no ``val``, or training does not converge.
    """
    if options.patience and not len(val):
        raise UserError("--patience: required a val part for early stopping · got none · give one, or --patience 0")
    shift, scale = _scaling(bags, train, options.standardise)
    shift, scale = shift.to(device), scale.to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(options.seed)
        network = AttentionMIL(len(shift), num_classes, options.widths, options.attention, options.relu, options.dropout).to(
            device
        )
        decay = {"lr": options.lr, "weight_decay": options.weight_decay}
        optimizer = OPTIMIZERS[options.optimizer](network.parameters(), **decay)
        order = np.random.default_rng(options.seed)
        best, stale = (float("inf"), copy.deepcopy(network.state_dict()), 0), 0
        for epoch in range(1, options.epochs + 1):
            network.train()
            drawn = _drawn(train, classes, options.balanced, order)
            for start in range(0, len(drawn), options.bags):
                loss = _loss(network, bags, classes, drawn[start : start + options.bags], shift, scale)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if not torch.isfinite(network.head.weight).all():
                raise UserError(f"--lr: required one with which training converges · got {options.lr:g} · try a smaller one")
            if not options.patience:
                continue
            network.eval()
            with torch.no_grad():
                mean = float(np.mean([float(_loss(network, bags, classes, [position], shift, scale)) for position in val]))
            if mean < best[0]:
                best, stale = (mean, copy.deepcopy(network.state_dict()), epoch), 0
            else:
                stale += 1
            if stale >= options.patience and epoch >= options.min_epochs:
                break
    if options.patience:
        network.load_state_dict(best[1])
    return TrainedMIL(network.eval(), shift, scale, best[2] if options.patience else options.epochs)


def _loss(
    network: AttentionMIL,
    bags: Sequence[np.ndarray],
    classes: np.ndarray,
    positions: Sequence[int],
    shift: Tensor,
    scale: Tensor,
) -> Tensor:
    """Returns the mean cross-entropy of some bags."""
    some = [(torch.from_numpy(bags[position]).to(shift.device) - shift) / scale for position in positions]
    is_there = None
    if len(some) > 1:
        lengths = torch.tensor([len(bag) for bag in some], device=shift.device)
        is_there = torch.arange(int(lengths.max()), device=shift.device) < lengths[:, None]
    logits, _ = network(torch.nn.utils.rnn.pad_sequence(some, batch_first=True), is_there)
    return F.cross_entropy(logits, torch.from_numpy(classes[list(positions)]).to(shift.device))


def _drawn(train: np.ndarray, classes: np.ndarray, balanced: bool, order: np.random.Generator) -> np.ndarray:
    """Returns the bags of one epoch: all of them, or as many drawn so that classes are equally likely."""
    if not balanced:
        return order.permutation(train)
    counts = np.bincount(classes[train])
    chances = 1 / counts[classes[train]]
    return order.choice(train, size=len(train), p=chances / chances.sum())


def _scaling(bags: Sequence[np.ndarray], train: np.ndarray, standardise: bool) -> tuple[Tensor, Tensor]:
    width = bags[int(train[0])].shape[1]
    if not standardise:
        return torch.zeros(width), torch.ones(width)
    total, squares, count = np.zeros(width), np.zeros(width), 0
    for position in train:
        values = bags[position].astype(np.float64)
        total, squares, count = total + values.sum(0), squares + (values**2).sum(0), count + len(values)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return torch.from_numpy(mean).float(), torch.from_numpy(np.where(deviation > 1e-6, deviation, 1.0)).float()
