"""What a probe can be asked: the records, whose fields are the options of the command line, with default, limits and meaning.

Raises everywhere:
    UserError: A value is outside its limits or none of the words that are known.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any

from nnunet_dino._errors import UserError, nearest

OPTIMIZERS: dict[str, tuple[str, dict[str, float]]] = {
    "adamw": ("AdamW", {}),
    "adam": ("Adam", {}),
    "sgd": ("SGD", {"momentum": 0.9}),
}
"""Class of ``torch.optim``, and what it is given beside learning rate and weight decay."""

GATED, ATTENTION, MEAN, MAX, CLAM_SB = "gated", "attention", "mean", "max", "clam-sb"
AGGREGATORS = {
    GATED: "gated attention",
    ATTENTION: "attention",
    MEAN: "mean over instances",
    MAX: "largest value of every feature",
    CLAM_SB: "gated attention with CLAM's loss of single instances (CLAM-SB)",
}
NUM_NEIGHBOURS = (5, 10, 20, 50, 100, 200)
BY_PATIENT, RSNA = "patients", "rsna-mgca"
HALF, YOUDEN, CORNER = "0.5", "youden", "corner"
NO_FINDING = "No Finding"
DROP, POSITIVE, NEGATIVE = "drop", "positive", "negative"
MAX_SEED = 2**31 - 1
ALL = "all"
LBFGS = "lbfgs"
SEED = (0, "--seed", "Of parts, training and bootstrap.")
OVERWRITE = (False, "--overwrite", "Write into a folder that holds files; replaces those of an earlier report.", None)


def option(default: Any, flag: str, meaning: str, metavar: str | None = "N", **limits: Any) -> Any:
    """Returns a field that is an option of the command line as well.

    Args:
        default: Of both; ``MISSING`` where a value has to be given.
        flag: As it is typed; two with a slash between them for yes and no.
        meaning: For the help.
        metavar: Stands for the value in the help; None for switches.
        limits: ``least``, ``above``, ``most``, ``below``, as :func:`check_number` takes them; or ``known``, words; or
            ``multiple``, whether it may be given several times.
    """
    return field(default=default, metadata={"flag": flag, "meaning": meaning, "metavar": metavar, **limits})


def check(record: Any) -> None:
    """Refuses values that are outside the limits of their fields."""
    for each in fields(record):
        flag, value = each.metadata.get("flag", ""), getattr(record, each.name)
        known = each.metadata.get("known")
        if known and value not in known:
            raise UserError(f"{flag}: required one of {', '.join(filter(None, known))} · got {value!r}{nearest(value, known)}")
        limits = {name: each.metadata[name] for name in ("least", "above", "most", "below") if name in each.metadata}
        if limits:
            check_number(flag, value, **limits)


def check_number(
    flag: str,
    value: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuses a number that is not finite or outside its range, whose ends belong to it or do not (``above``, ``below``)."""
    pairs = (("from", least, ge), ("above", above, gt), ("to", most, le), ("below", below, lt))
    bounds = [(word, bound, holds) for word, bound, holds in pairs if bound is not None]
    if not math.isfinite(value) or not all(holds(value, bound) for _, bound, holds in bounds):
        words = " ".join(f"{word} {bound:,}" for word, bound, _ in bounds)
        raise UserError(f"{flag}: required a number {words} · got {value:g}")


def whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    """Reads whole numbers from 1 with commas between them; an empty text has none."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"{flag}: required whole numbers from 1, with commas · got {text!r}")
    return tuple(int(part) for part in parts)


@dataclass(frozen=True)
class LabelColumns:
    """Which columns of a CSV file mean what; ``separator``, ``negative`` and ``uncertain`` say how cells are read."""

    file: Path = option(MISSING, "--labels", "CSV file with a row per input.", "FILE")
    targets: tuple[str, ...] = option(MISSING, "--target", "Classes, or 0 and 1; may repeat.", "COLUMN", multiple=True)
    patient: str = option(MISSING, "--patient", "Whose the inputs are.", "COLUMN")
    id: str | None = option(None, "--id", "Names of the inputs; default: id, path, file …", "COLUMN")
    split: str | None = option(None, "--split", "train, val and test; default: parts are made.", "COLUMN")
    separator: str | None = option(None, "--separator", "Between labels in one cell, for example '|'.", "TEXT")
    negative: str = option(NO_FINDING, "--negative", "No label, in such a cell or of two words.", "TEXT")
    uncertain: str = option(
        "", "--uncertain", "-1 beside 0 and 1: drop, positive or negative.", "HOW", known=(DROP, POSITIVE, NEGATIVE, "")
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class SplitOptions:
    """Where the parts come from if the label file does not say; ``fractions`` are of patients."""

    rule: str = option(BY_PATIENT, "--make-split", "patients, rsna-mgca.", "HOW", known=(BY_PATIENT, RSNA))
    fractions: tuple[float, ...] = option((0.7, 0.1, 0.2), "--fractions", "Of patients in the parts.", "A,B,C")
    val_fraction: float = option(0.1, "--val-fraction", "Of train, where there is no val.", "F", least=0, below=1)
    seed: int = option(*SEED, least=0, most=MAX_SEED)

    def __post_init__(self) -> None:
        check(self)
        if len(self.fractions) != 3 or not abs(sum(self.fractions) - 1) < 1e-6 or min(self.fractions) < 0:
            got = ", ".join(f"{fraction:g}" for fraction in self.fractions)
            raise UserError(f"--fractions: required three numbers from 0 that add up to 1 · got {got}")


@dataclass(frozen=True)
class EvaluationOptions:
    """How scores are turned into decisions, and how sure the numbers are."""

    rule: str = option(YOUDEN, "--threshold", "0.5, youden or corner.", "RULE", known=(HALF, YOUDEN, CORNER))
    tuned_on: str = option("val", "--threshold-on", "val; test flatters.", "PART", known=("val", "test"))
    num_rounds: int = option(1000, "--rounds", "Bootstrap rounds.", least=1)
    seed: int = option(*SEED, least=0, most=MAX_SEED)

    def __post_init__(self) -> None:
        check(self)

    @property
    def needs_val(self) -> bool:
        """Whether thresholds are chosen on a ``val`` part."""
        return self.rule != HALF and self.tuned_on == "val"

    @property
    def words(self) -> str:
        return "0.5" if self.rule == HALF else f"{self.rule}, tuned on {self.tuned_on}"


@dataclass(frozen=True)
class Request:
    """What every probe is asked.

    Attributes:
        store: Folder of the features; for attention also an ``.npz`` file of bags.
        columns: Where the labels are; None if the store itself holds them.
        splitting: Where the parts come from.
        evaluation: How scores are evaluated.
        device: Where to compute.
        command: The command line, for the report.
    """

    store: str
    columns: LabelColumns | None
    splitting: SplitOptions
    evaluation: EvaluationOptions
    device: str
    command: str
    output: str = option(MISSING, "-o", "Folder for the report.", "PATH")
    overwrite: bool = option(*OVERWRITE)
    features: str = option("both", "--features", "class, mean, both, class4 or both4.", "WHICH")

    def __post_init__(self) -> None:
        if not self.output.strip():
            raise UserError(f"-o: required a folder for the report · got {self.output!r}")

    @property
    def label_columns(self) -> LabelColumns:
        """Where the labels are, for features that come without."""
        if self.columns is None:
            raise UserError(f"--labels: required with --target and --patient for {self.store} · got none")
        return self.columns


@dataclass(frozen=True)
class LinearOptions:
    """How a linear layer is trained."""

    lr: float = option(0.005, "--lr", "Learning rate.", "RATE", above=0)
    sweep: bool = option(
        False, "--sweep", "13 learning rates and all features of the store; the best mean AUROC on val is taken.", None
    )
    batch: int = option(1024, "--batch", "Inputs per step.", least=1)
    epochs: int = option(50, "--epochs", "Passes over train.", least=1)
    optimizer: str = option(
        "adamw", "--optimizer", "adamw, adam, sgd; lbfgs: logistic regression.", "NAME", known=(*OPTIMIZERS, LBFGS)
    )
    l2: float = option(1.0, "--l2", "Of lbfgs: squared weights beside the summed loss.", "W", above=0)
    weight_decay: float = option(0.0, "--weight-decay", "Of the optimizer.", "W", least=0)
    schedule: str = option("constant", "--schedule", "constant or cosine.", "NAME", known=("constant", "cosine"))
    keep: str = option("last", "--keep", "last epoch, or best by the loss on val.", "WHICH", known=("last", "best"))
    standardise: bool = option(False, "--standardise", "Zero mean and unit variance of every feature, by train.", None)
    seed: int = option(*SEED, least=0, most=MAX_SEED)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class FewShotOptions:
    """Numbers of training inputs per class of which a curve is drawn."""

    shots: str = option("", "--shots", "Curve over examples per class, 1,5,10,20,all for example.", "N,N…")
    draws: int = option(5, "--draws", "Of such examples.", least=1)
    seed: int = option(*SEED, least=0, most=MAX_SEED)

    def __post_init__(self) -> None:
        check(self)
        whole_numbers("--shots", ",".join(number for number in self.numbers if number != ALL))

    @property
    def numbers(self) -> list[str]:
        return [part.strip() for part in self.shots.split(",") if part.strip()]


@dataclass(frozen=True)
class KnnOptions:
    """How neighbours vote; ``numbers`` are values of ``k``."""

    numbers: str = option(",".join(map(str, NUM_NEIGHBOURS)), "-k", "Numbers of neighbours.", "K,K…")
    temperature: float = option(0.07, "--temperature", "Of the softmax votes.", "T", least=1e-4)
    leave_one_out: bool = option(False, "--leave-one-out", "No parts: every input against those of all other patients.", None)

    def __post_init__(self) -> None:
        check(self)
        if not self.num_neighbours:
            raise UserError("-k: required at least one number of neighbours · got none")

    @property
    def num_neighbours(self) -> list[int]:
        return sorted(set(whole_numbers("-k", self.numbers)))


@dataclass(frozen=True)
class MilOptions:
    """The network over bags, and how it is trained.

    Training stops after ``patience`` epochs without a better loss on ``val``, but not before ``min_epochs``, and keeps the best
    epoch; with 0 it trains all epochs and keeps the last. Bags of a step that are shorter than the longest are filled up.
    """

    aggregator: str = option(GATED, "--aggregator", "gated, attention, mean, max or clam-sb.", "NAME", known=AGGREGATORS)
    projection: str = option("512", "--projection", "Widths of the projection.", "N,N…")
    attention: int = option(256, "--attention", "Width of the gated attention.", least=1)
    relu: bool = option(True, "--relu/--linear", "A ReLU after every layer of the projection, or none.", None)
    dropout: float = option(0.25, "--dropout", "After every layer of the projection.", "RATE", least=0, below=1)
    optimizer: str = option("adam", "--optimizer", "adam, adamw or sgd.", "NAME", known=OPTIMIZERS)
    lr: float = option(2e-4, "--lr", "Learning rate.", "RATE", above=0)
    weight_decay: float = option(1e-5, "--weight-decay", "Of the optimizer.", "W", least=0)
    epochs: int = option(200, "--epochs", "At most.", least=1)
    patience: int = option(20, "--patience", "Epochs without progress on val; 0: train all.", least=0)
    min_epochs: int = option(50, "--min-epochs", "Before it may stop.", least=0)
    bags: int = option(1, "--bags", "Bags per step.", least=1)
    balanced: bool = option(True, "--balanced/--every-bag", "Classes equally often, or every bag once.", None)
    standardise: bool = option(
        True, "--standardise/--as-they-are", "Zero mean and unit variance of every feature, by the training bags.", None
    )
    seed: int = option(*SEED, least=0, most=MAX_SEED)

    def __post_init__(self) -> None:
        check(self)
        whole_numbers("--projection", self.projection)

    @property
    def widths(self) -> tuple[int, ...]:
        return whole_numbers("--projection", self.projection)

    @property
    def network(self) -> dict[str, Any]:
        """How :class:`~nnunet_dino.probes.mil.AttentionMIL` is built, beside the widths of features and outputs."""
        built = {"projection": self.widths, "attention": self.attention}
        return {**built, "has_relu": self.relu, "dropout": self.dropout, "aggregator": self.aggregator}


@dataclass(frozen=True)
class FoldOptions:
    """Cross-validation: every one of ``folds`` parts is test once; 0 for the split instead."""

    folds: int = option(0, "--folds", "Cross-validation instead of one split.")
    repeats: int = option(1, "--repeats", "How often, with other folds.")

    def __post_init__(self) -> None:
        check(self)
        if self.folds == 1 or self.folds < 0:
            raise UserError(f"--folds: required 0 or a number from 2 · got {self.folds}")
        if self.repeats < 1 or (self.repeats > 1 and not self.folds):
            raise UserError(f"--repeats: required a number from 1, and --folds with more than 1 · got {self.repeats}")


@dataclass(frozen=True)
class MilFolds(FoldOptions):
    """Cross-validation whose trainings run at the same time."""

    workers: int = option(0, "--workers", "Trainings at a time; 0: one per processor.", least=0)
