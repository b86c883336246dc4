"""Trains attention over bags with several settings on the same folds, and prints accuracy and AUROC of each.

    python benchmarks/mil_settings.py --bags musk1.npz --bags tiger.npz --planted --folds 10 \
        --setting "" --setting "dropout=0.5 relu=True lr=5e-5"

A setting is what differs from the defaults of ``probe mil``, by the names of :class:`nnunet_dino.probes.options.MilOptions`.
``--planted`` are 24 bags of 16 to 39 tiles in the colours of a stained slide, encoded by ``dinov3_tiny`` untrained; every
second bag has one tile with a dark disc. Every row is printed as soon as it is done: accuracy of the higher score over all
test bags, mean over repeats with its lowest and highest, mean AUROC over folds, epochs kept, how many trainings ended at the
limit, seconds of processor time.
"""

from __future__ import annotations

import argparse
import ast
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from nnunet_dino import load_backbone
from nnunet_dino.probes.bags import read_arrays
from nnunet_dino.probes.cross_validation import train_splits
from nnunet_dino.probes.fold_splits import fold_splits
from nnunet_dino.probes.labels import Labelled, no_split
from nnunet_dino.probes.options import FoldOptions, MilOptions, SplitOptions

PLANTED = "planted"
TILE_PX, DISC_PX = 112, 25


def planted(seed: int = 0) -> tuple[Sequence[np.ndarray], Labelled]:
    """Returns bags ``n e`` of tiles, every second with one that is marked, and their labels."""
    random = np.random.default_rng(seed)
    backbone = load_backbone("dinov3_tiny", weights="random")
    y, x = np.mgrid[:TILE_PX, :TILE_PX]
    bags = []
    for number in range(24):
        count = int(random.integers(16, 40))
        stain = np.array([0.85, 0.65, 0.80]) + random.normal(0, 0.02, 3)
        grain = random.normal(0, 1, (count, TILE_PX // 8, TILE_PX // 8, 1)).repeat(8, 1).repeat(8, 2)
        tiles = stain + 0.04 * grain
        if number % 2:
            row, column = random.integers(DISC_PX, TILE_PX - DISC_PX, 2)
            tiles[random.integers(count), (y - row) ** 2 + (x - column) ** 2 < DISC_PX**2] -= 0.35
        images = torch.from_numpy(tiles.clip(0, 1)).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            bags.append(backbone(images).patch_maps[-1].mean((2, 3)).float().numpy())
    ids = [f"bag {number}" for number in range(len(bags))]
    targets = (np.arange(len(bags)) % 2).astype(np.float32)[:, None]
    return bags, Labelled(ids, np.array(ids), (PLANTED,), targets, False, no_split(len(bags)))


def options_of(setting: str) -> MilOptions:
    """Returns the defaults with ``name=value`` pairs put in, values as Python writes them or as plain words."""
    pairs = dict(pair.split("=", 1) for pair in setting.split())
    return MilOptions(**{name: _value(name, text) for name, text in pairs.items()})


def _value(name: str, text: str):
    return text if isinstance(getattr(MilOptions, name), str) else ast.literal_eval(text)


def row(name: str, bags: Sequence[np.ndarray], labelled: Labelled, setting: str, cross: FoldOptions) -> str:
    """Returns a line of the table."""
    options, started = options_of(setting), time.process_time()
    splits, _ = fold_splits(labelled, cross, SplitOptions(), has_val=bool(options.patience))
    seeds = list(range(cross.folds)) * cross.repeats
    # one process, so that its processor time is all of it
    trained = train_splits(bags, labelled.classes, 2, splits, seeds, options, torch.device("cpu"), workers=1)
    tests = [(one.split == "test", one.scores[:, 1]) for one in trained]
    areas = [roc_auc_score(labelled.classes[test], scores[test]) for test, scores in tests]
    right = [int(((scores[test] > 0.5) == labelled.classes[test]).sum()) for test, scores in tests]
    accuracies = np.reshape(right, (cross.repeats, cross.folds)).sum(1) / len(labelled.ids)
    kept = [one.trained.num_epochs for one in trained]
    at_limit = [one.trained.num_passes for one in trained].count(options.epochs)
    return (
        f"| {name} | {setting or 'defaults'} | {accuracies.mean():.3f} | {accuracies.min():.3f} … {accuracies.max():.3f} | "
        f"{np.mean(areas):.3f} | {min(kept)} … {max(kept)} | {at_limit} of {len(kept)} | {time.process_time() - started:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bags", action="append", default=[], type=Path)
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--setting", action="append", default=[])
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    sets = [(file.stem, read_arrays(file), given.folds) for file in given.bags]
    sets += [(PLANTED, planted(), 3)] if given.planted else []
    columns = ("bags", "setting", "accuracy", "lowest and highest", "AUROC", "epochs kept", "at the limit", "s")
    print(f"| {' | '.join(columns)} |\n|---|---|{'--:|' * (len(columns) - 2)}")
    for setting in given.setting or [""]:
        for name, (bags, labelled), folds in sets:
            print(row(name, bags, labelled, setting, FoldOptions(folds, given.repeats)), flush=True)


if __name__ == "__main__":
    main()
