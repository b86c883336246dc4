"""What is compared: results, pairs of them, and the images that they are shown on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from nnunet_dino.compare.case_names import volume_of
from nnunet_dino.compare.facts import Facts
from nnunet_dino.compare.kinds import Kind, kind_of
from nnunet_dino.compare.statistics import Difference


@dataclass(frozen=True, eq=False)
class Entry:
    """One result.

    Attributes:
        name: What the report calls it; unique.
        dice: One row per case (sorted), one column per label key; NaN where Dice is undefined. Of neurons one column per score.
        predictions: Folders that may hold the predicted segmentations, one file per case.
        file_ending: Ending of the segmentation files.
        label_names: Name of every label key.
        source: The folder it was read from.
        trainer: Trainer class; empty for a folder of predictions, as are plans, configuration and folds.
        plans: Plans name.
        configuration: Configuration.
        folds: Folds that were read, such as ``("0", "1")``.
        fold_of: Fold of every case, where it is known.
        facts: What training cost.
        notes: What a reader of the report must know about this result.
    """

    name: str
    dice: pd.DataFrame
    predictions: tuple[Path, ...]
    file_ending: str
    label_names: Mapping[str, str]
    source: Path
    trainer: str = ""
    plans: str = ""
    configuration: str = ""
    folds: tuple[str, ...] = ()
    fold_of: Mapping[str, str] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    notes: tuple[str, ...] = ()

    @property
    def identifier(self) -> str:
        """``TRAINER__PLANS__CONFIGURATION``, or the name of a folder."""
        return "__".join((self.trainer, self.plans, self.configuration)) if self.trainer else self.name

    @property
    def cases(self) -> list[str]:
        return list(self.dice.index)

    @property
    def kind(self) -> Kind:
        """What the numbers are."""
        return kind_of(self.dice.columns)

    @property
    def case_means(self) -> pd.Series:
        """Mean Dice of every case over its labels, without undefined ones; NaN for a case without any. Of neurons VOI sum."""
        return self.dice.mean(axis=1) if self.kind.headline is None else self.dice[self.kind.headline]

    @property
    def foreground_mean(self) -> float:
        """nnU-Net's own summary number: the mean over labels of the mean over cases; of neurons the mean VOI sum."""
        if self.kind.headline is not None:
            return float(self.case_means.mean())
        return float(self.dice.mean(axis=0).mean(skipna=False))

    def prediction(self, case: str) -> Path | None:
        """Returns the file of the predicted segmentation of ``case``, if there is one."""
        files = (folder / f"{volume_of(case)}{self.file_ending}" for folder in self.predictions)
        return next((file for file in files if file.is_file()), None)


@dataclass(frozen=True, eq=False)
class PairedComparison:
    """One result against its baseline.

    Attributes:
        entry: The result.
        baseline: What it is compared with.
        mean: Difference of the mean Dice per case.
        classes: Difference of the Dice of every label key.
        num_one_sided: Pairs of case and label in which only one of both Dice is defined: the label is absent from the
            reference and only one of both predicted some of it.
    """

    entry: Entry
    baseline: Entry
    mean: Difference
    classes: Mapping[str, Difference]
    num_one_sided: int

    @property
    def case_differences(self) -> pd.Series:
        """Difference of what stands for every case in which both are defined, worst first."""
        differences = (self.entry.case_means - self.baseline.case_means).dropna()
        return differences.sort_values(kind="stable", ascending=not self.entry.kind.lower_is_better)


@dataclass(frozen=True)
class Pictures:
    """The image and the reference segmentation of every case, as far as they are known.

    Attributes:
        images: First channel by case.
        references: Reference segmentation by case.
        missing: Why there are no images at all; None if there are some.
    """

    images: Mapping[str, Path]
    references: Mapping[str, Path]
    missing: str | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Results on the same cases, and how they differ.

    Attributes:
        title: What is compared, such as the data set's name.
        entries: All results, on the same cases in the same order.
        pairs: Every result that has a baseline, against it.
        label_names: Name of every label key.
        warnings: What a reader must know before the numbers.
        notes: What a reader may want to know.
        pictures: Images and references.
        ignore_label: Value of references where nothing counts.
    """

    title: str
    entries: Sequence[Entry]
    pairs: Sequence[PairedComparison]
    label_names: Mapping[str, str]
    warnings: Sequence[str]
    notes: Sequence[str]
    pictures: Pictures
    ignore_label: int | None = None

    @property
    def cases(self) -> list[str]:
        return self.entries[0].cases

    @property
    def kind(self) -> Kind:
        """What the numbers of all results are."""
        return self.entries[0].kind

    def pair_of(self, entry: Entry) -> PairedComparison | None:
        return next((pair for pair in self.pairs if pair.entry is entry), None)
