"""Scores of a probe, judged on the parts of a split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_dino._errors import UserError
from nnunet_dino.probes.labels import Labelled
from nnunet_dino.probes.metrics import Metrics, evaluate
from nnunet_dino.probes.thresholds import HALF, check_rule, threshold_by


@dataclass(frozen=True)
class Judging:
    """How scores are turned into decisions, and how sure the numbers are.

    Attributes:
        rule: See :func:`nnunet_dino.probes.thresholds.threshold_by`.
        tuned_on: Part on which the rule chooses thresholds: ``val``, or ``test``, which flatters.
        num_rounds: Bootstrap rounds.
        seed: Of the bootstrap.

    Raises:
        UserError: A value is none of these.
    """

    rule: str = "youden"
    tuned_on: str = "val"
    num_rounds: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_rule(self.rule)
        if self.tuned_on not in ("val", "test"):
            raise UserError(f"--threshold-on: required val or test · got {self.tuned_on!r}")
        if self.num_rounds < 1:
            raise UserError(f"--rounds: required a number from 1 · got {self.num_rounds}")

    @property
    def words(self) -> str:
        """The rule in words."""
        return "0.5" if self.rule == HALF else f"{self.rule}, tuned on {self.tuned_on}"


@dataclass(frozen=True)
class Judged:
    """One part of a split with its scores.

    Attributes:
        part: ``val`` or ``test``.
        targets: ``n c``.
        scores: ``n c``.
        metrics: What they are worth.
        untuned: Labels whose threshold is 0.5 because the part to tune on has one class of them only.
    """

    part: str
    targets: np.ndarray
    scores: np.ndarray
    metrics: Metrics
    untuned: list[str]


def judge(labelled: Labelled, scores: np.ndarray, judging: Judging) -> dict[str, Judged]:
    """Judges scores of all inputs on ``val``, if there is one, and on ``test``.

    Args:
        labelled: With its split.
        scores: ``n c`` for all inputs.
        judging: How.

    Raises:
        UserError: The rule needs a part that is not there, or no label of the test part has two classes.
    """
    tuning = labelled.split == judging.tuned_on
    thresholds, untuned = None, []
    if not labelled.is_exclusive:
        if judging.rule != HALF and not tuning.any():
            raise UserError(f"--threshold {judging.rule}: required a {judging.tuned_on} part · got none · use --threshold 0.5")
        columns = range(len(labelled.names))
        chosen = [threshold_by(judging.rule, labelled.targets[tuning, c], scores[tuning, c]) for c in columns]
        thresholds = np.array(chosen)
        if judging.rule != HALF:
            untuned = [labelled.names[c] for c in columns if len(np.unique(labelled.targets[tuning, c])) < 2]
    judged = {}
    for part in ("val", "test"):
        here = labelled.split == part
        if not here.any():
            continue
        metrics = evaluate(
            labelled.names,
            labelled.targets[here],
            scores[here],
            labelled.patients[here],
            thresholds,
            judging.seed,
            judging.num_rounds,
        )
        judged[part] = Judged(part, labelled.targets[here], scores[here], metrics, untuned)
    test = judged["test"].metrics
    if len(test.single_class) == len(test.labels):
        raise UserError(
            f"test: required both classes of at least one label · got one class only of {', '.join(test.single_class)}"
        )
    return judged


def refuse_single_class(labelled: Labelled) -> list[str]:
    """Returns the labels of which the training part has one class only.

    Raises:
        UserError: It is so for all of them: nothing could be learned.
    """
    train = labelled.targets[labelled.split == "train"]
    single = [name for c, name in enumerate(labelled.names) if len(np.unique(train[:, c])) < 2]
    if len(single) == len(labelled.names):
        raise UserError(f"train: required both classes of at least one label · got one class only of {', '.join(single)}")
    return single
