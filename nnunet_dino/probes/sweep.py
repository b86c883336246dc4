"""The learning rate and the features of a linear layer, chosen on val."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from nnunet_dino._errors import UserError
from nnunet_dino.features.store.reader import TOKENS_OF, FeatureStore
from nnunet_dino.probes.evaluation import mean_auroc
from nnunet_dino.probes.given import GivenVectors
from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.options import LinearOptions
from nnunet_dino.reports import Table

# DINOv2 (github.com/facebookresearch/dinov2 at e1277af), eval/linear.py: multiplied by the batch over 256.
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
BATCH_OF_RATES = 256
FEATURES = ("class", "mean", "both", "class4", "both4")
AS_GIVEN = "as given"  # features that others made

Train = Callable[[np.ndarray, LinearOptions], np.ndarray]


@dataclass(frozen=True)
class Sweep:
    """What was chosen.

    Attributes:
        features: The name of the features.
        vectors: The features, ``n e``.
        options: With the learning rate.
        table: All that was tried.
    """

    features: str
    vectors: np.ndarray
    options: LinearOptions
    table: Table


def sweep_linear(store: FeatureStore | GivenVectors, labelled: Labelled, options: LinearOptions, train: Train) -> Sweep:
    """Trains a layer with every learning rate on all features that a store holds, and takes the one that is best on val.

    Args:
        store: The features.
        labelled: Labels with their parts.
        options: All but the learning rate.
        train: Takes features ``n e`` and options, trains on the training part, and returns the scores ``n c`` of all.

    Raises:
        UserError: There is no val part with both classes of a label.
    """
    val = labelled.split == "val"
    if not val.any() or not any(len(np.unique(labelled.targets[val][:, c])) > 1 for c in range(len(labelled.names))):
        raise UserError("--sweep: required a val part with both classes · got none · give a larger one with --fractions")

    def of_labelled(name: str) -> np.ndarray:
        ids, vectors = store.vectors(name)
        place = {name: row for row, name in enumerate(ids)}
        return vectors[[place[name] for name in labelled.ids]]

    num_steps = min(options.batch, int((labelled.split == "train").sum()))
    is_store = isinstance(store, FeatureStore)
    held = [name for name in FEATURES if set(TOKENS_OF[name]) <= set(store.facts.tokens)] if is_store else [AS_GIVEN]
    vectors_of = {name: of_labelled(name) for name in held}
    areas: dict[tuple[str, float], float] = {}
    for name, vectors in vectors_of.items():
        for rate in RATES:
            scaled = replace(options, lr=rate * num_steps / BATCH_OF_RATES)
            with torch.random.fork_rng(devices=[]):
                areas[name, rate] = mean_auroc(labelled.targets[val], train(vectors, scaled)[val])
    features, rate = max(areas, key=lambda pair: areas[pair])
    chosen = replace(options, lr=rate * num_steps / BATCH_OF_RATES)
    return Sweep(features, vectors_of[features], chosen, _table(areas, held, features, rate, num_steps))


def _table(areas: dict[tuple[str, float], float], held: list[str], features: str, rate: float, num_steps: int) -> Table:
    def cell(name: str, one: float) -> str:
        return f"{areas[name, one]:.3f}{' *' if (name, one) == (features, rate) else ''}"

    rows = [[f"{one * num_steps / BATCH_OF_RATES:.3g}", *(cell(name, one) for name in held)] for one in RATES]
    caption = "Mean AUROC on val; * was taken, and val therefore flatters. Test was not looked at."
    return Table("Learning rates and features", ["Learning rate", *held], rows, caption)
