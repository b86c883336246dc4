"""Output biases that start at the class frequencies of the training cases.

Foreground is often below one voxel in a hundred. An output layer that starts at equal probabilities spends the first hundreds
of steps on learning just that; with these biases it knows it from the start. For an output layer of a detector this start was
proposed in Lin et al., Focal Loss for Dense Object Detection (arXiv 1708.02002), sec. 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from numpy.typing import NDArray
from torch import nn

from nnunet_dino._errors import UserError
from nnunet_dino.nnunet.pretrained import unwrap

RAREST = 1e-5
"""Frequency given to a class that is rarer than that, or missing in the training cases."""

MAX_CASES = 100


def start_at_class_frequencies(trainer: nnUNetTrainer) -> list[float]:
    """Sets the output biases of an initialised trainer's network from its training cases, and returns them.

    Every process of a distributed training counts the same cases and so sets the same biases.

    Raises:
        UserError: see :func:`prior_biases` and :func:`set_output_biases`.
    """
    training_cases, _ = trainer.do_split()
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, list(training_cases))
    biases = prior_biases(count_labels(dataset, trainer.label_manager), trainer.label_manager)
    set_output_biases(unwrap(trainer.network), biases)
    return biases


def count_labels(dataset: Any, labels: LabelManager) -> NDArray[np.int64]:
    """Counts the voxels of every label in preprocessed cases; of many cases, :data:`MAX_CASES` evenly spread ones.

    Args:
        dataset: nnU-Net's data set over the training cases.
        labels: Of the data set. Voxels with the ignore label do not count; those outside nnU-Net's mask are background.

    Returns:
        One number per value of ``labels.all_labels``.
    """
    cases = sorted(dataset.identifiers)
    if len(cases) > MAX_CASES:
        cases = [cases[i] for i in np.linspace(0, len(cases) - 1, MAX_CASES).round().astype(int)]
    num_values = max(labels.all_labels) + 1
    counts = np.zeros(num_values, np.int64)
    for case in cases:
        segmentation = dataset.load_case(case)[1]
        for d in range(segmentation.shape[1]):  # slice by slice: bincount makes eight bytes of each voxel
            values = np.asarray(segmentation[0, d]).astype(np.int16).clip(0).ravel()
            counts += np.bincount(values, minlength=num_values)[:num_values]
    return counts[labels.all_labels]


def prior_biases(counts: Sequence[int] | NDArray[np.int64], labels: LabelManager) -> list[float]:
    """Returns one bias per segmentation head, so that an output layer of zero weights predicts the frequencies.

    Args:
        counts: Voxels per value of ``labels.all_labels``.
        labels: Heads are labels under a softmax, or regions under a sigmoid each.

    Raises:
        UserError: no voxel was counted.
    """
    total = float(np.sum(counts))
    if total == 0:
        raise UserError("class prior: required training cases with labelled voxels · got none · check labelsTr and the split")
    frequency = {label: count / total for label, count in zip(labels.all_labels, counts, strict=True)}
    if not labels.has_regions:
        return np.log(np.maximum(list(frequency.values()), RAREST)).tolist()
    regions = [region if isinstance(region, tuple | list) else (region,) for region in labels.foreground_regions]
    present = np.array([sum(frequency[label] for label in region) for region in regions]).clip(RAREST, 1 - RAREST)
    return (np.log(present) - np.log1p(-present)).tolist()


def set_output_biases(network: nn.Module, biases: Sequence[float]) -> None:
    """Sets the biases of all output layers of ``network``, those of deep supervision too.

    Raises:
        UserError: the network's output layers are not where nnU-Net's and this package's networks have them.
    """
    layers = getattr(getattr(network, "decoder", None), "seg_layers", ())
    if not layers or any(layer.bias is None or len(layer.bias) != len(biases) for layer in layers):
        raise UserError(
            f"class prior: required a network with {len(biases)} output biases in decoder.seg_layers · "
            f"got {type(network).__name__} · use a trainer without prior"
        )
    with torch.no_grad():
        for layer in layers:
            layer.bias.copy_(torch.tensor(biases))
