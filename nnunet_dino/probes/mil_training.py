"""Training attention over bags, with early stopping on ``val``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_dino._errors import UserError
from nnunet_dino.probes.mil import AttentionMIL
from nnunet_dino.probes.options import OPTIMIZERS, MilOptions

MAX_INSTANCES = 8192  # filled up, of bags that are looked at together


class PaddedBags:
    """Bags as tensors, several at once.

    Args:
        bags: Each ``n e``.
        shift: Subtracted from features.
        scale: Features are divided by it.
    """

    def __init__(self, bags: Sequence[np.ndarray], shift: Tensor, scale: Tensor) -> None:
        self._bags, self._shift, self._scale = bags, shift, scale

    def __call__(self, positions: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Returns some bags, ``b n e``, filled up to the longest, and what is there, ``b n``; None if nothing was filled up."""
        device = self._shift.device
        some = [(torch.tensor(self._bags[position], device=device) - self._shift) / self._scale for position in positions]
        if len(some) == 1:
            return some[0][None], None
        lengths = torch.tensor([len(bag) for bag in some], device=device)
        is_there = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
        return torch.nn.utils.rnn.pad_sequence(some, batch_first=True), is_there

    def groups(self, positions: Sequence[int]) -> Iterator[list[int]]:
        """Divides bags into groups of similar length that may be looked at together."""
        group: list[int] = []
        for position in sorted(positions, key=lambda position: len(self._bags[position])):
            if group and (len(group) + 1) * len(self._bags[position]) > MAX_INSTANCES:
                yield group
                group = []
            group.append(position)
        if group:
            yield group


@dataclass(frozen=True)
class TrainedMIL:
    """A trained network over bags.

    Attributes:
        network: The network.
        shift: Subtracted from features.
        scale: Features are divided by it.
        num_epochs: Passes after which it was kept.
        num_passes: Passes of its training in all.
    """

    network: AttentionMIL
    shift: Tensor
    scale: Tensor
    num_epochs: int
    num_passes: int = 0

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a file of it holds."""
        return {**self.network.state_dict(), "shift": self.shift, "scale": self.scale}

    def on(self, device: torch.device) -> TrainedMIL:
        """Returns a copy on a device."""
        network = copy.deepcopy(self.network).to(device)
        return TrainedMIL(network, self.shift.to(device), self.scale.to(device), self.num_epochs, self.num_passes)

    @torch.no_grad()
    def predict(self, bags: Sequence[np.ndarray], positions: Sequence[int]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Returns probabilities of the classes, ``b c``, and the attention weights of every bag, each ``n``.

        Args:
            bags: Each ``n e``.
            positions: Of those asked for.
        """
        padded, found = PaddedBags(bags, self.shift, self.scale), {}
        self.network.eval()
        for group in padded.groups(positions):
            logits, attention = self.network(*padded(group))
            scores = logits.cpu().double().softmax(1).numpy()
            for position, row, weights in zip(group, scores, attention.cpu().numpy(), strict=True):
                found[position] = row, weights[: len(bags[position])]
        return np.array([found[position][0] for position in positions]), [found[position][1] for position in positions]


def train_mil(
    bags: Sequence[np.ndarray],
    classes: np.ndarray,
    num_classes: int,
    train: np.ndarray,
    val: np.ndarray,
    options: MilOptions,
    device: torch.device,
    shown: Callable[[Iterable[int]], Iterable[int]] = iter,
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
        shown: Goes through the epochs, for example with a bar.

    Raises:
        UserError: Early stopping has no ``val``, or training does not converge.
    """
    if options.patience and not len(val):
        raise UserError("--patience: required a val part for early stopping · got none · give one, or --patience 0")
    shift, scale = (tensor.to(device) for tensor in _scaling(bags, train, options.standardise))
    padded, targets = PaddedBags(bags, shift, scale), torch.from_numpy(classes.astype(np.int64)).to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(options.seed)
        network = AttentionMIL(len(shift), num_classes, **options.network)
        network.to(device)
        kind, more = OPTIMIZERS[options.optimizer]
        is_fused = device.type in ("cpu", "cuda")
        optimizer = getattr(torch.optim, kind)(
            network.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=is_fused, **more
        )
        order = np.random.default_rng(options.seed)
        best_loss, best_epoch, best_state = float("inf"), 0, copy.deepcopy(network.state_dict())
        epoch = 0
        for epoch in shown(range(1, options.epochs + 1)):
            network.train()
            for chosen in _steps(train, classes, options, order):
                optimizer.zero_grad()
                for group in padded.groups(chosen):  # of large bags one at a time
                    (network.loss(*padded(group), targets[group]) * (len(group) / len(chosen))).backward()
                optimizer.step()
            if not torch.isfinite(network.head.weight).all():
                raise UserError(f"--lr: required one with which training converges · got {options.lr:g} · try a smaller one")
            if not options.patience:
                continue
            loss = _mean_loss(network, padded, targets, val)
            if loss < best_loss:
                best_loss, best_epoch, best_state = loss, epoch, copy.deepcopy(network.state_dict())
            if epoch - best_epoch >= options.patience and epoch >= options.min_epochs:
                break
    if options.patience:
        network.load_state_dict(best_state)
    return TrainedMIL(network.eval(), shift, scale, best_epoch if options.patience else epoch, epoch)


@torch.no_grad()
def _mean_loss(network: AttentionMIL, padded: PaddedBags, targets: Tensor, positions: np.ndarray) -> float:
    """Returns the mean cross-entropy of bags, several at once."""
    network.eval()
    groups = padded.groups(positions.tolist())
    losses = [F.cross_entropy(network(*padded(group))[0], targets[group], reduction="sum") for group in groups]
    return float(torch.stack(losses).sum()) / len(positions)


def _steps(train: np.ndarray, classes: np.ndarray, options: MilOptions, order: np.random.Generator) -> Iterator[list[int]]:
    """Yields the bags of every step of an epoch: of all of them, or of as many drawn so that classes are equally likely."""
    if options.balanced:
        chances = 1 / np.bincount(classes[train])[classes[train]]
        drawn = order.choice(train, size=len(train), p=chances / chances.sum()).tolist()
    else:
        drawn = order.permutation(train).tolist()
    for start in range(0, len(drawn), options.bags):
        yield drawn[start : start + options.bags]


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
