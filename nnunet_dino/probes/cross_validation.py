"""Training attention once per split, in several processes, and scoring bags that the network has not seen."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

import joblib
import numpy as np
import torch

from nnunet_dino._errors import UserError
from nnunet_dino.features.progress import progress
from nnunet_dino.probes.mil_training import TrainedMIL, train_mil
from nnunet_dino.probes.options import MilOptions

NUM_TIMED = 16


@dataclass(frozen=True)
class BagScores:
    """What one trained network says of bags.

    Attributes:
        split: The parts that it was trained with.
        scores: Probabilities of the classes, ``bags c``; NaN of bags that were not asked about.
        attention: Weights of the instances of every bag; empty where it was not asked about.
        trained: The network.
    """

    split: np.ndarray
    scores: np.ndarray
    attention: list[np.ndarray]
    trained: TrainedMIL


def train_splits(
    bags: Sequence[np.ndarray],
    classes: np.ndarray,
    num_classes: int,
    splits: Sequence[np.ndarray],
    seeds: Sequence[int],
    options: MilOptions,
    device: torch.device,
    workers: int = 0,
) -> list[BagScores]:
    """Trains one network per split; the numbers do not depend on the number of processes.

    Args:
        bags: Each ``n e``.
        classes: Number of the class of every bag.
        num_classes: Number of classes.
        splits: ``train``, ``val`` or ``test`` per bag. Of several splits, networks score what they were not trained on; the
            network of a single one scores every bag.
        seeds: Added to the seed, one per split.
        options: How to train.
        device: Where to compute.
        workers: Processes; 0 for as many as there are processors, or one on a GPU.

    Raises:
        UserError: Training does not converge, or a process ended before its time.
    """
    if len(splits) == 1:
        seeded = replace(options, seed=options.seed + seeds[0])
        return [_train(bags, classes, num_classes, splits[0], seeded, device, is_alone=True)]
    workers = num_workers(workers, device, len(splits))
    jobs = (
        joblib.delayed(_train)(bags, classes, num_classes, split, replace(options, seed=options.seed + seed), device)
        for split, seed in zip(splits, seeds, strict=True)
    )
    try:
        return list(progress(joblib.Parallel(workers, return_as="generator")(jobs), len(splits), "training"))
    except BrokenProcessPool as error:
        raise UserError(
            f"--workers: required memory for {workers} trainings at a time · got a process that was ended · give fewer"
        ) from error


def expected_duration(
    bags: Sequence[np.ndarray],
    classes: np.ndarray,
    num_classes: int,
    splits: Sequence[np.ndarray],
    options: MilOptions,
    device: torch.device,
    workers: int = 0,
) -> str:
    """Says how long :func:`train_splits` will take, from :data:`NUM_TIMED` training bags of the first split that are tried."""
    train = np.flatnonzero(splits[0] == "train")
    timed = train[np.linspace(0, len(train) - 1, min(NUM_TIMED, len(train))).astype(int)]
    once = replace(options, epochs=1, patience=0)
    train_mil(bags, classes, num_classes, timed[:1], timed[:0], once, device)  # the first step is slow
    started = time.perf_counter()
    train_mil(bags, classes, num_classes, timed, timed[:0], once, device)
    epoch_s = (time.perf_counter() - started) * len(train) / len(timed)
    rounds = -(-len(splits) // num_workers(workers, device, len(splits)))
    most = options.epochs
    least = min(most, max(options.min_epochs, options.patience + 1)) if options.patience else most
    span = " to ".join(dict.fromkeys(_words(rounds * count * epoch_s) for count in (least, most)))
    count = f"{least} to {most}" if least < most else f"{most}"
    networks = "1 network" if len(splits) == 1 else f"{len(splits)} networks"
    return f"Training {networks}, {count} epochs of {len(train)} bags: about {span}."


def num_workers(asked: int, device: torch.device, count: int) -> int:
    """Returns how many of ``count`` trainings go on at a time; 0 asks for one per processor, or one on a GPU."""
    return min(asked or (joblib.cpu_count() if device.type == "cpu" else 1), count)


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _train(
    bags: Sequence[np.ndarray],
    classes: np.ndarray,
    num_classes: int,
    split: np.ndarray,
    options: MilOptions,
    device: torch.device,
    is_alone: bool = False,
) -> BagScores:
    train, val = np.flatnonzero(split == "train"), np.flatnonzero(split == "val")

    def shown(epochs: Iterable[int]) -> Iterable[int]:
        return progress(epochs, options.epochs, "epoch") if is_alone else epochs

    trained = train_mil(bags, classes, num_classes, train, val, options, device, shown)
    asked = np.arange(len(bags)) if is_alone else np.flatnonzero(split != "train")
    scores, attention = np.full((len(bags), num_classes), np.nan), [np.zeros(0, np.float32)] * len(bags)
    scores[asked], weights = trained.predict(bags, asked.tolist())
    for position, values in zip(asked, weights, strict=True):
        attention[position] = values
    return BagScores(split, scores, attention, trained)
