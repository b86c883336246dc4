"""What a reader must know before trusting a difference: other splits, lengths, optimisers or starts, random weights."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_dino.compare.facts import RANDOM
from nnunet_dino.compare.records import Entry


def split_warnings(pairs: Sequence[tuple[Entry, Entry]]) -> list[str]:
    """Names results whose cases were validated in other folds than the baseline's."""
    warnings = []
    for entry, baseline in pairs:
        ours, theirs = entry.fold_of, baseline.fold_of
        moved = [case for case in entry.cases if case in ours and case in theirs and ours[case] != theirs[case]]
        if moved:
            warnings.append(
                f"{entry.name} and {baseline.name} were trained with different splits: {len(moved)} case(s), such as "
                f"{moved[0]}, were validated in different folds, by models that saw different training cases."
            )
    return warnings


def training_warnings(pairs: Sequence[tuple[Entry, Entry]]) -> list[str]:
    """Names results trained for another time or by another optimiser than their baseline, and backbones not pretrained."""
    warnings = []
    for entry, baseline in pairs:
        lengths = [(e.facts.num_epochs, e.facts.num_iterations) for e in (entry, baseline)]
        if None not in (*lengths[0], *lengths[1]) and lengths[0] != lengths[1]:
            ours, theirs = (f"{epochs} epochs of {iterations} iterations" for epochs, iterations in lengths)
            warnings.append(f"{entry.name} and {baseline.name} were not trained equally long: {ours} against {theirs}.")
        optimizer, other = entry.facts.optimizer, baseline.facts.optimizer
        if optimizer and other and optimizer != other:
            warnings.append(
                f"{entry.name} was trained with {optimizer}, {baseline.name} with {other}: what differs is not the network "
                "alone."
            )
        starts = entry.facts.starts_at_class_frequencies, baseline.facts.starts_at_class_frequencies
        if None not in starts and starts[0] != starts[1]:
            early, late = (entry, baseline) if starts[0] else (baseline, entry)
            warnings.append(
                f"The output biases of {early.name} started at the class frequencies, those of {late.name} did not. In a short "
                "training that alone can decide; nnUNetTrainerPrior is the stock network with that start."
            )
    random = [entry.name for entry in dict.fromkeys(entry for pair in pairs for entry in pair) if entry.facts.weights == RANDOM]
    if random:
        warnings.append(
            f"Random weights: the backbone of {', '.join(random)} was not pretrained. Such a result shows that the parts fit "
            "together, not what DINOv3 adds."
        )
    return warnings


def device_notes(pairs: Sequence[tuple[Entry, Entry]]) -> list[str]:
    """Says which results were trained on which device, if not all on one."""
    devices = {entry.name: entry.facts.device for pair in pairs for entry in pair}
    if len({device for device in devices.values() if device}) < 2:
        return []
    listed = "; ".join(f"{name}: {device}" for name, device in devices.items() if device)
    return [f"Epoch times were measured on different devices ({listed}) and cannot be compared."]
