"""How much a probe learns from a few labelled inputs per class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nnunet_dino._errors import UserError
from nnunet_dino.probes.evaluation import mean_auroc
from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.options import ALL, FewShotOptions
from nnunet_dino.reports import Plot, Table
from nnunet_dino.reports.plot import Theme, themed


@dataclass(frozen=True)
class Shots:
    """What was learned from some number of inputs per class.

    Attributes:
        shots: Inputs of every class, or ``all``.
        num_train: Inputs trained on; of a cross-validation those of the last fold.
        areas: Mean AUROC on test, one per drawing and fold.
    """

    shots: str
    num_train: int
    areas: list[float]


def check_shots(labelled: Labelled, options: FewShotOptions) -> None:
    """Refuses what cannot be drawn, before any training.

    Raises:
        UserError: There are several labels, or fewer inputs of a class than are asked for.
    """
    if not options.numbers:
        return
    if len(labelled.names) > 1 and not labelled.is_exclusive:
        raise UserError(f"--shots: required one target · got {', '.join(labelled.names)}")
    counts = np.bincount(labelled.classes[labelled.split == "train"], minlength=max(2, len(labelled.names)))
    most = max((int(number) for number in options.numbers if number != ALL), default=1)
    if most > counts.min():
        raise UserError(f"--shots: required at most the {counts.min()} training inputs of the rarest class · got {most}")


def few_shot(
    labelled: Labelled,
    splits: Sequence[np.ndarray],
    fit: Callable[[np.ndarray, np.ndarray], np.ndarray],
    options: FewShotOptions,
) -> list[Shots]:
    """Trains on drawn inputs and ranks the test part, in every split.

    Args:
        labelled: Labels.
        splits: ``train``, ``val`` or ``test`` per input; several of a cross-validation.
        fit: Takes positions to train on and their split, and returns the scores ``n c`` of all inputs.
        options: How many, and how often they are drawn.
    """
    found = []
    for number in options.numbers:
        areas, rounds = [], range(1 if number == ALL else options.draws)
        for split in splits:
            drawn = [draw(labelled.with_split(split), number, options.seed + round) for round in rounds]
            test = split == "test"
            areas += [mean_auroc(labelled.targets[test], fit(chosen, split)[test]) for chosen in drawn]
        found.append(Shots(number, len(drawn[0]), areas))
    return found


def draw(labelled: Labelled, number: str, seed: int) -> np.ndarray:
    """Returns positions of ``number`` training inputs per class, of as many patients as there are."""
    train = np.flatnonzero(labelled.split == "train")
    if number == ALL:
        return train
    order = np.random.default_rng(seed).permutation(train)
    of_class, patients = labelled.classes[order], labelled.patients[order]
    turn = pd.DataFrame({"class": of_class, "patient": patients}).groupby(["class", "patient"]).cumcount().to_numpy()
    order = order[np.argsort(turn, kind="stable")]
    chosen = [order[labelled.classes[order] == one][: int(number)] for one in np.unique(of_class)]
    return np.sort(np.concatenate(chosen))


def few_shot_blocks(found: Sequence[Shots]) -> list[Table | Plot]:
    """Returns the curve as a table and as a plot."""
    rows = [
        [one.shots, str(one.num_train), str(len(one.areas)), *(f"{value:.3f}" for value in _spread(one.areas))] for one in found
    ]
    table = Table(
        "Few examples",
        ["Examples per class", "Training inputs", "Trainings", "AUROC on test, mean", "Lowest", "Highest"],
        rows,
        "Training inputs are drawn at random, first of different patients; the test part, of folds each one's, is the same.",
        in_terminal=True,
    )
    return [
        table,
        themed("few-shot", "Mean AUROC on test by the number of examples per class.", lambda theme: _draw(found, theme)),
    ]


def _spread(areas: Sequence[float]) -> tuple[float, float, float]:
    return float(np.mean(areas)), min(areas), max(areas)


def _draw(found: Sequence[Shots], theme: Theme) -> Figure:
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    places, means = range(len(found)), np.array([_spread(one.areas) for one in found])
    errors = [means[:, 0] - means[:, 1], means[:, 2] - means[:, 0]]
    axes.axhline(0.5, color=theme.faint, linewidth=1)
    axes.errorbar(places, means[:, 0], errors, color=theme.better, marker="o", linewidth=1.8, capsize=3)
    axes.set_xticks(list(places), [one.shots for one in found])
    axes.set(ylim=(min(0.45, means.min() - 0.05), 1.02), xlabel="Examples per class", ylabel="AUROC on test")
    axes.set_title("Mean over trainings, from the lowest to the highest", loc="left")
    return figure
